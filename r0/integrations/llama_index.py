"""``R0Rerank``: a node postprocessor for LlamaIndex, such as for the ``node_postprocessors`` of a query engine."""

from __future__ import annotations

from typing import Any

from r0.integrations.in_process import InProcess, Ranked, missing
from r0.rerank import Reranker

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise missing("r0.integrations.llama_index", "llama-index-core") from error


class R0Rerank(BaseNodePostprocessor):
    """Orders nodes with r0, in this process.

    Args:
        model: a model folder, a name on the Hugging Face Hub, r0-tiny, or an open ``Reranker``; loaded when it is first used.
        top_n: number of nodes to keep; None for all.
        settings: other arguments of ``Reranker``, such as ``{"method": "pointwise"}``.
    """

    model: str | Reranker = Field(exclude=True)
    top_n: int | None = Field(default=None, ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    _reranker: InProcess = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Check the arguments; no model is loaded."""
        super().model_post_init(context)
        self._reranker = InProcess(self.model, self.settings)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows the class."""
        return "R0Rerank"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("query_bundle: a reranker needs the query; give query_bundle or query_str")
        query = query_bundle.query_str
        payload = {EventPayload.NODES: nodes, EventPayload.MODEL_NAME: self._reranker.name, EventPayload.QUERY_STR: query}
        with self.callback_manager.event(CBEventType.RERANKING, payload={**payload, EventPayload.TOP_K: self.top_n}) as event:
            texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
            kept = [_scored(nodes[one.position], one) for one in self._reranker.rank(query, texts, self.top_n)]
            event.on_end(payload={EventPayload.NODES: kept})
        return kept

    def close(self) -> None:
        """Release the model, unless it was given open."""
        self._reranker.close()


def _scored(node: NodeWithScore, ranked: Ranked) -> NodeWithScore:
    """A node with its score. A thought is in the metadata of a copy, and neither embedded nor shown to a language model."""
    inner = node.node
    if ranked.thought:
        hidden = {
            name: [*getattr(inner, name), "thought"] for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
        }
        inner = inner.model_copy(update={"metadata": {**inner.metadata, "thought": ranked.thought}, **hidden})
    return NodeWithScore(node=inner, score=ranked.score)

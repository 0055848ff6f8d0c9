"""``R0Rerank``: a document compressor for LangChain, such as for its ``ContextualCompressionRetriever``."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from pydantic import ConfigDict, Field, PrivateAttr

from r0.integrations.in_process import InProcess, missing
from r0.rerank import Reranker

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
except ImportError as error:
    raise missing("r0.integrations.langchain", "langchain-core") from error


class R0Rerank(BaseDocumentCompressor):
    """Orders documents with r0, in this process.

    Args:
        model: a model folder, a name on the Hugging Face Hub, r0-tiny, or an open ``Reranker``; loaded when it is first used.
        top_n: number of documents to keep; None for all.
        settings: other arguments of ``Reranker``, such as ``{"method": "pointwise"}``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str | Reranker
    top_n: int | None = Field(default=None, ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    _reranker: InProcess = PrivateAttr()

    def model_post_init(self, _: Any) -> None:
        """Check the arguments; no model is loaded."""
        self._reranker = InProcess(self.model, self.settings)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Copies of the best documents, best first, with ``relevance_score`` and, if there is one, ``thought`` in their metadata.

        Raises:
            UserError: the model cannot be used, or the query is too long.
        """
        kept = []
        for one in self._reranker.rank(query, [document.page_content for document in documents], self.top_n):
            document = documents[one.position]
            more = {"relevance_score": one.score} | ({"thought": one.thought} if one.thought else {})
            kept.append(document.model_copy(update={"metadata": {**deepcopy(document.metadata), **more}}))
        return kept

    def close(self) -> None:
        """Release the model, unless it was given open."""
        self._reranker.close()

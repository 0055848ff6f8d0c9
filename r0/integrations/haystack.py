"""``R0Ranker``: a ranker component for Haystack's pipelines."""

from dataclasses import replace
from typing import Any

from r0.integrations.in_process import InProcess, missing
from r0.rerank import Reranker

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise missing("r0.integrations.haystack", "haystack-ai") from error


@component
class R0Ranker:
    """Orders documents with r0, in this process.

    Args:
        model: a model folder, a name on the Hugging Face Hub, r0-tiny, or an open ``Reranker``. It is loaded by ``warm_up``,
            which a pipeline calls.
        top_k: number of documents to keep; None for all.
        settings: other arguments of ``Reranker``, such as ``{"method": "pointwise"}``.

    Raises:
        ValueError: ``top_k`` is below 1, or settings are given with a ``Reranker``.
    """

    def __init__(self, model: str | Reranker, top_k: int | None = None, settings: dict[str, Any] | None = None):
        self._reranker = InProcess(model, settings or {})
        self.model, self.top_k, self.settings = model, _checked(top_k), settings or {}

    def warm_up(self) -> None:
        """Load the model.

        Raises:
            UserError: the model cannot be used.
        """
        self._reranker.load()

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """The best documents under ``documents``, best first, with their scores and, if there is one, ``thought`` in ``meta``.

        Raises:
            UserError: the model cannot be used, or the query is too long.
            ValueError: ``top_k`` is below 1.
        """
        most = self.top_k if top_k is None else _checked(top_k)
        kept = []
        for one in self._reranker.rank(query, [document.content or "" for document in documents], most):
            document = documents[one.position]
            thought = {"thought": one.thought} if one.thought else {}
            kept.append(replace(document, score=one.score, meta={**document.meta, **thought}))
        return {"documents": kept}

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack stores it.

        Raises:
            ValueError: the model is an open ``Reranker``, which cannot be stored.
        """
        if isinstance(self.model, Reranker):
            raise ValueError("model: an open Reranker cannot be stored with a pipeline; give the model's folder or name")
        return default_to_dict(self, model=self.model, top_k=self.top_k, settings=self.settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "R0Ranker":
        """The component that was stored."""
        return default_from_dict(cls, data)

    def close(self) -> None:
        """Release the model, unless it was given open."""
        self._reranker.close()


def _checked(top_k: int | None) -> int | None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: must be at least 1, not {top_k}")
    return top_k

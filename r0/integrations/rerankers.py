"""``R0Ranker``: a ranker for AnswerDotAI's rerankers, with the interface of those that its ``Reranker`` function returns."""

from __future__ import annotations

from typing import Any

from r0.integrations.in_process import InProcess, missing
from r0.rerank import Reranker

try:
    from rerankers.documents import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
    from rerankers.utils import prep_docs
except ImportError as error:
    raise missing("r0.integrations.rerankers", "rerankers") from error


class R0Ranker(BaseRanker):
    """Orders documents with r0, in this process.

    Args:
        model_name_or_path: a model folder, a name on the Hugging Face Hub, r0-tiny, or an open ``Reranker``; loaded when it is
            first used.
        verbose: has no effect; r0 prints nothing here.
        settings: other arguments of ``Reranker``, such as ``method="pointwise"``.
    """

    ranking_type = "listwise"

    def __init__(self, model_name_or_path: str | Reranker, verbose: int = 1, **settings: Any):
        self._reranker, self.verbose = InProcess(model_name_or_path, settings), verbose

    def rank(
        self,
        query: str,
        docs: str | list[str] | Document | list[Document],
        doc_ids: list[str] | list[int] | None = None,
        metadata: list[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """All documents, best first. A thought is in the metadata of a document's copy.

        Raises:
            UserError: the model cannot be used, or the query is too long.
            TypeError: a document is an image.
        """
        documents = prep_docs(docs, doc_ids, metadata) if docs else []
        found = self._reranker.rank(query, [document.text for document in documents], None)
        results = [
            Result(_with_thought(documents[one.position], one.thought), one.score, place) for place, one in enumerate(found, 1)
        ]
        return RankedResults(results, query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        """P(yes) of one document on its own, whatever the method; encoders have their own scale.

        Raises:
            UserError: the model cannot be used, or the query is too long.
        """
        return self._reranker.score(query, doc)

    def close(self) -> None:
        """Release the model, unless it was given open."""
        self._reranker.close()


def _with_thought(document: Document, thought: str) -> Document:
    if not thought:
        return document
    return Document(document.text, document.doc_id, {**document.metadata, "thought": thought})

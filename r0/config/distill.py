"""Keys of a teacher's scores, the first step of distillation."""

from __future__ import annotations

from r0.config.commands import OutputKeys
from r0.config.ranking import RankingKeys, ScoringKeys
from r0.config.sections import Count, key


class ScoreConfig(OutputKeys, ScoringKeys):
    """A teacher's raw logit for every query and document of labelled data."""

    data: str = key(
        "builtin", "`builtin` (lists of the built-in task), or a JSONL file, also packed (.jsonl.gz): {query, positive, "
        "negative} with lists of texts, as MTEB's reranking sets, or {query, hits: [{content, label}]}"
    )  # fmt: skip
    builtin_rows: Count = key(500, "lists generated for data=builtin")
    skip_bad: bool = key(False, "leave bad lines out, and queries too long for the teacher without scores; count, list, go on")

    def ranking(self, documents: int = 1) -> RankingKeys:
        """The keys of a reranker that judges one by one; ``documents`` is how many a query has, about."""
        own = {name: getattr(self, name) for name in ScoringKeys.model_fields if name != "model_preset"}
        return RankingKeys(method="pointwise", depth=documents, **own)

"""Keys of scoring with a teacher, the first step of distillation."""

from __future__ import annotations

from r0.config.commands import OutputKeys
from r0.config.ranking import RankingKeys, ScoringKeys
from r0.config.sections import Count, key
from r0.config.types import DataText


class ScoreConfig(OutputKeys, ScoringKeys):
    """Compute a teacher's raw logit for each query and document of labelled data."""

    data: DataText = key(
        "builtin", "`builtin` (lists of the built-in task), or a JSONL file, plain or gzipped (.jsonl.gz): {query, positive, "
        "negative} with lists of texts, as in MTEB's reranking sets, or {query, hits: [{content, label}]}"
    )  # fmt: skip
    builtin_rows: Count = key(500, "number of lists generated for data=builtin")
    skip_bad: bool = key(False, "skip bad lines, leave queries too long for the teacher unscored; count and list both")

    def ranking(self, documents: int = 1) -> RankingKeys:
        """The keys of a pointwise reranker; ``documents`` is the approximate number of documents per query."""
        own = {name: getattr(self, name) for name in ScoringKeys.model_fields if name != "model_preset"}
        return RankingKeys(method="pointwise", depth=documents, **own)

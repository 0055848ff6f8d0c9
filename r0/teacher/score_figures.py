"""Statistics of a teacher's scores against the labels, and of the cost of scoring."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from r0.data.scored import ScoredList
from r0.ranking import groups_of, ndcg
from r0.rerank.session import Session
from r0.runs.live import duration
from r0.storage.resumable_jsonl import Row

CUTOFF = 10
LISTED = 10  # refused queries that are listed


@dataclass
class Figures:
    """Sums over scored lists."""

    queries: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    failures: dict[str, int] = field(default_factory=dict)  # documents by the name of what failed
    refused: list[str] = field(default_factory=list)  # the sentences
    unscored: int = 0
    relevant: list[float] = field(default_factory=list)  # scores of documents with a label above 0
    others: list[float] = field(default_factory=list)
    ndcg: list[float] = field(default_factory=list)  # one per query
    auc: list[float] = field(default_factory=list)

    def add(self, one: ScoredList, row: Row) -> None:
        """Count one list, and the costs in its line of ``queries.jsonl``."""
        self.queries += 1
        self.prompt_tokens += row["prompt_tokens"]
        self.new_tokens += row["new_tokens"]
        for name, count in row["failures"].items():
            self.failures[name] = self.failures.get(name, 0) + count
        if row["refused"]:
            self.refused.append(f"{one.place}: {row['refused']}")
        known = [(place, score) for place, score in enumerate(one.scores) if score is not None]
        self.unscored += len(one.scores) - len(known)
        for place, score in known:
            (self.relevant if one.labels[place] > 0 else self.others).append(score)
        order = tuple(tuple(known[i][0] for i in group) for group in groups_of([score for _, score in known]))
        self.ndcg.append(ndcg(one.labels, order, CUTOFF))
        share = auc([one.labels[place] for place, _ in known], [score for _, score in known])
        self.auc += [] if share is None else [share]

    @property
    def pairs(self) -> int:
        """Number of (query, document) pairs."""
        return len(self.relevant) + len(self.others) + self.unscored

    def values(self, session: Session) -> dict[str, float | int | None]:
        """The figures for ``summary.json``; a mean over nothing is None."""
        tokens = session.prompt_tokens + session.new_tokens
        rates = (session.documents / session.seconds, tokens / session.seconds) if session.seconds else (None, None)
        return {
            "queries": self.queries,
            "pairs": self.pairs,
            "unscored": self.unscored,
            "refused": len(self.refused),
            "mean_score_relevant": _mean(self.relevant),
            "mean_score_others": _mean(self.others),
            f"ndcg@{CUTOFF}": _mean(self.ndcg),
            "auc": _mean(self.auc),
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "pairs_a_second": rates[0],
            "tokens_a_second": rates[1],
        }

    def report(self, session: Session) -> str:
        """The figures as a table."""
        pairs = max(1, self.pairs)
        rows = [
            ("queries", f"{self.queries:,}"),
            ("pairs of query and document", f"{self.pairs:,}"),
            ("  without a score (null)", f"{self.unscored:,}  ({self.unscored / pairs:.1%})"),
            *((f"    {name}", f"{count:,}") for name, count in sorted(self.failures.items(), key=lambda one: (-one[1], one[0]))),
            ("mean score, relevant documents", _shown(_mean(self.relevant), "+.3f")),
            ("mean score, other documents", _shown(_mean(self.others), "+.3f")),
            (f"nDCG@{CUTOFF} by score, mean over queries", _shown(_mean(self.ndcg), ".4f")),
            ("AUC within a query, mean over queries", _shown(_mean(self.auc), ".4f")),
            ("tokens a pair, read + written", f"{self.prompt_tokens / pairs:,.0f} + {self.new_tokens / pairs:,.0f}"),
        ]
        if session.seconds:
            rate = session.documents / session.seconds
            tokens = (session.prompt_tokens + session.new_tokens) / session.seconds
            rows.append(("pairs a second", f"{rate:,.1f}  ({session.documents:,} in {duration(session.seconds)})"))
            rows.append(("tokens a second", f"{tokens:,.0f}"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if self.refused:
            lines.append(f"{len(self.refused)} queries could not be shown to the teacher:")
            lines += [f"  {sentence}" for sentence in self.refused[:LISTED]]
        return "\n".join(lines)


def auc(labels: list[float], scores: list[float]) -> float | None:
    """Share of the pairs with different labels in which the higher label has the higher score (equal scores count half); None
    without pairs.

    With two labels this is the area under the ROC curve (Hanley & McNeil, 1982).
    """
    label_N, score_N = np.array(labels), np.array(scores)
    above_NN = label_N[:, None] > label_N[None, :]
    if not above_NN.any():
        return None
    right_NN = (score_N[:, None] > score_N[None, :]) + 0.5 * (score_N[:, None] == score_N[None, :])
    return float(right_NN[above_NN].mean())


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)

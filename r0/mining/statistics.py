"""Statistics of mining, with one column per epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from r0.mining.select import Dropped, Hit, Selected

_DROPPED = "dropped in the ranks: "


class Statistics:
    """Sums over the queries of one epoch.

    Args:
        ranks: the configured range of ranks.
        wanted: configured number of negatives per query.
    """

    def __init__(self, ranks: str, wanted: int):
        self._ranks, self._wanted = ranks, wanted
        self._numbers: list[int] = []  # number of negatives of each query
        self._queries, self._positives, self._drawn, self._judged = 0, 0, 0, 0
        self._means = {name: _Mean() for name in ("negative rank", "negative score", "positive rank", "positive score")}
        self._dropped: Counter[Dropped] = Counter()

    def add(self, found: Selected) -> None:
        """Count a query; a query without a negative has no group."""
        self._queries += 1
        self._dropped += found.dropped
        if not found.negatives:
            return
        self._numbers.append(len(found.negatives))
        self._positives += len(found.positives)
        self._drawn += sum(hit.drawn for hit in found.negatives)
        self._judged += sum(hit.id in found.query.irrelevant for hit in found.negatives)
        self._note("positive", found.positives)
        self._note("negative", found.negatives)

    def figures(self) -> dict[str, Any]:
        """The figures by name; a mean over nothing is None."""
        numbers, count = self._numbers, sum(self._numbers)
        return {
            "ranks": self._ranks,
            "queries": len(numbers),
            "queries without a negative": self._queries - len(numbers),
            "queries with fewer than wanted": sum(number < self._wanted for number in numbers),
            "positives": self._positives,
            "positives in the ranking": self._means["positive rank"].count,
            "negatives": count,
            "negatives a query, least": min(numbers, default=None),
            "negatives a query, mean": count / len(numbers) if numbers else None,
            "negatives a query, most": max(numbers, default=None),
            "negatives drawn from the corpus": self._drawn,
            "negatives judged irrelevant": self._judged / count if count else None,
            **{f"{name}, mean": mean.value for name, mean in self._means.items()},
            **{f"{_DROPPED}{reason.value}": self._dropped[reason] for reason in Dropped},
        }

    def _note(self, side: str, hits: Sequence[Hit]) -> None:
        for hit in hits:
            self._means[f"{side} rank"].add(hit.rank)
            self._means[f"{side} score"].add(hit.score)


class _Mean:
    """The mean of the known values."""

    def __init__(self) -> None:
        self._sum, self.count = 0.0, 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self._sum += value
            self.count += 1

    @property
    def value(self) -> float | None:
        return self._sum / self.count if self.count else None


def table(epochs: Sequence[dict[str, Any]]) -> str:
    """The figures of all epochs side by side; reasons with no dropped documents are omitted."""
    names = [name for name in epochs[0] if not name.startswith(_DROPPED) or any(figures[name] for figures in epochs)]
    rows = [(name, [_shown(name, figures[name]) for figures in epochs]) for name in names]
    if len(epochs) > 1:
        rows.insert(0, ("epoch", [str(number) for number in range(1, len(epochs) + 1)]))
    width = max(len(name) for name, _ in rows)
    columns = [max(len(values[at]) for _, values in rows) for at in range(len(epochs))]
    return "\n".join(
        f"{name:<{width}}  " + "  ".join(f"{value:>{column}}" for value, column in zip(values, columns, strict=True))
        for name, values in rows
    )


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("judged irrelevant"):
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:.4f}" if "score" in name else f"{value:.1f}"
    return str(value)

"""Statistics of annotation: verdicts against labels, lengths of thoughts, and rejected samples by reason."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from r0.records import Answer
from r0.storage.resumable_jsonl import Row

LISTED = 5  # maximum number of listed pairs that did not fit the prompt
NONE = "none"  # no label
UNREADABLE = "unreadable"
VERDICTS = (Answer.YES.value, Answer.NO.value, UNREADABLE)


@dataclass
class Totals:
    """Sums over finished pairs."""

    pairs: int = 0
    kept: Counter[str] = field(default_factory=Counter)  # kept pairs by answer
    first: Counter[tuple[str, str]] = field(default_factory=Counter)  # pairs by (label, verdict of the first sample)
    samples: int = 0
    disagreed: int = 0  # samples rejected because their verdict contradicts the label
    unreadable: int = 0  # samples rejected because they have no readable verdict
    failures: Counter[str] = field(default_factory=Counter)  # samples by failure
    lengths: array[int] = field(default_factory=lambda: array("i"))  # of the kept thoughts, in tokens
    prompt_tokens: int = 0
    new_tokens: int = 0
    cut: int = 0  # pairs whose document was cut to fit the prompt
    refused: list[str] = field(default_factory=list)  # reasons of pairs that did not fit the prompt

    def add(self, row: Row) -> None:
        """Count one pair (a line of ``annotations.jsonl``)."""
        self.pairs += 1
        self.prompt_tokens += row["prompt_tokens"]
        if row["refused"]:
            self.refused.append(row["refused"])
            return
        samples = row["samples"]
        self.cut += row["cut_tokens"] > 0
        self.first[row["known"] or NONE, samples[0]["answer"] or UNREADABLE] += 1
        self.samples += len(samples)
        self.new_tokens += sum(sample["tokens"] for sample in samples)
        for sample in samples:
            self.failures.update(sample["failures"])
        rejected = samples[:-1] if row["kept"] else samples
        self.unreadable += sum(sample["answer"] is None for sample in rejected)
        self.disagreed += sum(sample["answer"] is not None for sample in rejected)
        if row["kept"]:
            self.kept[samples[-1]["answer"]] += 1
            self.lengths.append(samples[-1]["think_tokens"])

    def agreement(self, readable: bool) -> float | None:
        """Share of the labelled pairs whose first verdict equals the label, among all of them or among those with a readable
        verdict.
        """
        counted = {key: n for key, n in self.first.items() if key[0] != NONE and not (readable and key[1] == UNREADABLE)}
        total = sum(counted.values())
        return sum(n for (known, said), n in counted.items() if known == said) / total if total else None

    def quantiles(self) -> tuple[int, int, int] | None:
        """Length of the kept thoughts in tokens: 10 % quantile, median, 90 % quantile; None if there are none."""
        if not self.lengths:
            return None
        low, middle, high = (round(value) for value in np.quantile(self.lengths, (0.1, 0.5, 0.9)).tolist())
        return low, middle, high

    def summary(self) -> dict[str, Any]:
        """The figures for ``summary.json``."""
        return {
            "pairs": self.pairs,
            "kept": dict(sorted(self.kept.items())),
            "first_verdicts": {f"{known}/{said}": n for (known, said), n in sorted(self.first.items())},
            "agreement": self.agreement(readable=False),
            "agreement_of_readable": self.agreement(readable=True),
            "samples": self.samples,
            "rejected": {"disagreed": self.disagreed, "unreadable": self.unreadable},
            "failures": dict(sorted(self.failures.items())),
            "think_tokens": dict(zip(("low_10", "median", "high_90"), self.quantiles() or (None,) * 3, strict=True)),
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "cut_documents": self.cut,
            "not_shown": len(self.refused),
        }

    def report(self) -> str:
        """The table, and the rejected samples."""
        lines = [f"{'first verdict of a pair':<24}" + "".join(f"{said:>12}" for said in VERDICTS) + f"{'agrees':>10}"]
        for known in (Answer.YES.value, Answer.NO.value, NONE):
            counts = [self.first[known, said] for said in VERDICTS]
            if not sum(counts):
                continue
            title = "no known label" if known == NONE else f"known label {known}"
            agrees = "" if known == NONE else f"{self.first[known, known] / sum(counts):>10.3f}"
            lines.append(f"{title:<24}" + "".join(f"{count:>12}" for count in counts) + agrees)
        overall, readable = self.agreement(readable=False), self.agreement(readable=True)
        if overall is not None:
            of_readable = "" if readable is None else f" ({readable:.3f} of the readable verdicts)"
            lines.append(f"agreement with the known label: {overall:.3f}{of_readable}")
        if quantiles := self.quantiles():
            low, middle, high = quantiles
            lines.append(f"kept thoughts, in tokens: median {middle}, 10 % quantile {low}, 90 % quantile {high}")
        lines.append(self._rejected())
        if self.cut:
            lines.append(f"pairs whose document was cut to fit max_prompt_tokens: {self.cut}")
        if self.refused:
            lines.append(f"pairs that do not fit the prompt: {len(self.refused)}")
            lines += [f"  {sentence}" for sentence in self.refused[:LISTED]]
        return "\n".join(line for line in lines if line)

    def _rejected(self) -> str:
        rejected = self.disagreed + self.unreadable
        left = self.pairs - sum(self.kept.values()) - len(self.refused)
        said = f"samples: {self.samples}, {rejected} rejected ({self.disagreed} against the label, {self.unreadable} unreadable)"
        if self.failures:
            said += f"\nunreadable: {', '.join(f'{name} {count}' for name, count in self.failures.most_common())}"
        return f"{said}\n{sum(self.kept.values())} of {self.pairs} pairs kept; {left} dropped: no sample was acceptable"

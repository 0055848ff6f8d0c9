"""``esci eval``: scores every row of a file, formats the metrics as text, and writes the scores to a file.

Dimensions: N rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from r0.config import EsciEvalConfig
from r0.data.esci import CLASSES, GAIN_SETS, WORDS, EsciRow, Selection
from r0.data.jsonl import BadLines
from r0.errors import UserError
from r0.runs.live import progress
from r0.storage.files import write_atomic, writing
from r0.supervised.esci.data import checked_rows
from r0.supervised.esci.measure import CUTOFF, EvaluationResult, measure, scores_of
from r0.supervised.esci.scorer import Scorer


def evaluate(config: EsciEvalConfig) -> tuple[EvaluationResult, BadLines]:
    """Score all rows, write the scores if requested, and compute the metrics.

    Raises:
        UserError: model, adapter, data or the scores' place cannot be used; what can be checked before the model loads is.
    """
    target = None if config.save_scores_path is None else Path(config.save_scores_path).expanduser()
    if target is not None and target.exists():
        raise UserError(f"save_scores_path: {target} is there already; delete it, or choose another name")
    scorer, path, bad = Scorer(config), Path(config.data).expanduser(), BadLines(config.skip_bad)
    rows = list(checked_rows(path, Selection(**config.selection()), scorer.prompter, bad, f"reading {path.name}"))
    scorer.load()
    probabilities_N4 = np.zeros((len(rows), len(CLASSES)))
    steps = -(-len(rows) // config.batch_size)
    for places, found in progress(scorer.probabilities(rows), "scoring", steps):
        probabilities_N4[places] = found.numpy()
    if target is not None:
        _write_scores(target, rows, probabilities_N4)
    labels_N, queries = np.array([row.label for row in rows]), [row.query for row in rows]
    return measure(probabilities_N4, labels_N, queries, GAIN_SETS[config.gains]), bad


def table(found: EvaluationResult) -> str:
    """The metrics as text."""
    gains = ", ".join(f"{gain:g}" for gain in found.gains)
    blocks = [
        [f"{found.rows} rows of {found.queries} queries", f"accuracy {found.accuracy:.4f}   cross-entropy {found.loss:.4f} nats"],
        _confusion(found),
        _report(found),
        [f"{'score, mean of':<20}{_cells(WORDS)}", f"{'':<20}{_cells(map(_shown, found.mean_scores))}"],
        [
            "AUC of exact against the rest, by score: " + _shown(found.auc, "not defined, since the rows are all on one side"),
            f"nDCG {_shown(found.ndcg)}   nDCG@{CUTOFF} {_shown(found.ndcg_10)}   (gains {gains}; mean over "
            f"{found.compared} queries whose items differ in class)",
        ],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _confusion(found: EvaluationResult) -> list[str]:
    head = f"{'label, predicted →':<20}" + _cells(WORDS)
    rows = zip(WORDS, found.confusion.tolist(), strict=True)
    return [head, *(f"{word:<20}" + _cells(counts) for word, counts in rows)]


def _report(found: EvaluationResult) -> list[str]:
    lines = [f"{'':<20}" + _cells(("precision", "recall", "F1", "support"))]
    for name, one in found.report.items():
        shares = [f"{one[key]:.4f}" for key in ("precision", "recall", "f1-score")]
        lines.append(f"{name:<20}{_cells([*shares, int(one['support'])])}")
    return lines


def _cells(values: Iterable[object]) -> str:
    return "".join(f"{value:>12}" for value in values)


def _shown(value: float | None, absent: str = "–") -> str:
    return absent if value is None else f"{value:.4f}"


def _write_scores(path: Path, rows: Sequence[EsciRow], probabilities_N4: np.ndarray) -> None:
    """One JSON object a row, in the file's order: row (its number), label, predicted, score, and E, S, C, I."""
    scores_N, predicted_N = scores_of(probabilities_N4).tolist(), probabilities_N4.argmax(axis=1).tolist()
    lines = []
    for row, score, predicted, shares in zip(rows, scores_N, predicted_N, probabilities_N4.tolist(), strict=True):
        one = {"row": row.number, "label": CLASSES[row.label], "predicted": CLASSES[predicted], "score": score}
        lines.append(json.dumps(one | dict(zip(CLASSES, shares, strict=True))) + "\n")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(lines).encode())

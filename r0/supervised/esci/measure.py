"""Evaluation of a four-class reranker on labelled rows: as a classifier, and as a ranking of each query's items.

The score of an item is (3 P(E) + 2 P(S) + P(C)) / 3, in 0…1. Dimensions: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, roc_auc_score

from r0.data.esci import GAINS, WORDS
from r0.ranking import groups_of, ndcg
from r0.runs.calibration import Calibration, bins_of

CUTOFF = 10
SMALLEST = 1e-12  # lower bound of probabilities before taking the logarithm


@dataclass(frozen=True)
class EvaluationResult:
    """``confusion`` [4, 4] counts rows by label (first) and prediction. ``report`` holds precision, recall, f1-score and support
    by class and as macro and weighted means. Entries of ``mean_scores`` and ``auc`` are None if they are undefined."""

    rows: int
    queries: int
    compared: int  # queries whose items differ in class: nDCG is a mean over these
    accuracy: float
    loss: float  # mean cross-entropy, in nats
    confusion: np.ndarray
    report: dict[str, dict[str, float]]
    mean_scores: tuple[float | None, ...]  # [4] of the rows of each class
    auc: float | None  # of exact against the rest, by score
    ndcg: float | None  # over all ranks
    ndcg_10: float | None
    gains: tuple[float, ...]  # [4] of the classes, in nDCG

    def figures(self) -> dict[str, float]:
        """The scalar metrics, by name."""
        known = {"loss": self.loss, "accuracy": self.accuracy, "macro_f1": self.report["macro avg"]["f1-score"]}
        maybe = {"auc_exact": self.auc, "ndcg": self.ndcg, "ndcg@10": self.ndcg_10}
        return known | {name: value for name, value in maybe.items() if value is not None}


def scores_of(probabilities_N4: np.ndarray) -> np.ndarray:
    """[N] expected gain, scaled to 0…1."""
    return probabilities_N4 @ (np.array(GAINS, dtype=np.float64) / max(GAINS))


def measure(
    probabilities_N4: np.ndarray, labels_N: np.ndarray, queries: Sequence[str], gains: Sequence[float] = GAINS
) -> EvaluationResult:
    """Metrics of predictions.

    Args:
        probabilities_N4: of the classes, in the order of ``CLASSES``.
        labels_N: the true classes, as indices into ``CLASSES``.
        queries: [N] query texts; rows with equal texts belong to one query.
        gains: [4] gains of the classes in nDCG.
    """
    classes = list(range(len(WORDS)))
    predicted_N, scores_N = probabilities_N4.argmax(axis=1), scores_of(probabilities_N4)
    right_N = probabilities_N4[np.arange(len(labels_N)), labels_N]
    exact_N = labels_N == 0
    report = classification_report(
        labels_N, predicted_N, labels=classes, target_names=list(WORDS), output_dict=True, zero_division=0.0
    )
    found = _ndcg(scores_N, labels_N, queries, gains)
    return EvaluationResult(
        rows=len(labels_N),
        queries=len(set(queries)),
        compared=len(found),
        accuracy=float(accuracy_score(labels_N, predicted_N)),
        loss=float(-np.log(np.maximum(right_N, SMALLEST)).mean()),
        confusion=confusion_matrix(labels_N, predicted_N, labels=classes),
        report={name: values for name, values in report.items() if isinstance(values, dict)},
        mean_scores=tuple(float(scores_N[labels_N == one].mean()) if (labels_N == one).any() else None for one in classes),
        auc=float(roc_auc_score(exact_N, scores_N)) if exact_N.any() and not exact_N.all() else None,
        ndcg=float(found[:, 0].mean()) if len(found) else None,
        ndcg_10=float(found[:, 1].mean()) if len(found) else None,
        gains=tuple(gains),
    )


def calibration(probabilities_N4: np.ndarray, labels_N: np.ndarray, found: EvaluationResult) -> Calibration:
    """How often the predicted class is right, by its probability, and the confusion of the four classes."""
    right_N = (probabilities_N4.argmax(axis=1) == labels_N).astype(float)
    counts = tuple(tuple(map(int, row)) for row in found.confusion)
    return Calibration(bins_of(probabilities_N4.max(axis=1), right_N), tuple(WORDS), tuple(WORDS), counts)


def _ndcg(scores_N: np.ndarray, labels_N: np.ndarray, queries: Sequence[str], gains: Sequence[float]) -> np.ndarray:
    """[queries whose items differ in class, 2] nDCG over all ranks, and at 10; equal scores are tied."""
    rows: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        rows.setdefault(query, []).append(place)
    found = []
    for places in rows.values():
        grades = [gains[int(labels_N[place])] for place in places]
        if len(set(grades)) > 1:
            groups = groups_of(scores_N[places].tolist())
            found.append((ndcg(grades, groups, len(places)), ndcg(grades, groups, CUTOFF)))
    return np.array(found).reshape(-1, 2)

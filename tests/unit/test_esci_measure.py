"""ESCI's score and measures against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from r0.data.esci import GAIN_SETS
from r0.supervised.esci.evaluate import table
from r0.supervised.esci.measure import measure, scores_of

# Two queries; the labels are E S I of "a" and C E of "b".
PROBABILITIES = np.array(
    [
        [0.7, 0.1, 0.1, 0.1],
        [0.4, 0.3, 0.2, 0.1],
        [0.1, 0.2, 0.3, 0.4],
        [0.6, 0.2, 0.1, 0.1],
        [0.25, 0.5, 0.15, 0.1],
    ]
)
LABELS = np.array([0, 1, 3, 2, 0])
QUERIES = ["a", "a", "a", "b", "b"]
SCORES = [2.4 / 3, 2.0 / 3, 1.0 / 3, 2.3 / 3, 1.9 / 3]


def test_the_score_is_the_expected_gain_over_three() -> None:
    assert scores_of(PROBABILITIES) == pytest.approx(SCORES, abs=1e-6)
    assert scores_of(np.eye(4)) == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-6)


def test_measures_are_those_of_a_hand_computation() -> None:
    found = measure(PROBABILITIES, LABELS, QUERIES)
    # Predicted: E E I E S.
    assert found.accuracy == pytest.approx(2 / 5, abs=1e-6)
    assert found.confusion.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    exact = found.report["exact"]
    assert (exact["precision"], exact["recall"], exact["support"]) == pytest.approx((1 / 3, 1 / 2, 2), abs=1e-6)
    assert exact["f1-score"] == pytest.approx(0.4, abs=1e-6)
    assert found.report["macro avg"]["f1-score"] == pytest.approx((0.4 + 0 + 0 + 1) / 4, abs=1e-6)
    assert found.report["weighted avg"]["f1-score"] == pytest.approx((2 * 0.4 + 0 + 0 + 1) / 5, abs=1e-6)
    assert found.loss == pytest.approx(-sum(map(math.log, (0.7, 0.3, 0.4, 0.1, 0.25))) / 5, abs=1e-6)
    means = [(SCORES[0] + SCORES[4]) / 2, SCORES[1], SCORES[3], SCORES[2]]
    assert found.mean_scores == pytest.approx(means, abs=1e-6)
    # Pairs (exact, other): 0.8 beats all three; 1.9/3 beats 1/3 only.
    assert found.auc == pytest.approx(4 / 6, abs=1e-6)
    # "a" is in order; "b" shows C (1) before E (3).
    b = (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    assert (found.ndcg, found.compared) == (pytest.approx((1 + b) / 2, abs=1e-6), 2)
    assert found.ndcg_10 == pytest.approx(found.ndcg, abs=1e-6)


def test_the_cutoff_of_ndcg_counts() -> None:
    shares = np.tile(np.eye(4)[3], (12, 1)) * np.linspace(1, 0.5, 12)[:, None]
    shares[:, 0] = 1 - shares[:, 3]
    labels = np.array([0] + [3] * 11)  # the exact item is last by score
    found = measure(shares, labels, ["q"] * 12)
    assert found.ndcg_10 == 0.0
    assert found.ndcg == pytest.approx(1 / math.log2(13), abs=1e-6)


def test_equal_scores_are_tied() -> None:
    found = measure(np.full((2, 4), 0.25), np.array([0, 3]), ["q", "q"])
    assert found.auc == 0.5
    assert found.ndcg == pytest.approx((1 + 1 / math.log2(3)) / 2, abs=1e-6)


def test_undefined_measures_are_reported() -> None:
    found = measure(np.eye(4)[[0, 0]], np.array([0, 0]), ["a", "b"])
    assert (found.auc, found.ndcg, found.compared) == (None, None, 0)
    assert set(found.figures()) == {"loss", "accuracy", "macro_f1"}
    text = table(found)
    assert "not defined, since the rows are all on one side" in text
    assert "nDCG –   nDCG@10 –" in text
    assert math.isfinite(found.loss)


def test_the_table_shows_every_figure() -> None:
    text = table(measure(PROBABILITIES, LABELS, QUERIES))
    for line in (
        "5 rows of 2 queries",
        "accuracy 0.4000   cross-entropy",
        "exact                          1           1           0           0",
        "irrelevant                     0           0           0           1",
        "exact                     0.3333      0.5000      0.4000           2",
        "weighted avg              0.3333      0.4000      0.3600           5",
        "                          0.7167      0.6667      0.7667      0.3333",
        "by score: 0.6667",
        "mean over 2 queries",
    ):
        assert line in text, text


def test_the_official_gains_change_ndcg_and_nothing_else() -> None:
    linear, official = measure(PROBABILITIES, LABELS, QUERIES), measure(PROBABILITIES, LABELS, QUERIES, GAIN_SETS["official"])
    b = (0.01 + 1 / math.log2(3)) / (1 + 0.01 / math.log2(3))  # "a" is in order; "b" shows C before E
    assert official.ndcg == pytest.approx((1 + b) / 2, abs=1e-6)
    assert official.accuracy == linear.accuracy
    assert official.mean_scores == linear.mean_scores
    assert "(gains 1, 0.1, 0.01, 0; mean over 2 queries" in table(official)

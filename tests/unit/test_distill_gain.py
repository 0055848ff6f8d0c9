"""The table of a distillation: measures by hand, ties, incomparable scores, and queries that were trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from r0.data.hashes import query_hash
from r0.data.scored import ScoredList
from r0.distill.gain import Gain, JudgedLists, render
from r0.errors import UserError


def scored(query: str, labels: Sequence[float], scores: Sequence[float | None]) -> ScoredList:
    return ScoredList(
        query, tuple(f"document {place}" for place in range(len(labels))), tuple(labels), tuple(scores), "t.jsonl:1"
    )


LABELS = ((1, 0, 0, 1), (0, 1, 0))
BEFORE = [
    scored(f"q{n}", labels, scores) for n, (labels, scores) in enumerate(zip(LABELS, ((1, 4, 3, 2), (3, 1, 2)), strict=True))
]
AFTER = [
    scored(f"q{n}", labels, scores) for n, (labels, scores) in enumerate(zip(LABELS, ((4, 3, 2, 1), (1, 3, 2)), strict=True))
]


def gain() -> Gain:
    lists = JudgedLists.of(AFTER)
    return Gain(
        lists.measure(AFTER, "after"), lists.measure(BEFORE, "before"), lists.measure(AFTER[::-1], "teacher"), ("a note",)
    )


def test_measures_and_gains_are_those_worked_out_by_hand() -> None:
    def discount(rank: int) -> float:
        return 1 / math.log2(rank + 1)

    ideal = discount(1) + discount(2)
    expected = {  # before: relevant at ranks 3 and 4, and at 3; after: at 1 and 4, and at 1
        "MAP": (((1 / 3 + 2 / 4) / 2 + 1 / 3) / 2, ((1 + 2 / 4) / 2 + 1) / 2),
        "MRR@10": (1 / 3, 1.0),
        "nDCG@10": (((discount(3) + discount(4)) / ideal + discount(3)) / 2, ((1 + discount(4)) / ideal + 1) / 2),
    }
    for row in gain().rows():
        before, after = expected[str(row["measure"])]
        assert row["before"] == pytest.approx(before, abs=1e-6)
        assert row["after"] == pytest.approx(after, abs=1e-6)
        assert row["absolute"] == pytest.approx(after - before, abs=1e-6)
        assert row["relative"] == pytest.approx((after - before) / before, abs=1e-6)
        assert row["of_teacher"] == pytest.approx(1.0)


def test_the_table_is_text_markdown_or_json() -> None:
    text = render(gain(), "text").splitlines()
    assert text[0].split() == ["before", "after", "absolute", "relative", "p", "teacher", "of", "teacher"]
    assert text[2].split()[:5] == ["MRR@10", "0.3333", "1.0000", "+0.6667", "+200.00%"]
    assert len({len(line) for line in text[:4]}) == 1
    assert "| MRR@10 | 0.3333 | 1.0000 | +0.6667 | +200.00% |" in render(gain(), "markdown")
    found = json.loads(render(gain(), "json"))
    assert [row["measure"] for row in found["measures"]] == ["MAP", "MRR@10", "nDCG@10"]
    assert found["notes"] == ["a note"]


def test_without_a_before_there_is_not_a_gain_to_show() -> None:
    text = render(Gain(JudgedLists.of(AFTER).measure(AFTER, "after")), "text").splitlines()
    assert text[0].split() == ["after"]


def test_where_all_scores_are_equal_positives_first_in_the_file_gain_nothing() -> None:
    lists = [scored(f"query {n}", (1, 0, 0, 0, 0), (0.0,) * 5) for n in range(500)]
    judged = JudgedLists.of(lists)
    assert judged.measure(lists, "after").mean("MRR@10") == pytest.approx(sum(1 / r for r in range(1, 6)) / 5, abs=0.05)


def test_a_document_without_a_score_comes_last() -> None:
    judged = JudgedLists.of([scored("q", (1, 0), (None, -5.0))])
    assert judged.measure([scored("q", (1, 0), (None, -5.0))], "after").mean("MRR@10") == 0.5


def test_scores_of_another_test_are_refused() -> None:
    judged = JudgedLists.of(AFTER)
    for other in ([AFTER[0]], [AFTER[0], scored("q1", (0, 1), (1, 2))], [AFTER[0], scored("q9", LABELS[1], (1, 2, 3))]):
        with pytest.raises(UserError, match=r"teacher.jsonl: has no scores of the query 'q1' with its 3 documents; give"):
            judged.measure(other, "teacher.jsonl")


def test_queries_that_were_trained_on_are_dropped_and_counted() -> None:
    judged = JudgedLists.of(AFTER, frozenset({query_hash("  Q0 ")}))
    assert (judged.left_out, [one.query for one in judged.lists]) == (1, ["q1"])
    with pytest.raises(UserError, match="all 2 queries occur in the training data"):
        JudgedLists.of(AFTER, frozenset({query_hash("q0"), query_hash("q1")}))


def test_a_label_may_have_decimals() -> None:
    halves, whole = JudgedLists.of([scored("q", (0.5, 0, 1), (3, 2, 1))]), JudgedLists.of([scored("q", (1, 0, 2), (3, 2, 1))])
    values = [judged.measure([scored("q", (0, 0, 0), (3, 2, 1))], "s").mean("nDCG@10") for judged in (halves, whole)]
    assert values[0] == pytest.approx(values[1])
    assert values[0] == pytest.approx((0.5 + 1 / 2) / (1 + 0.5 / math.log2(3)))

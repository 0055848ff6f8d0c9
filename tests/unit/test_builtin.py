"""The built-in task, its thoughts, and the warm-start log."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from r0.data.builtin.pairs import (
    BASE_SEED_START,
    CONNECTED,
    KIND_SHARES,
    MISSING,
    UNCONNECTED,
    WARM_START_FAULTS,
    WarmStartFaults,
    builtin_rows,
    builtin_task,
    claimed_kind,
    concepts_of,
    honest_completion,
    honest_thought,
    kind_of,
    look_up,
    lookup_correct,
    warm_start_completion,
)
from r0.data.builtin.words import NOUNS, PLACES, RELATIONS, STATES

ROWS = list(builtin_rows(4000, seed=1))


def test_a_row_needs_no_row_before_it():
    assert builtin_task(1234, 1) == ROWS[1234]
    assert builtin_task(1234, 2) != ROWS[1234]


def test_word_lists_are_disjoint():
    words = [*NOUNS, *PLACES, *RELATIONS, *STATES]
    assert len(words) == len(set(words))


def test_kinds_come_in_their_shares_and_half_are_relevant():
    counts = Counter(row.kind for row in ROWS)
    for kind, share in KIND_SHARES:
        assert counts[kind] / len(ROWS) == pytest.approx(share, abs=0.03)
    assert sum(row.label for row in ROWS) == counts[CONNECTED]


def test_the_kind_follows_from_the_text_alone():
    for row in ROWS:
        assert kind_of(concepts_of(row.query), row.document) == row.kind
        assert len(concepts_of(row.query)) in (2, 3)
        assert 10 <= len(row.document.split()) <= 45


def test_hard_negatives_mention_every_concept():
    for row in ROWS:
        if row.kind == UNCONNECTED:
            assert all(look_up(name, row.document) for name in concepts_of(row.query))


def test_queries_hardly_repeat():
    assert len({row.query for row in ROWS}) > 0.99 * len(ROWS)


def test_longer_documents_keep_their_kind():
    for index in range(200):
        row = builtin_task(index, 5, sentences=15)
        assert row.document.count(".") == 15
        assert kind_of(concepts_of(row.query), row.document) == row.kind


def test_honest_thoughts_look_up_rightly_and_conclude():
    for row in ROWS:
        assert row.think == honest_thought(concepts_of(row.query), row.document)
        assert lookup_correct(row, row.think)
        assert claimed_kind(row.think) == row.kind


@pytest.mark.parametrize("think", ["", "Looks relevant.", "Check", "So all are connected. No."])
def test_other_thoughts_claim_nothing(think):
    assert claimed_kind(think) is None
    assert not lookup_correct(ROWS[0], think)


def test_a_wrong_quote_is_not_a_lookup():
    row = next(row for row in ROWS if row.kind == UNCONNECTED)
    first = concepts_of(row.query)[0]
    assert not lookup_correct(row, row.think.replace(f"Check {first}: the {first} ", f"Check {first}: the not "))


def test_warm_start_log_has_its_declared_faults():
    texts = [warm_start_completion(row, 3) for row in ROWS]
    assert texts == [warm_start_completion(row, 3) for row in ROWS]
    assert texts != [warm_start_completion(row, 4) for row in ROWS]
    faults = WARM_START_FAULTS
    shares = {
        "extra_text": sum(not text.endswith("</answer>") and "</answer>" in text for text in texts),
        "text_between": sum("</think> " in text for text in texts),
        "no_answer": sum("</answer>" not in text for text in texts),
        "short_thought": sum("Check" not in text for text in texts),
    }
    for name, count in shares.items():
        assert count / len(ROWS) == pytest.approx(getattr(faults, name), abs=0.03), name
    hard = [text for row, text in zip(ROWS, texts, strict=True) if row.kind == UNCONNECTED]
    assert sum("<answer>yes" in text for text in hard) / len(hard) == pytest.approx(faults.mention_as_yes, abs=0.04)


def test_the_labeller_errs_on_unconnected_documents_only():
    for row in ROWS:
        if row.kind != UNCONNECTED:
            assert f"<answer>{'yes' if row.kind == CONNECTED else 'no'}" in warm_start_completion(row, 3)
    assert {row.kind for row in ROWS} == {CONNECTED, UNCONNECTED, MISSING}


def test_without_faults_the_log_is_honest():
    none = WarmStartFaults(0.0, 0.0, 0.0, 0.0, 0.0)
    assert all(warm_start_completion(row, 3, none) == honest_completion(row) for row in ROWS[:500])


def test_the_base_training_has_seeds_of_its_own():
    assert BASE_SEED_START > 2**32


def test_needs_no_torch():
    code = "import sys, r0.data.builtin.pairs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

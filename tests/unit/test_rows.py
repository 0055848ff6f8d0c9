"""Learner rows: every token once, the budget kept, groups whole on their rank."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learner_models import random_groups

from r0.actors.learner.batch import StaleRollout, make_batch, make_minibatches
from r0.actors.learner.comm import Comm
from r0.actors.learner.rows import filler_row, padded_rows, shared_rows, split_groups
from r0.actors.learner.shares import assign_groups, cost

SHAPES = st.lists(st.tuples(st.integers(1, 40), st.lists(st.integers(0, 30), min_size=1, max_size=9)), max_size=8)


def completions_of(groups, rows):
    """(group, sample) → the tokens that the rows predict for it."""
    found = {}
    for row in rows:
        parts = row.target_C.split([len(groups[g].completions[s].token_ids) for g, s in row.items])
        for item, part in zip(row.items, parts, strict=True):
            assert item not in found
            found[item] = tuple(part.tolist())
    return found


def expected(groups):
    return {(g, s): c.token_ids for g, group in enumerate(groups) for s, c in enumerate(group.completions)}


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.integers(1, 200))
def test_every_completion_token_is_predicted_exactly_once_from_its_own_context(shapes, budget):
    groups = random_groups(shapes)
    for make in (shared_rows, padded_rows):
        rows = make(groups, budget)
        assert completions_of(groups, rows) == expected(groups)
        for row in rows:
            flat, at = row.input_ids.flatten(), 0
            for g, s in row.items:
                tokens = groups[g].completions[s].token_ids
                source = row.source_C[at : at + len(tokens)]
                before = (groups[g].prompt_ids[-1:] + tokens)[: len(tokens)]
                assert tuple(flat[source].tolist()) == before
                at += len(tokens)


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.integers(1, 200))
def test_rows_keep_the_budget_unless_one_sequence_alone_is_longer(shapes, budget):
    groups = random_groups(shapes)
    for row in shared_rows(groups, budget):
        if row.tokens > budget:  # one group, and as little over as the rule allows
            ((prompt, longest),) = {
                (len(groups[g].prompt_ids), max(len(c.token_ids) for c in groups[g].completions)) for g, _ in row.items
            }
            assert prompt + longest > budget
            assert row.tokens <= prompt + max(longest, budget // 2)
    for row in padded_rows(groups, budget):
        assert row.tokens <= budget or len(row.input_ids) == 1


def test_positions_of_every_completion_go_on_after_its_prompt():
    (row,) = shared_rows(random_groups([(3, [2, 4]), (5, [1])]), 100)
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5]]


def test_a_group_longer_than_the_budget_is_split_and_repeats_its_prompt():
    groups = random_groups([(10, [5, 5, 5, 5])])
    assert [piece.samples for piece in split_groups(groups, 20)] == [(0, 1), (2, 3)]
    assert sum(row.tokens for row in shared_rows(groups, 20)) == 40


def test_a_prompt_longer_than_the_budget_is_not_computed_for_every_completion():
    groups = random_groups([(1000, [10] * 8)])
    assert [len(piece.samples) for piece in split_groups(groups, 100)] == [5, 3]  # half a budget of completions each
    assert [len(piece.samples) for piece in split_groups(groups, 8)] == [1] * 8
    assert [len(piece.samples) for piece in split_groups(groups, 1010)] == [1] * 8  # the budget can be kept, and is
    assert [len(piece.samples) for piece in split_groups(groups, 1080)] == [8]


def test_shared_rows_compute_the_prompt_once():
    groups = random_groups([(512, [128] * 8)])
    assert sum(row.tokens for row in shared_rows(groups, 8192)) == 1536
    assert sum(row.tokens for row in padded_rows(groups, 8192)) == 5120


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="empty prompt"):
        shared_rows(random_groups([(0, [3])]), 100)


def test_filler_rows_have_no_items():
    assert filler_row(True).items == () == filler_row(False).items


@settings(deadline=None, max_examples=60)
@given(SHAPES, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_sharing_uses_every_group_once_per_epoch_and_keeps_it_on_its_rank(shapes, ranks, epochs, minis, step):
    groups = random_groups(shapes)
    shares = assign_groups(groups, ranks, epochs, minis, seed=1, step=step)
    assert sorted(map(id, groups)) == sorted(id(group) for share in shares for group in share.groups)
    for share in shares:
        assert len(share.schedule) == epochs
        for epoch in share.schedule:
            assert len(epoch) == minis
            assert sorted(i for mini in epoch for i in mini) == list(range(len(share.groups)))
    again = assign_groups(groups, ranks, epochs, minis, seed=1, step=step)
    assert [share.schedule for share in again] == [share.schedule for share in shares]


def test_the_mini_batches_are_the_same_whatever_the_number_of_ranks():
    groups = random_groups([(5, [3, 4])] * 8)
    members = []
    for ranks in (1, 2, 3):
        shares = assign_groups(groups, ranks, 1, 2, seed=3, step=7)
        members.append([{id(s.groups[i]) for s in shares for i in s.schedule[0][m]} for m in range(2)])
    assert members[0] == members[1] == members[2]


def test_dealing_balances_tokens():
    groups = random_groups([(10 + 9 * i, [5] * 4) for i in range(16)])
    loads = [sum(map(cost, share.groups)) for share in assign_groups(groups, 2, 1, 1, seed=0, step=0)]
    assert max(loads) - min(loads) <= max(map(cost, groups))


def test_stale_and_future_rollouts_are_refused():
    groups = random_groups([(5, [3])])  # version 0
    make_batch(groups, 1, 1, torch.device("cpu"))
    with pytest.raises(StaleRollout, match="weight version 0, the learner is at version 2"):
        make_batch(groups, 2, 1, torch.device("cpu"))
    with pytest.raises(StaleRollout):
        make_batch(groups, -1, 5, torch.device("cpu"))


def test_the_tokens_of_a_row_are_found_again_on_the_batch_axis():
    groups = random_groups([(5, [3, 2]), (4, [6]), (7, [1, 1, 4])])
    batch = make_batch(groups, 0, 0, torch.device("cpu"))
    flat = torch.tensor([t for group in groups for c in group.completions for t in c.token_ids])
    for shared in (True, False):
        (minis,) = make_minibatches(batch, [[[2, 0], [1]]], shared, 14, Comm(1, torch.device("cpu")))
        seen = []
        for mini in minis:
            for part in mini.slices:
                assert torch.equal(flat[part.at_C], part.row.target_C)
                assert part.seq_C.max() < part.completions
                seen += part.at_C.tolist()
        assert sorted(seen) == list(range(len(flat)))
        assert [(mini.tokens, mini.completions) for mini in minis] == [(11, 5), (6, 1)]

"""Measures of rankings: against pytrec_eval, by hand, and ties as the mean over all their orders."""

from __future__ import annotations

import math
import random
from itertools import chain, permutations, product

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from r0.ranking import (
    groups_of,
    groups_of_order,
    ideal_groups,
    js_divergence,
    ndcg,
    rbo,
    recall,
    reciprocal_rank,
    share_ordered,
)

grades_lists = st.lists(st.integers(-1, 3).map(float), min_size=1, max_size=7)


@st.composite
def tied_rankings(draw, size: int, whole: bool = True):
    """Groups over all (or some) of ``size`` documents."""
    order = draw(st.permutations(range(size)))
    if not whole:
        order = order[: draw(st.integers(0, size))]
    groups: list[list[int]] = []
    for document in order:
        if not groups or draw(st.booleans()):
            groups.append([])
        groups[-1].append(document)
    return tuple(map(tuple, groups))


def orders_of(groups):
    """Every order of the tied, as a ranking without ties."""
    return [groups_of_order(chain(*parts)) for parts in product(*(permutations(group) for group in groups))]


def mean_over_orders(groups, measure) -> float:
    values = [measure(order) for order in orders_of(groups)]
    return math.fsum(values) / len(values)


@given(st.data())
def test_the_reciprocal_rank_of_ties_is_the_mean_over_their_orders(data):
    groups = data.draw(tied_rankings(5, whole=False))
    relevant = data.draw(st.sets(st.integers(0, 4)))

    def of_order(order) -> float:
        return next((1 / rank for rank, (document,) in enumerate(order, 1) if document in relevant), 0.0)

    assert reciprocal_rank(relevant, groups) == pytest.approx(mean_over_orders(groups, of_order), abs=1e-12)


def test_ndcg_and_recall_are_those_of_pytrec_eval():
    draw = random.Random(0)
    for _ in range(200):
        size = draw.randint(1, 30)
        grades = [draw.choice([-1, 0, 0, 0, 1, 2, 3]) for _ in range(size)]
        order = draw.sample(range(size), size)
        judged = {"q": {f"d{i}": grade for i, grade in enumerate(grades)}}
        run = {"q": {f"d{document}": float(-rank) for rank, document in enumerate(order)}}
        expected = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.1,5,10", "recall.5,10"}).evaluate(run)["q"]
        groups = groups_of_order(order)
        for k in (1, 5, 10):
            assert ndcg(grades, groups, k) == pytest.approx(expected[f"ndcg_cut_{k}"], abs=1e-12)
        for k in (5, 10):
            found = recall([i for i, grade in enumerate(grades) if grade > 0], groups, k)
            assert found == pytest.approx(expected[f"recall_{k}"], abs=1e-12)


@given(st.data(), grades_lists, st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_ties_are_worth_the_mean_over_their_orders(data, grades, k):
    groups = data.draw(tied_rankings(len(grades)))
    relevant = {i for i, grade in enumerate(grades) if grade > 0}
    ideal = ideal_groups(grades)
    assert ndcg(grades, groups, k) == pytest.approx(mean_over_orders(groups, lambda order: ndcg(grades, order, k)))
    assert recall(relevant, groups, k) == pytest.approx(mean_over_orders(groups, lambda order: recall(relevant, order, k)))
    assert share_ordered(grades, groups) == pytest.approx(mean_over_orders(groups, lambda order: share_ordered(grades, order)))
    assert rbo(groups, ideal, 0.9) == pytest.approx(mean_over_orders(groups, lambda order: rbo(order, ideal, 0.9)))


@given(st.data(), grades_lists)
@settings(max_examples=60, deadline=None)
def test_missing_documents_are_tied_after_all_others(data, grades):
    groups = data.draw(tied_rankings(len(grades), whole=False))
    rest = tuple(sorted(set(range(len(grades))) - set(chain(*groups))))
    whole = (*groups, rest) if rest else groups
    assert ndcg(grades, groups, 10) == ndcg(grades, whole, 10)
    assert share_ordered(grades, groups) == share_ordered(grades, whole)
    assert rbo(groups, whole, 0.8) == pytest.approx(rbo(whole, whole, 0.8))


@given(st.data(), grades_lists, st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_no_order_is_better_than_the_ideal(data, grades, p):
    groups, ideal = data.draw(tied_rankings(len(grades))), ideal_groups(grades)
    assert ndcg(grades, groups, 10) <= ndcg(grades, ideal, 10) <= 1.0
    assert share_ordered(grades, groups) <= share_ordered(grades, ideal) == 1.0
    assert rbo(groups, ideal, p) <= rbo(ideal, ideal, p) + 1e-12
    assert rbo(groups, ideal, p) == pytest.approx(rbo(ideal, groups, p))
    assert 0 < rbo(groups, ideal, p) <= 1


def test_ndcg_by_hand():
    grades = [0.0, 1.0, 2.0]
    ideal = 2 + 1 / math.log2(3)
    assert ndcg(grades, ((2,), (1,), (0,)), 10) == 1.0
    assert ndcg(grades, ((0,), (1,), (2,)), 10) == pytest.approx((1 / math.log2(3) + 2 / 2) / ideal)
    assert ndcg(grades, ((0,), (1,), (2,)), 1) == 0.0
    assert ndcg(grades, ((0, 2), (1,)), 1) == pytest.approx(0.5)
    assert ndcg(grades, (), 1) == pytest.approx(0.5)
    assert ndcg([0.0, -1.0], ((0,), (1,)), 10) == 0.0
    assert ndcg([], (), 10) == 0.0


def test_rbo_by_hand():
    # Agreement at depths 1, 2, 3 is 0, 1/2 and 1: 1/9 · (0.81 / 2 + 0.729) + 0.729.
    assert rbo(((0,), (1,), (2,)), ((2,), (0,), (1,)), 0.9) == pytest.approx(0.855)
    assert rbo(((0,), (1,)), ((1,), (0,)), 0.5) == pytest.approx(0.5)  # agreement 0, then 1
    assert rbo(((0,), (1,), (2,)), ((0,), (1,), (2,)), 0.3) == pytest.approx(1.0)
    assert rbo(((0, 1),), ((0,), (1,)), 0.5) == pytest.approx((1 - 0.5) / 0.5 * (0.5 * 0.5 + 0.25) + 0.25)
    for p in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            rbo(((0,),), ((0,),), p)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(-1, 3)), min_size=1, max_size=20))
def test_js_divergence_is_that_of_entropies(pairs):
    shown = [[max(float(value), 0.0) for value in values] for values in zip(*pairs, strict=True)]
    ours, theirs = (np.array(values if max(values) > 0 else [1.0] * len(pairs)) for values in shown)
    ours, theirs = ours / ours.max() / (ours / ours.max()).sum(), theirs / theirs.sum()
    expected = entropy((ours + theirs) / 2, base=2) - (entropy(ours, base=2) + entropy(theirs, base=2)) / 2
    found = js_divergence([score for score, _ in pairs], [float(grade) for _, grade in pairs])
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0 <= found <= 1


def test_js_divergence_by_hand():
    assert js_divergence([5, 0], [1, 0]) == 0.0
    assert js_divergence([5, 0], [0, 2]) == 1.0
    assert js_divergence([0, 0], [1, 1]) == 0.0
    half = 0.5 * math.log2(1 / 0.75) + 0.5 * (0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25))
    assert js_divergence([1, 0], [1, 1]) == pytest.approx(half)
    with pytest.raises(ValueError, match="1 scores and 2 grades"):
        js_divergence([1], [1, 1])


def test_scores_make_groups():
    assert groups_of([1.0, 3.0, 1.0, -2.0]) == ((1,), (0, 2), (3,))
    assert ideal_groups([1.0, 3.0, 0.0, -2.0]) == ((1,), (0,), (2, 3))
    assert groups_of([]) == ()


def test_a_ranking_of_unknown_documents_is_refused():
    with pytest.raises(ValueError, match="twice"):
        ndcg([1.0, 0.0], ((0,), (0,)), 10)
    for stranger in (-1, 2):
        with pytest.raises(ValueError, match="outside 0 to 1"):
            ndcg([1.0, 0.0], ((stranger,), (0,)), 10)

"""Permutation self-consistency: shuffled questions, unshuffled replies, and aggregation of orders."""

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rerank_judges import Recorded, nonsense, perfect

from r0.data.hashes import hash_key, shuffled
from r0.records import Violation
from r0.rerank.consensus import combine, consensus
from r0.rerank.groupwise import groupwise
from r0.rerank.listwise import listwise
from r0.rerank.protocol import MethodRun, Reply, drive
from r0.rerank.setwise import setwise

several_orders = st.integers(1, 7).flatmap(lambda n: st.lists(st.permutations(range(n)), min_size=1, max_size=6))


def distance(order, samples):
    """Sum of Kendall's distances: pairs that stand the other way round."""
    return sum(
        sample.index(order[i]) > sample.index(order[j])
        for sample in samples
        for i in range(len(order))
        for j in range(i + 1, len(order))
    )


def borda(samples):
    return sorted(range(len(samples[0])), key=lambda d: (sum(sample.index(d) for sample in samples), d))


# --- combining ---


@given(several_orders)
@settings(max_examples=150)
def test_no_swap_of_neighbours_comes_closer_and_borda_is_not_a_closer(samples):
    combined = list(combine(samples))
    assert sorted(combined) == sorted(samples[0])
    best = distance(combined, samples)
    assert best <= distance(borda(samples), samples)
    for i in range(len(combined) - 1):
        swapped = [*combined[:i], combined[i + 1], combined[i], *combined[i + 2 :]]
        assert distance(swapped, samples) >= best


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.permutations(range(n)), min_size=1, max_size=5)))
@settings(max_examples=60)
def test_what_most_samples_prefer_to_every_other_comes_first(samples):
    n = len(samples[0])
    for winner in range(n):
        rivals = [d for d in range(n) if d != winner]
        if all(2 * sum(s.index(winner) < s.index(d) for s in samples) > len(samples) for d in rivals):
            assert combine(samples)[0] == winner
            closest = min(permutations(range(n)), key=lambda order: distance(order, samples))
            assert closest[0] == winner


def test_combining_by_hand():
    assert combine([(0, 1, 2)]) == (0, 1, 2)
    assert combine([(2, 1, 0), (2, 0, 1), (0, 2, 1)]) == (2, 0, 1)
    assert combine([(0, 1), (1, 0)]) == (0, 1)  # a tie goes to the lower number
    # Borda prefers 1 (ranks 0, 1, 1: mean 2/3) to 0 (0, 0, 2: 2/3 as well, so the tie gives 0); here Borda errs and most say 0.
    assert combine([(0, 1, 2, 3), (0, 1, 2, 3), (1, 2, 3, 0)]) == (0, 1, 2, 3)
    assert borda([(0, 1, 2, 3), (0, 1, 2, 3), (1, 2, 3, 0)])[0] == 1


# --- sampling ---


def test_one_sample_is_the_plain_method():
    plain, one = Recorded(perfect([0.1, 0.9, 0.4])), Recorded(perfect([0.1, 0.9, 0.4]))
    assert drive(consensus(lambda sample: listwise(3), 3, 1, seed=1), one) == drive(listwise(3), plain)
    assert one.questions == plain.questions


def test_all_samples_are_in_flight_at_once_in_different_orders():
    questions = MethodRun(consensus(lambda sample: listwise(12), 12, 8, seed=1)).questions
    assert [question.sample for question in questions] == list(range(8))
    assert len({question.documents for question in questions}) == 8
    assert all(sorted(question.documents) == list(range(12)) for question in questions)
    assert [question.documents for question in MethodRun(consensus(lambda sample: listwise(12), 12, 8, seed=2)).questions] != [
        question.documents for question in questions
    ]


def test_samples_of_a_method_with_samples_have_different_seeds():
    questions = MethodRun(consensus(lambda sample: groupwise(6, 3, 2, seed=sample), 6, 3, seed=1)).questions
    assert len(questions) == 12
    assert sorted({question.sample for question in questions}) == list(range(6))


@pytest.mark.parametrize("make", [lambda sample: listwise(9), lambda sample: setwise(9, 4, 9)], ids=["listwise", "setwise"])
def test_an_error_free_judge_decides_the_order(make):
    worth = [0.3, 0.1, 0.9, 0.2, 0.8, 0.5, 0.7, 0.4, 0.6]
    assert drive(consensus(make, 9, 5, seed=3), perfect(worth)).order == (2, 4, 6, 8, 5, 7, 0, 3, 1)


def test_scores_go_back_to_their_own_documents():
    worth = [0.3, 0.1, 0.9, 0.2]
    order = drive(consensus(lambda sample: groupwise(4, 4, 1, seed=sample), 4, 3, seed=3), perfect(worth)).order
    assert order == (2, 0, 3, 1)


def test_position_bias_averages_out():
    """What is shown in the first half comes before the second, whatever it is worth: many wrong replies are right together."""
    n = 8

    def biased(question):  # the given order is the worst
        return Reply(tuple((i,) for i in sorted(range(n), key=lambda i: (i >= n // 2, -question.documents[i]))))

    assert drive(listwise(n), biased).order == (3, 2, 1, 0, 7, 6, 5, 4)
    assert drive(consensus(lambda sample: listwise(n), n, 60, seed=4), biased).order == tuple(reversed(range(n)))


def test_samples_that_fail_vote_for_the_given_order_and_not_for_the_shuffled_one():
    worth = [0.1, 0.2, 0.3, 0.4]
    judge = perfect(worth)

    def sometimes(question):
        return nonsense(question) if question.sample % 5 < 3 else judge(question)  # three of five fail

    assert drive(consensus(lambda sample: listwise(4), 4, 5, seed=9), sometimes).order == (0, 1, 2, 3)


def test_ties_and_missing_documents_keep_the_first_stage_order_not_the_shuffled_one():
    tied = perfect([0.5, 0.5, 0.9, 0.5, 0.1, 0.1])
    order = drive(consensus(lambda sample: listwise(6), 6, 2, seed=1), tied).order
    assert order == (2, 0, 1, 3, 4, 5)

    def only_the_best(question):
        place = question.documents.index(2)
        rest = tuple(i for i in range(6) if i != place)
        return Reply(((place,), rest), failures=frozenset({Violation.MISSING_ID}))

    assert drive(consensus(lambda sample: listwise(6), 6, 2, seed=1), only_the_best).order == (2, 0, 1, 3, 4, 5)


def test_shuffles_depend_on_their_address_alone():
    """A window's shuffle is the same whatever was asked before it."""

    def asks_of(n):
        judge = Recorded(nonsense)
        drive(consensus(lambda sample: listwise(n, 6, 3), n, 2, seed=hash_key(7, "query")), judge)
        return {(tuple(sorted(question.documents)), question.sample): question.documents for question in judge.questions}

    few, many = asks_of(9), asks_of(12)
    common = few.keys() & many.keys()
    assert len(common) >= 2
    assert all(few[key] == many[key] for key in common)


def test_all_shuffles_of_a_short_list_are_about_as_likely():
    seen = Counter(tuple(shuffled(4, hash_key("key", i))) for i in range(4800))
    assert len(seen) == 24
    assert all(150 < count < 250 for count in seen.values())  # 200 each, give or take 14

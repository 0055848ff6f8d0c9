"""The rerank methods with a perfect judge, an inconsistent one and one whose answers are unreadable."""

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rerank_judges import Recorded, drive_in_any_order, inconsistent, nonsense, perfect
from test_rerank_protocol import strictly_decreasing

from r0.records import Form, Violation
from r0.rerank.consensus import consensus
from r0.rerank.groupwise import groupwise
from r0.rerank.listwise import listwise
from r0.rerank.pointwise import pointwise
from r0.rerank.protocol import MethodRun, Ranking, Reply, drive
from r0.rerank.setwise import setwise

METHODS = {
    "pointwise": pointwise,
    "listwise": partial(listwise, window=6, step=3, passes=2),
    "setwise": partial(setwise, set_size=4, top_k=5),
    "setwise of two": partial(setwise, set_size=2, top_k=5),
    "groupwise": partial(groupwise, group_size=5, partitions=3, seed=7),
    "consensus of listwise": lambda n: consensus(lambda sample: listwise(n, 6, 3), n, 3, seed=7),
    "consensus of setwise": lambda n: consensus(lambda sample: setwise(n, 3, 4), n, 3, seed=7),
    "consensus of groupwise": lambda n: consensus(lambda sample: groupwise(n, 5, 2, seed=sample), n, 3, seed=7),
    "consensus of pointwise": lambda n: consensus(lambda sample: pointwise(n), n, 3, seed=7),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
sizes = st.integers(0, 45)


def worths(n, seed=0):
    """Different worths in 0…1, shuffled."""
    some = [i / max(n - 1, 1) for i in range(n)]
    random.Random(seed).shuffle(some)
    return some


def ideal(worth):
    return tuple(sorted(range(len(worth)), key=lambda position: -worth[position]))


# --- what holds for all ---


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "pointwise"])
def test_a_list_of_one_document_needs_no_question(name, n):
    method_run = MethodRun(METHODS[name](n))
    assert method_run.questions == []
    assert method_run.ranking is not None
    assert method_run.ranking.order == tuple(range(n))


@every_method
@pytest.mark.parametrize("n", [2, 5, 7, 25, 40])
def test_unreadable_answers_keep_the_first_stage_order(method, n):
    assert drive(method(n), nonsense).order == tuple(range(n))


@every_method
@given(n=sizes, seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_an_inconsistent_judge_gives_a_complete_ranking_in_any_reply_order(method, n, seed):
    ranking = drive(method(n), inconsistent(seed))
    assert sorted(ranking.order) == list(range(n))
    assert strictly_decreasing(ranking)
    assert drive_in_any_order(method(n), inconsistent(seed), seed) == ranking


@every_method
def test_a_perfect_judge_puts_the_best_first(method):
    for n in (2, 3, 9, 26):
        worth = worths(n, n)
        assert drive(method(n), perfect(worth)).order[0] == ideal(worth)[0]


# --- pointwise ---


def test_pointwise_scores_all_documents_at_once_by_probability():
    method_run = MethodRun(pointwise(3))
    assert [(question.documents, question.form) for question in method_run.questions] == [((i,), Form.YES_NO) for i in range(3)]
    ranking = drive(pointwise(3), perfect([0.25, 0.75, 0.5]))
    assert ranking.order == (1, 2, 0)
    assert ranking.scores == (0.25, 0.75, 0.5)


def test_pointwise_scores_a_single_candidate_too():
    assert drive(pointwise(1), perfect([0.25])).scores == (0.25,)
    assert MethodRun(pointwise(0)).ranking == Ranking((), ())


def test_a_candidate_without_a_probability_keeps_its_rank():
    judge = perfect([0.1, 0.9, 0.5, 0.7])
    ranking = drive(pointwise(4), lambda question: nonsense(question) if question.documents == (2,) else judge(question))
    assert ranking.order == (1, 3, 2, 0)


# --- listwise ---


@given(n=st.integers(0, 20), seed=st.integers(0, 100))
def test_one_window_gives_the_order_of_its_answer(n, seed):
    worth = worths(n, seed)
    assert drive(listwise(n, 20, 10), perfect(worth)).order == ideal(worth)


@given(n=st.integers(2, 120), size=st.integers(2, 20), data=st.data())
@settings(max_examples=60)
def test_one_pass_brings_the_best_to_the_head(n, size, data):
    step = data.draw(st.integers(1, size - 1))
    worth = worths(n, n)
    assert drive(listwise(n, size, step), perfect(worth)).order[: size - step] == ideal(worth)[: size - step]


@given(n=st.integers(2, 40), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_passes_enough_sort_the_whole_list(n, seed):
    worth = worths(n, seed)
    assert drive(listwise(n, 6, 3, passes=n), perfect(worth)).order == ideal(worth)


def test_a_hundred_documents_take_nine_questions_in_sequence():
    judge = Recorded(perfect(worths(100)))
    method_run, most = MethodRun(listwise(100)), 0
    questions = method_run.questions
    while method_run.ranking is None:
        most = max(most, len(questions))
        questions = method_run.answer(questions[0], judge(questions[0]))
    assert len(judge.questions) == 9
    assert most == 1
    assert judge.questions[0].documents == tuple(range(80, 100))
    assert judge.questions[0].form is Form.PERMUTATION
    assert {document for question in judge.questions for document in question.documents} == set(range(100))


def test_a_window_that_fails_stays_as_it_is_and_the_others_go_on():
    judge = perfect([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    ranking = drive(listwise(6, 4, 2), lambda question: nonsense(question) if 5 in question.documents else judge(question))
    assert ranking.order == (3, 2, 1, 0, 4, 5)


def test_a_pass_that_changes_nothing_is_the_last():
    judge = Recorded(nonsense)
    drive(listwise(100, passes=5), judge)
    assert len(judge.questions) == 9
    judge = Recorded(perfect(worths(100)))
    drive(listwise(100, passes=2), judge)
    assert len(judge.questions) == 18


# --- setwise ---


@given(n=st.integers(0, 60), set_size=st.integers(2, 8), top_k=st.integers(1, 70), seed=st.integers(0, 100))
@settings(max_examples=100)
def test_setwise_sorts_the_head_exactly_and_keeps_the_order_of_the_rest(n, set_size, top_k, seed):
    worth = worths(n, seed)
    judge = Recorded(perfect(worth))
    order = drive(setwise(n, set_size, top_k), judge).order
    assert order[:top_k] == ideal(worth)[:top_k]
    assert list(order[top_k:]) == sorted(order[top_k:])
    for question in judge.questions:
        assert 2 <= len(question.documents) <= set_size
        assert list(question.documents) == sorted(question.documents)


def test_setwise_needs_far_fewer_questions_than_all_pairs():
    judge = Recorded(perfect(worths(100)))
    drive(setwise(100, 4, 10), judge)
    assert len(judge.questions) < 120  # all pairs would be 4,950
    judge = Recorded(perfect(worths(100)))
    drive(setwise(100, 2, 10), judge)
    assert len(judge.questions) < 330


def test_nodes_of_one_depth_are_compared_in_parallel():
    method_run = MethodRun(setwise(40, 4, 10))
    assert len(method_run.questions) == 9  # nodes 4 to 12: their children are the leaves 13 to 39
    assert len({document for question in method_run.questions for document in question.documents}) == 36


def test_an_answer_that_fails_leaves_the_choice_to_the_first_stage():
    judge = perfect([0.1, 0.2, 0.3, 0.9])
    ranking = drive(setwise(4, 4, 1), lambda question: nonsense(question))
    assert ranking.order == (0, 1, 2, 3)
    assert drive(setwise(4, 4, 1), judge).order == (3, 0, 1, 2)


# --- groupwise ---


@given(n=st.integers(2, 90), group_size=st.integers(2, 25), partitions=st.integers(1, 4), seed=st.integers(0, 2**40))
@settings(max_examples=60)
def test_each_partition_shows_every_document_once(n, group_size, partitions, seed):
    method_run = MethodRun(groupwise(n, group_size, partitions, seed))
    assert len(method_run.questions) == partitions * -(-n // group_size)
    for partition in range(partitions):
        groups = [question.documents for question in method_run.questions if question.sample == partition]
        assert sorted(document for group in groups for document in group) == list(range(n))
        assert max(map(len, groups)) <= group_size
        assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_partitions_differ_and_repeat_by_their_seed():
    def shown(seed):
        return [question.documents for question in MethodRun(groupwise(60, 20, 3, seed)).questions]

    assert shown(5) == shown(5) != shown(6)
    assert len(set(shown(5))) == 9


def test_scores_are_means_over_the_partitions_that_gave_one():
    def answer(question):  # document d gets d from partition 0, d + 2 from partition 1; document 2 is left out by partition 1
        scores = [None if d == 2 and question.sample else d + 2.0 * question.sample for d in question.documents]
        return Reply((tuple(range(len(scores))),), scores=tuple(scores), failures=frozenset({Violation.MISSING_ID}))

    ranking = drive(groupwise(4, 4, 2), answer)
    assert ranking.scores == (1.0, 2.0, pytest.approx(2.0), 4.0)
    assert ranking.order == (3, 1, 2, 0)  # 1 and 2 tie: the given order


def test_documents_of_a_group_that_failed_keep_their_ranks():
    judge = perfect([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    failed = MethodRun(groupwise(6, 3)).questions[0]
    ranking = drive(groupwise(6, 3), lambda question: nonsense(question) if question == failed else judge(question))
    assert all(ranking.order[document] == document for document in failed.documents)
    others = [document for document in ranking.order if document not in failed.documents]
    assert others == sorted(others, reverse=True)

"""Rankings from orders and scores, driving a method, windows, fusion."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r0.errors import UserError
from r0.records import Form
from r0.rerank.fusion import fuse
from r0.rerank.protocol import Question, Ranking, Reply, best_first, drive, with_tail
from r0.rerank.windows import windows
from r0.text.lenient_answers import read_lenient

orders = st.integers(0, 30).flatmap(lambda n: st.permutations(range(n)))
values = st.lists(st.none() | st.floats(-1e30, 1e30) | st.sampled_from([0.0, 1.0, 0.5]), max_size=30)


def strictly_decreasing(ranking):
    """In single precision, as trec_eval reads scores."""
    along = np.array([ranking.scores[position] for position in ranking.order], dtype=np.float32)
    return bool((along[1:] < along[:-1]).all()) and bool(np.isfinite(along).all())


# --- rankings ---


@given(orders)
def test_scores_of_an_order_express_the_order(order):
    ranking = Ranking.of_order(order)
    assert ranking.order == tuple(order)
    assert strictly_decreasing(ranking)
    assert all(0 < score <= 1 for score in ranking.scores)


def test_scores_of_an_order_are_evenly_spaced_from_one():
    assert Ranking.of_order([2, 0, 3, 1]).scores == (0.75, 0.25, 1.0, 0.5)


@given(values)
def test_scores_give_their_order_and_failures_keep_their_rank(some):
    ranking = Ranking.of_scores(some)
    assert sorted(ranking.order) == list(range(len(some)))
    assert strictly_decreasing(ranking)
    assert all(ranking.order[i] == i for i, value in enumerate(some) if value is None)
    known = [position for position in ranking.order if some[position] is not None]
    assert known == sorted(known, key=lambda position: (-some[position], position))


def test_equal_scores_are_lowered_by_the_smallest_single_precision_step():
    ranking = Ranking.of_scores([0.25, 1.0, 1.0, 0.5])
    assert ranking.order == (1, 2, 3, 0)
    assert (ranking.scores[0], ranking.scores[1], ranking.scores[3]) == (0.25, 1.0, 0.5)
    assert ranking.scores[2] == float(np.nextafter(np.float32(1.0), np.float32(0.0)))


def test_a_failure_keeps_its_rank_with_a_score_between_its_neighbours():
    ranking = Ranking.of_scores([None, 0.25, None, 0.75])
    assert ranking.order == (0, 3, 2, 1)
    assert ranking.scores[1] == 0.25
    assert strictly_decreasing(ranking)
    assert Ranking.of_scores([None, None]) == Ranking.of_order([0, 1])


@given(values, st.integers(0, 5))
def test_the_tail_follows_in_the_given_order(some, more):
    head = Ranking.of_scores(some)
    ranking = with_tail(head, len(some) + more)
    assert ranking.order == head.order + tuple(range(len(some), len(some) + more))
    assert ranking.scores[: len(some)] == head.scores
    if max(map(abs, head.scores), default=0.0) < 1e6:
        assert strictly_decreasing(ranking)


def test_ties_in_a_reply_keep_the_order_shown():
    question = Question((4, 7, 5, 9), Form.PERMUTATION)
    assert best_first(question, Reply(((2,), (0,), (3,), (1,)))) == (5, 4, 9, 7)
    assert best_first(question, Reply(((3, 1), (2, 0)))) == (7, 9, 4, 5)
    assert best_first(question, Reply(((0, 1, 2, 3),))) == (4, 7, 5, 9)


@pytest.mark.parametrize("groups", [((0,), (1,)), ((0, 1), (1,)), ((1, 2, 3),), ()])
def test_a_reply_must_contain_each_document_once(groups):
    with pytest.raises(ValueError, match="must hold each of 0…2 once"):
        best_first(Question((4, 7, 5), Form.PERMUTATION), Reply(groups))


pieces = st.sampled_from(
    ["[1]", "[2]", "[3]", "[9]", " > ", " = ", ", ", '{"1": 3, "2": 3}', "<answer>", "</answer>", "</think>", "x"]
)


@given(st.lists(pieces, max_size=12).map("".join), st.sampled_from([Form.PERMUTATION, Form.PICK, Form.SCORES]), st.integers(1, 4))
def test_any_completion_gives_a_valid_reply(text, form, size):
    reading = read_lenient(text, form, size)
    question = Question(tuple(range(10, 10 + size)), form)
    assert best_first(question, Reply(reading.groups)) == tuple(10 + place for place in reading.order)


@pytest.mark.parametrize(
    ("answer", "form", "groups"),
    [
        ("[3] > [1] = [2]", Form.PERMUTATION, ((2,), (0, 1), (3,))),
        ("[3] > [3] > [9]", Form.PERMUTATION, ((2,), (0, 1, 3))),
        ("nothing", Form.PERMUTATION, ((0, 1, 2, 3),)),
        ("[2]", Form.PICK, ((1,), (0, 2, 3))),
        ("[9]", Form.PICK, ((0, 1, 2, 3),)),
        ('{"1": 5, "3": 7, "4": 5}', Form.SCORES, ((2,), (0, 3), (1,))),
        ("{}", Form.SCORES, ((0, 1, 2, 3),)),
    ],
)
def test_lenient_parsing_reports_ties(answer, form, groups):
    assert read_lenient(f"</think><answer>{answer}</answer>", form, 4, "<think>").groups == groups


def test_drive_runs_a_method_that_waits_for_answers():
    def method():
        first, _ = yield [Question((0,), Form.YES_NO), Question((1,), Form.YES_NO)]
        second, _ = yield []  # nothing new: it waits for the other
        third, reply = yield [Question((2,), Form.YES_NO)]
        return Ranking.of_order([first.documents[0], second.documents[0], third.documents[0]][:: reply.tokens])

    asked = []

    def answer(question):
        asked.append(question.documents)
        return Reply(((0,),), tokens=-1)

    assert drive(method(), answer).order == (2, 1, 0)
    assert asked == [(0,), (1,), (2,)]


# --- windows ---


@pytest.mark.parametrize(("size", "step"), [(20, 10), (20, 5), (20, 19), (10, 5), (3, 1), (2, 1)])
def test_windows_show_every_document_of_every_list(size, step):
    for n in range(201):
        spans = windows(n, size, step)
        assert {i for start, stop in spans for i in range(start, stop)} == set(range(n))
        assert all(stop - start == size for start, stop in spans[:-1])
        assert all(later[0] < earlier[0] < later[1] for earlier, later in pairwise(spans))
        assert not spans or (spans[0][1] == n and spans[-1][0] == 0)
        assert all(stop - start > 1 for start, stop in spans) or n == 1


def test_windows_by_hand():
    assert len(windows(100, 20, 10)) == 9
    assert windows(100, 20, 10) == [(start, start + 20) for start in range(80, -1, -10)]
    assert windows(25, 20, 10) == [(5, 25), (0, 15)]
    assert windows(15, 20, 10) == [(0, 15)]
    assert windows(10, 20, 10) == [(0, 10)]
    assert windows(21, 20, 10) == [(1, 21), (0, 11)]
    assert windows(0, 20, 10) == []


@pytest.mark.parametrize(("size", "step"), [(20, 20), (20, 30), (20, 0), (1, 1), (20, -1)])
def test_windows_that_do_not_overlap_are_refused(size, step):
    with pytest.raises(UserError, match=f"step={step} .* windows of {size} overlap"):
        windows(50, size, step)


# --- fusion ---


def test_fusion_by_hand():
    ranking = Ranking.of_scores([0.2, 1.0, 0.6])  # scaled: 0, 1, 0.5
    fused = fuse(ranking, [30.0, 10.0, 20.0], 0.25)  # scaled: 1, 0, 0.5
    assert fused.order == (1, 2, 0)
    assert fused.scores == pytest.approx((0.25, 0.75, 0.5))
    assert fuse(ranking, [30.0, 10.0, 20.0], 0.75).order == (0, 2, 1)


def test_fusion_at_the_ends():
    ranking = Ranking.of_order([2, 0, 1])
    assert fuse(ranking, [3.0, 2.0, 1.0], 0.0) is ranking
    assert fuse(ranking, [3.0, 2.0, 1.0], 1.0).order == (0, 1, 2)


def test_constant_first_stage_scores_change_no_order():
    ranking = Ranking.of_order([2, 0, 1])
    for weight in (0.3, 1.0):
        assert fuse(ranking, [7.0, 7.0, 7.0], weight).order == (2, 0, 1)
    assert fuse(ranking, [7.0] * 3, 0.5).scores[2] == pytest.approx(0.75)  # half of 1 and half of 0.5


def test_fusion_of_nothing_and_of_one():
    assert fuse(Ranking.of_order([]), [], 0.5).order == ()
    assert fuse(Ranking.of_order([0]), [3.0], 0.5) == Ranking((0,), (0.5,))


@given(orders.filter(len), st.floats(0.01, 1.0), st.data())
@settings(max_examples=50)
def test_fusion_orders_by_its_scores_and_gives_every_candidate(order, weight, data):
    first = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=len(order), max_size=len(order)))
    fused = fuse(Ranking.of_order(order), first, weight)
    assert sorted(fused.order) == sorted(order)
    assert strictly_decreasing(fused)


@pytest.mark.parametrize("bad", [[1.0], [1.0, 2.0, float("nan")], [1.0, 2.0, float("inf")]])
def test_fusion_refuses_scores_it_cannot_scale(bad):
    with pytest.raises(ValueError, match="3 finite numbers"):
        fuse(Ranking.of_order([0, 1, 2]), bad, 0.5)


def test_fusion_refuses_weights_outside_its_range():
    with pytest.raises(ValueError, match="from 0 to 1"):
        fuse(Ranking.of_order([0]), [1.0], 1.5)

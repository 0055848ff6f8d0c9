"""Thoughts with a budget: closed at the limit with the answer asked for, left alone below it, left out at 0."""

import pytest

from r0.records import Finish, Form, Prompt, Sampled
from r0.rerank.thought_budget import ThoughtBudget
from r0.text.completion import CompletionReader
from r0.text.template import Template
from tests.helpers import tiny_tokenizer

MOST = 80  # the tokenizer's tokens are bytes
TOKENIZER = tiny_tokenizer()
LIST = [(Form.PERMUTATION, "[2] > [1]</answer>"), (Form.PICK, "[2]</answer>"), (Form.SCORES, '{"1": 0, "2": 9}</answer>')]


def ids(text):
    return tuple(TOKENIZER(text, add_special_tokens=False).input_ids)


def prompt(prefix=""):
    return Prompt(ids("Judge." + prefix), prefix, 0)


def complete(says, form, limit, prefix="", most=MOST):
    """The completion, and what was asked: prompts as text, and tokens. ``says``: the completions, cut as was asked for."""
    budget = ThoughtBudget(Template(TOKENIZER), CompletionReader(TOKENIZER), most)
    asking = budget.complete(prompt(prefix), form, 2, limit)
    wanted, asked, says = next(asking), [], list(says)
    while True:
        asked.append((TOKENIZER.decode(wanted.prompt_ids), wanted.max_new_tokens))
        said = ids(says.pop(0))
        cut = said[: wanted.max_new_tokens]
        finish = Finish.LENGTH if len(cut) == wanted.max_new_tokens else Finish.STOP
        try:
            wanted = asking.send(Sampled(cut, (0.0,) * len(cut), finish, 0))
        except StopIteration as done:
            assert not says
            return done.value, asked


@pytest.mark.parametrize("prefix", ["", "<think>"])
@pytest.mark.parametrize(("form", "answer"), LIST)
def test_a_lists_thought_is_closed_at_its_limit_and_the_answer_sampled(form, answer, prefix):
    opened = "" if prefix else "<think>"
    done, asked = complete([opened + "a" * 60, answer], form, 20, prefix)
    thought = (opened + "a" * 60)[:20]
    assert asked == [(f"Judge.{prefix}", 20), (f"Judge.{prefix}{thought}</think><answer>", MOST - 20)]
    assert done.forced
    assert done.text == f"{thought}</think><answer>{answer}"
    assert done.tokens == 20 + len(answer)
    assert done.finish is Finish.STOP


def test_a_thought_about_one_document_ends_at_its_limit():
    done, asked = complete(["<think>" + "a" * 60], Form.YES_NO, 20)
    assert (done.forced, done.text, done.tokens) == (True, "<think>" + "a" * 13, 20)
    assert len(asked) == 1


@pytest.mark.parametrize("form", [Form.YES_NO, Form.PERMUTATION])
def test_a_thought_below_its_limit_is_left_alone(form):
    done, asked = complete(["<think>ab</think>"], form, 30)
    assert (done.forced, done.text, asked) == (False, "<think>ab</think>", [("Judge.", 30)])


@pytest.mark.parametrize("form", [Form.YES_NO, Form.PERMUTATION])
def test_an_answer_after_a_thought_of_its_own_length_goes_on_beyond_the_limit(form):
    said = "<think>ab</think><answer>yes</answer>"
    done, asked = complete([said[:20] + "?", said[20:]], form, 20)
    assert asked[1] == ("Judge." + said[:20], MOST - 20)
    assert (done.forced, done.text, done.tokens) == (False, said, len(said))


@pytest.mark.parametrize(("prefix", "opening"), [("", "<think></think>"), ("<think>", "</think>"), ("<think></think>", "")])
def test_without_a_thought_the_answer_begins_at_once(prefix, opening):
    done, asked = complete(["[1] > [2]</answer>"], Form.PERMUTATION, 0, prefix)
    assert asked == [(f"Judge.{prefix}{opening}<answer>", MOST)]
    assert (done.forced, done.text) == (False, f"{opening}<answer>[1] > [2]</answer>")


@pytest.mark.parametrize(("limit", "forced"), [(None, False), (MOST, True), (MOST + 5, True)])
def test_a_thought_as_long_as_a_completion_is_closed_only_with_a_budget(limit, forced):
    done, asked = complete(["<think>" + "a" * 200], Form.YES_NO, limit)
    assert (done.forced, done.tokens, asked) == (forced, MOST, [("Judge.", MOST)])
    assert done.finish is (Finish.STOP if forced else Finish.LENGTH)


def test_a_thought_that_ends_with_the_completion_has_no_answer():
    done, asked = complete(["<think>" + "a" * (MOST - 15) + "</think>" + "more"], Form.YES_NO, MOST)
    assert (done.forced, done.finish, done.tokens, len(asked)) == (False, Finish.LENGTH, MOST, 1)


def test_a_lists_answer_has_room_whatever_the_limit():
    done, asked = complete(["<think>" + "a" * 200, "[2] > [1]</answer>"], Form.PERMUTATION, MOST)
    assert done.forced
    assert done.text.endswith("<answer>[2] > [1]</answer>")
    assert asked[0][1] < MOST - len("[1] > [2]</answer>")

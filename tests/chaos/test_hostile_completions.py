"""100,000 completions by a grammar of what models write when they go wrong: each is scored, none stops the worker."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator

import pytest

from r0.actors.reward.worker import Failed, RewardWorker
from r0.config import StageBConfig
from r0.config.sections import RewardSection
from r0.records import Finish, Form, ListLabel, ListwiseTask, PointwiseTask, Prompt, Rollout, Sampled
from r0.text.lenient_answers import read_lenient
from tests.helpers import tiny_tokenizer
from tests.rollouts import outcome

COMPLETIONS, PART = 100_000, 2_000
GRAMMAR = {
    "completion": ["$think$answer", "$think$junk$answer$junk", "$answer$think", "$junk$junk", "$tag$completion"],
    "think": ["<think>$junk</think>", "<think>$junk", "$junk</think>", "<think><think>$junk</think>", "<Think>$junk</Think>"],
    "answer": ["<answer>$content</answer>", "<answer>$content", "$content</answer>", "<answer></answer>", "```$content```"],
    "content": ["yes", "no", " YES\n", "$order", "$order > $order", "$scores", "$junk", "[$number]", "$content$content"],
    "order": ["[$number]", "[$number] > $order", "[$number] = $order", "$number, $order", ">", "[2] > [3] > [1]", "[$junk]"],
    "scores": ['{"$number": $number}', '{"1": 3, "2": $number, "3": 0}', '{"1": [[[[', '{"1": 1e999}'],
    "number": ["1", "2", "3", "0", "-1", "99999999999999999999", "1.5", "NaN", "٣", "01", "1e400", ""],
    "junk": ["", " ", "\n\n", "word ", "$junk$junk", "\x00", "\u202e", "é😀", "<|im_end|>", "<|im_start|>", "$tag", "a" * 300],
    "tag": ["<think>", "</think>", "<answer>", "</answer>", "<", "</answer", "<think", "&lt;think&gt;"],
}


def expand(dice: random.Random, symbol: str = "completion", depth: int = 12) -> str:
    """A random text of the grammar, of at most ``depth`` rules within one another."""
    if not depth:
        return ""
    return re.sub(r"\$(\w+)", lambda found: expand(dice, found[1], depth - 1), dice.choice(GRAMMAR[symbol]))


def rollouts(dice: random.Random, tokenizer, form: Form) -> Iterator[Rollout]:
    """Completions as ids, a few of them changed: ids that are not in the vocabulary, and ends in the middle of a character."""
    label = ListLabel((2.0, 0.0, 1.0), (1, 0, 2))
    task = PointwiseTask(0, "q", "d", 1) if form is Form.YES_NO else ListwiseTask(0, "q", ("a", "b", "c"), label, form)
    while True:
        ids = tokenizer.encode(expand(dice), add_special_tokens=False)
        if dice.random() < 0.1:
            ids[dice.randrange(len(ids) + 1) :] = [dice.choice([-1, 2**31 - 1, 0, 2, 300])]
        finish = dice.choice(list(Finish))
        yield Rollout(task, 0, 0, Prompt((), dice.choice(["", "<think>"])), Sampled(tuple(ids), (0.0,) * len(ids), finish, 0))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", list(Form))
def test_every_completion_of_a_hostile_grammar_has_a_finite_reward(form):
    dice, tokenizer = random.Random(form.value), tiny_tokenizer()
    lists = StageBConfig(output="", model="", **({} if form is Form.YES_NO else {"answer": form.value})).reward
    worker = RewardWorker(tokenizer, RewardSection() if form is Form.YES_NO else lists)
    made, answers = rollouts(dice, tokenizer, form), 0
    for _ in range(COMPLETIONS // len(Form) // PART):
        part = [next(made) for _ in range(PART)]
        for rollout in part:
            one, text = outcome(worker, rollout)
            assert not isinstance(one, Failed), one
            assert math.isfinite(one.total)
            assert (one.verdict.answer is None) or not one.verdict.violations & {"no_answer", "bad_answer", "repeated_answer"}
            answers += one.verdict.answer is not None
            reading = read_lenient(text, form, rollout.task.size)
            assert sorted(reading.order) == list(range(rollout.task.size))
    assert answers > 10, answers  # some of them can be read

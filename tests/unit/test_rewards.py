"""Stage A's reward by a table of completions, the registry of rewards, and the reward role without Ray."""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import re
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError
from verdict_tokenizers import tokenizer_of

from r0.actors.pool import Pool
from r0.actors.reward.group import RewardGroup, SampledGroup
from r0.actors.reward.worker import RewardWorker, load_tokenizer
from r0.config.sections import RewardSection
from r0.errors import UserError
from r0.records import Completions, Finish, PointwiseTask, Prompt, Rollout, Sampled, Verdict
from r0.rewards import check_reward, make_reward, register, reward_names
from r0.rewards.stage_a import COMPONENTS
from r0.text.completion import CompletionReader
from tests.rollouts import outcome, score

SECTION = RewardSection(max_think_tokens=200, missing_eos_penalty=0.5)


def think(tokens: int) -> str:
    return f"<think>{' word' * tokens}</think>"


# name: (completion, thinking tokens, components that are not 0, total) for the label yes.
ROWS = {
    "perfect": (think(100) + "<answer>yes</answer>", 100, {"format": 0.4, "accuracy": 0.5, "thinking": 0.3}, 1.2),
    "wrong": (think(100) + "<answer>no</answer>", 100, {"format": 0.4, "thinking": 0.3}, 0.7),
    "10 thinking tokens": (think(10) + "<answer>yes</answer>", 10, {"format": 0.4, "accuracy": 0.5}, 0.9),
    "300 thinking tokens": (think(300) + "<answer>yes</answer>", 300, {"format": 0.4, "accuracy": 0.5, "length": -0.025}, 0.875),
    "extra text": (
        think(100) + "<answer>yes</answer> This is extra text!",
        100,
        {"format": 0.4, "accuracy": 0.5, "thinking": 0.3, "extra_text": -0.2},
        1.0,
    ),
    "maybe": (think(100) + "<answer>maybe</answer>", 100, {}, 0.0),
    "no thought": ("<answer>yes</answer>", 0, {"format": 0.4, "accuracy": 0.5, "tags": -0.5}, 0.4),
    "two answers": (think(100) + "<answer>yes</answer><answer>yes</answer>", 100, {"tags": -0.5}, -0.5),
    "thought and nothing": (think(100), 100, {"tags": -0.5, "answer": -0.3}, -0.8),
    "empty": ("", 0, {"tags": -0.5, "answer": -0.3}, -0.8),
    "plain text": ("word word", 0, {"tags": -0.5, "answer": -0.3}, -0.8),
    # and the edges of the rules
    "64 is enough": (think(64) + "<answer>yes</answer>", 64, {"format": 0.4, "accuracy": 0.5, "thinking": 0.3}, 1.2),
    "63 is not": (think(63) + "<answer>yes</answer>", 63, {"format": 0.4, "accuracy": 0.5}, 0.9),
    "200 is not too long": (think(200) + "<answer>yes</answer>", 200, {"format": 0.4, "accuracy": 0.5, "thinking": 0.3}, 1.2),
    "201 is": (think(201) + "<answer>yes</answer>", 201, {"format": 0.4, "accuracy": 0.5, "length": -0.00025}, 0.89975),
    "white space": (
        think(100) + "\n<answer>\n yes </answer>\n",
        100,
        {"format": 0.4, "accuracy": 0.5, "thinking": 0.3},
        1.2,
    ),
    "text between": (
        think(100) + "so<answer>yes</answer>",
        100,
        {"format": 0.4, "accuracy": 0.5, "thinking": 0.3, "tags": -0.5},
        0.7,
    ),
    "answer not closed": (think(100) + "<answer>yes", 100, {"tags": -0.5, "answer": -0.3}, -0.8),
}


@pytest.mark.parametrize("opened", [False, True], ids=["opened by the model", "opened by the template"])
@pytest.mark.parametrize("family", ["added_tags", "metaspace"])
@pytest.mark.parametrize("row", ROWS)
def test_design_table(row, family, opened):
    text, tokens, components, total = ROWS[row]
    prefix = "<think>" if opened else ""
    check(family, text.removeprefix(prefix), prefix, Finish.STOP, tokens, components, total)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("tokens", [0, 100, 255])
def test_design_table_cut_within_the_thought(tokens, opened):
    prefix = "<think>" if opened else ""
    text = ("" if opened else "<think>") + " word" * tokens
    check("added_tags", text, prefix, Finish.LENGTH, 0, {"tags": -0.5, "answer": -0.3, "eos": -0.5}, -1.3)


def check(family, text, prefix, finish, tokens, components, total):
    tokenizer = tokenizer_of(family)
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    if finish == Finish.STOP:
        ids = (*ids, tokenizer.eos_token_id)
    _, verdict = CompletionReader(tokenizer).read(ids, prefix, finish)
    given = make_reward(SECTION)(verdict, 1)
    assert list(given) == list(COMPONENTS)
    assert "-0.0" not in map(str, given.values())
    if family == "added_tags":
        assert verdict.think_tokens == tokens
    assert {name: value for name, value in given.items() if value} == pytest.approx(components)
    assert sum(given.values()) == pytest.approx(total)


def test_the_parameters_are_the_configurations():
    section = RewardSection(format_weight=1.0, acc_weight=2.0, think_bonus=4.0, min_think_tokens=1, max_think_tokens=3)
    reward = make_reward(section)
    assert sum(reward(Verdict("no", 2, True), 0).values()) == 7.0
    assert sum(reward(Verdict("no", 2, True), 1).values()) == 5.0
    assert sum(reward(Verdict("no", 2, False), 0).values()) == 3.0
    assert reward(Verdict("no", 6, True), 0)["length"] == pytest.approx(-0.05)
    with pytest.raises(ValidationError):
        RewardSection(format_weight=float("nan"))


def test_an_unknown_reward_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'stage_a'"):
        make_reward(RewardSection(name="stage-a"))
    with pytest.raises(UserError, match="not from an import path"):
        check_reward(RewardSection(name="os:system"))


def test_a_name_is_registered_once():
    assert "stage_a" in reward_names()
    with pytest.raises(ValueError, match="already registered"):
        register("stage_a")(lambda section: lambda verdict, label: {})


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with entry points of the group r0.rewards."""
    (tmp_path / "other_rewards.py").write_text(
        "def make(section):\n    return lambda verdict, label: {'weight': section.acc_weight}\nnumber = 3\n"
    )
    info = tmp_path / "other_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[r0.rewards]\nother = other_rewards:make\nbroken = missing_module:make\nno_function = other_rewards:number\n"
        "stage_a = other_rewards:make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("package")
def test_an_installed_package_adds_a_reward_by_its_entry_point():
    check_reward(RewardSection(name="other"))
    assert make_reward(RewardSection(name="other"))(Verdict(None, 0, False), 0) == {"weight": 0.5}
    assert set(make_reward(RewardSection())(Verdict(None, 0, False), 0)) == set(COMPONENTS), "r0's own name comes first"
    for name, reason in (("broken", "cannot be loaded"), ("no_function", "not callable")):
        check_reward(RewardSection(name=name))
        with pytest.raises(UserError, match=reason):
            make_reward(RewardSection(name=name))


def test_rewards_need_neither_tokenizer_nor_torch_nor_ray():
    heavy = ("torch", "ray", "transformers", "tokenizers", "numpy")
    code = f"import sys, r0.rewards; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def rollouts(count: int) -> list[Rollout]:
    ids = tuple(tokenizer_of("added_tags").encode(think(80) + "<answer>yes</answer><|end|>", add_special_tokens=False))
    sampled = Sampled(ids, (0.0,) * len(ids), Finish.STOP, 0)
    return [Rollout(PointwiseTask(i, "q", "d", i % 2), i, 0, Prompt((1,)), sampled) for i in range(count)]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 2, 7])
def test_an_inline_group_scores_in_order(workers, count):
    pool = Pool("reward", lambda index: RewardWorker(tokenizer_of("added_tags"), SECTION), workers)
    group = RewardGroup(pool, SECTION)
    given = rollouts(count)
    scored = score(group, given)
    assert [one.rollout for one in scored] == given
    assert [one.total for one in scored] == pytest.approx([1.2 if i % 2 else 0.7 for i in range(count)])
    assert all(one.text == think(80) + "<answer>yes</answer>" for one in scored)
    assert group.restarts == 0


def test_scores_do_not_depend_on_which_group_is_complete_first():
    groups = [SampledGroup(one.task, one.group, one.prompt, 1, Completions.of([one.sampled])) for one in rollouts(5)]
    found = []
    for order in (groups, groups[::-1]):
        workers = Pool("reward", lambda index: RewardWorker(tokenizer_of("added_tags"), SECTION), 2)
        batch = RewardGroup(workers, SECTION).batch()
        for group in order:
            batch.add(group)
        found.append(batch.finish())
    assert found[0] == found[1]
    assert [group.group for group in found[0]] == list(range(5))


def test_a_worker_knows_every_end_of_sequence_id_of_the_model(tmp_path):
    tokenizer = tokenizer_of("added_tags")
    tokenizer.save_pretrained(tmp_path)
    given = rollouts(2)
    loaded, ends = load_tokenizer(str(tmp_path))
    assert [outcome(RewardWorker(loaded, SECTION, ends), one)[0].total for one in given] == pytest.approx([0.7, 1.2])
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": [{tokenizer.eos_token_id}, 5]}}')
    ids = (*given[0].sampled.token_ids[:-1], 5)
    other = Rollout(given[0].task, 0, 0, Prompt((1,)), Sampled(ids, (0.0,) * len(ids), Finish.STOP, 0))
    loaded, ends = load_tokenizer(str(tmp_path))
    assert outcome(RewardWorker(loaded, SECTION, ends), other)[0].verdict.well_formed


def test_a_tokenizer_from_another_process_is_unpickled_without_torch(tmp_path):
    """A reward worker starts without the seconds that transformers' loading code takes to import."""
    tokenizer_of("added_tags").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.pickle").write_bytes(pickle.dumps(load_tokenizer(str(tmp_path))))
    code = (
        "import pickle, sys; import r0.actors.reward.worker as reward; from r0.config.sections import RewardSection; "
        f"tokenizer, ends = pickle.load(open({str(tmp_path / 'tokenizer.pickle')!r}, 'rb')); "
        "reward.RewardWorker(tokenizer, RewardSection(), ends); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def group_of(fault, **section) -> RewardGroup:
    """A group of one worker inline, whose reward calls ``fault`` for the label 1 and is right for 0."""
    name = f"faulty{len(reward_names())}"
    register(name)(lambda section: lambda verdict, label: fault() if label else {"good": 1.0})
    made = RewardSection(name=name, **section)
    return RewardGroup(Pool("reward", lambda _: RewardWorker(tokenizer_of("added_tags"), made), 1), made)


def raising(error: BaseException):
    def fault():
        raise error

    return fault


def hanging():
    while True:
        with contextlib.suppress(Exception):  # as code that is careless about what it catches
            time.sleep(0.01)


FAULTS = {
    "nan": (lambda: {"good": math.nan}, "returned numbers that are not finite: {'good': nan}, twice"),
    "too large": (lambda: {"good": 1e308, "more": 1e308}, "raised OverflowError: intermediate overflow in fsum, twice"),
    "none": (lambda: None, "returned NoneType None, not numbers by name, twice"),
    "a number": (lambda: 1.0, "returned float 1.0, not numbers by name, twice"),
    "a list": (lambda: [1.0], "returned list [1.0], not numbers by name, twice"),
    "a text": (lambda: {"good": "1.0"}, "returned str '1.0' as component str 'good', not a number, twice"),
    "a list inside": (lambda: {"good": [1.0]}, "returned list [1.0] as component str 'good', not a number, twice"),
    "a name that is none": (lambda: {1: 1.0}, "returned float 1.0 as component int 1, not a number, twice"),
    "other names": (lambda: {"good": 1.0, "new": 1.0}, "returned the components good, new, but good before, twice"),
    "no names": (dict, "returned the components none, but good before, twice"),
    "raises": (raising(KeyError("x")), "raised KeyError: 'x', twice"),
    "exits": (raising(SystemExit(3)), "raised SystemExit: 3, twice"),
    "recursion": (raising(RecursionError("deep")), "raised RecursionError: deep, twice"),
    "hangs": (hanging, "did not answer within 0.2 s, twice"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_reward_that_fails_twice_stops_with_its_task_and_sample(name):
    fault, said = FAULTS[name]
    with pytest.raises(UserError) as error:
        score(group_of(fault, deadline_s=0.2), rollouts(3))
    assert re.fullmatch(r"reward 'faulty\d+', task 1, sample 0: the reward .*", str(error.value))
    assert f"the reward {said}; mend it, or set reward.failure_value to go on" in str(error.value)


@pytest.mark.parametrize("name", FAULTS)
def test_a_reward_that_fails_twice_is_worth_the_failure_value(name):
    group = group_of(FAULTS[name][0], deadline_s=0.2, failure_value=-0.5)
    given = rollouts(5)
    scored = score(group, given)
    assert [one.rollout for one in scored] == given
    assert [one.total for one in scored] == [1.0, -0.5, 1.0, -0.5, 1.0]
    assert [dict(one.components) for one in scored[:2]] == [{"good": 1.0}, {"failure": -0.5}]
    assert scored[1].verdict == scored[0].verdict
    assert score(group, given[:1])[0].total == 1.0  # the next batch is as before


def test_a_reward_that_fails_once_is_asked_again():
    answers = iter([None, {"good": 2.0}])
    assert [one.total for one in score(group_of(lambda: next(answers)), rollouts(2))] == [1.0, 2.0]


def test_a_reward_that_hangs_once_is_asked_again():
    first = iter([hanging])
    group = group_of(lambda: next(first, lambda: {"good": 2.0})(), deadline_s=0.2)
    assert [one.total for one in score(group, rollouts(2))] == [1.0, 2.0]
    assert group.restarts == 1


def test_workers_whose_components_differ_are_refused():
    made = itertools.count()

    def make(section):
        own = f"part{next(made)}"
        return lambda verdict, label: {own: 1.0}

    name = "differs"
    register(name)(make)
    section = RewardSection(name=name)
    pool = Pool("reward", lambda _: RewardWorker(tokenizer_of("added_tags"), section), 2)
    with pytest.raises(UserError, match="task 1, sample 0: the reward returned the components part1, but part0 before"):
        score(RewardGroup(pool, section), rollouts(2))


def test_a_factory_that_makes_no_reward_is_refused():
    register("nothing")(lambda section: None)
    with pytest.raises(UserError, match="the factory of 'nothing' returned None, which is not a reward"):
        make_reward(RewardSection(name="nothing"))

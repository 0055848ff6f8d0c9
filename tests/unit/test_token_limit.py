"""Completions cut at the token limit: penalised, masked or kept, and the soft overlong punishment before the limit."""

from __future__ import annotations

import random
import statistics

import pytest
import torch
from pydantic import ValidationError
from verdict_tokenizers import tokenizer_of

from r0 import sampling
from r0.actors.learner.batch import make_batch, make_minibatches, read_groups
from r0.actors.learner.comm import Comm
from r0.actors.learner.idle import skip_idle
from r0.actors.pool import Pool
from r0.actors.reward.group import RewardGroup
from r0.actors.reward.worker import RewardWorker
from r0.algos.advantages import ADVANTAGES
from r0.config import StageAConfig, StageBConfig
from r0.config.lists import ListRewardSection
from r0.config.sections import RewardSection
from r0.errors import UserError
from r0.records import (
    Completions,
    Finish,
    ListLabel,
    ListwiseTask,
    PointwiseTask,
    Prompt,
    Rollout,
    Sampled,
    Score,
    Scored,
    ScoredGroup,
    Verdict,
    Violation,
)
from r0.rewards import register
from r0.rewards.token_limit import TokenLimit
from r0.runs.bad_batches import _whose
from r0.runs.metrics import rollout_metrics
from r0.runs.rollout_log import RolloutLog
from r0.storage.rollout_lines import read_rollouts
from tests.rollouts import outcome
from tests.rollouts import score as score_all

TOKENIZER = tokenizer_of("added_tags")
PAIR = PointwiseTask(3, "q", "d", 1)
LIST = ListwiseTask(4, "q", ("a", "b"), ListLabel((1.0, 0.0), (0, 1)))
THOUGHT = f"<think>{' word' * 100}</think>"
SECTIONS = {"a": RewardSection(missing_eos_penalty=0.5), "b": ListRewardSection(missing_eos_penalty=0.5)}


def rollout(stage: str, finish: Finish, group: int = 0, sample: int = 0) -> Rollout:
    task, text = (PAIR, "<answer>yes</answer>") if stage == "a" else (LIST, "<answer>[1] > [2]</answer>")
    ids = tuple(TOKENIZER.encode(THOUGHT + text, add_special_tokens=False))
    return Rollout(task, group, sample, Prompt((1,)), Sampled(ids, (0.0,) * len(ids), finish, 0))


def score(one: Rollout, **limit) -> Score:
    section = SECTIONS["a" if one.task is PAIR else "b"]
    return outcome(RewardWorker(TOKENIZER, section, limit=TokenLimit(**limit)), one)[0]


@pytest.mark.parametrize("stage", SECTIONS)
def test_a_cut_completion_is_penalised_masked_or_judged_like_any_other(stage):
    whole, cut = rollout(stage, Finish.STOP), rollout(stage, Finish.LENGTH)
    best = score(whole).total
    for truncated in ("penalise", "mask", "keep"):
        assert score(whole, truncated=truncated) == score(whole)
        found = score(cut, truncated=truncated)
        assert Violation.CUT in found.verdict.violations  # the record says so in any case
        assert found.total == pytest.approx(best if truncated == "keep" else best - 0.5)
        assert found.components["eos"] == (0.0 if truncated == "keep" else -0.5)
        assert found.masked == (truncated == "mask")
    assert score(cut) == score(cut, truncated="penalise")  # the default


@pytest.mark.parametrize("stage", SECTIONS)
@pytest.mark.parametrize(("room", "value"), [(300, 0.0), (100, 0.0), (75, -0.5), (50, -1.0), (1, -1.98), (0, -2.0)])
def test_the_soft_overlong_punishment_grows_over_the_last_tokens_before_the_limit(stage, room, value):
    one = rollout(stage, Finish.STOP)
    limit = {"max_new_tokens": len(one.sampled.token_ids) + room, "overlong_tokens": 100, "overlong_penalty": 2.0}
    found, plain = score(one, **limit), score(one)
    assert found.components == {**plain.components, "overlong": pytest.approx(value)}
    assert found.total == pytest.approx(plain.total + value)
    assert str(found.components["overlong"]) != "-0.0"
    assert "overlong" not in plain.components


def test_the_keys_reach_the_reward_workers():
    config = StageAConfig(
        algo="grpo", max_new_tokens=80, grpo={"truncated": "mask"}, reward={"overlong_tokens": 9, "overlong_penalty": 0.3}
    )
    assert TokenLimit.of(config) == TokenLimit(80, "mask", 9, 0.3)
    assert TokenLimit.of(StageBConfig()) == TokenLimit(1024, "penalise", 0, 1.0)
    with pytest.raises(ValidationError, match=r"reward.overlong_tokens: 81 is above max_new_tokens=80; lower it"):
        StageAConfig(max_new_tokens=80, reward={"overlong_tokens": 81})


def test_a_reward_with_a_component_of_the_same_name_is_refused():
    register("own_overlong")(lambda section: lambda verdict, label: {"overlong": 1.0})
    section = RewardSection(name="own_overlong")
    for limit, fine in ((TokenLimit(), True), (TokenLimit(200, "mask", 10), False)):
        group = RewardGroup(Pool("reward", lambda _, limit=limit: RewardWorker(TOKENIZER, section, limit=limit), 1), section)
        if fine:
            assert score_all(group, [rollout("a", Finish.STOP)])[0].total == 1.0
        else:
            with pytest.raises(UserError, match=r"the reward returned overlong, which reward\.overlong_tokens adds; mend it"):
                score_all(group, [rollout("a", Finish.STOP)])


def test_a_cut_completion_on_which_the_reward_fails_is_masked_too():
    def fails(verdict, label):
        raise ValueError("no")

    register("fails_on_all")(lambda section: fails)
    section = RewardSection(name="fails_on_all", failure_value=-0.5)
    worker = RewardWorker(TOKENIZER, section, limit=TokenLimit(truncated="mask"))
    group = RewardGroup(Pool("reward", lambda _: worker, 1), section)
    found = score_all(group, [rollout("a", Finish.LENGTH), rollout("a", Finish.STOP)])
    assert [(one.total, one.masked) for one in found] == [(-0.5, True), (-0.5, False)]
    one = rollout("a", Finish.LENGTH)
    ((failed,), _) = worker.fail(one.task, one.prompt, Completions.of([one.sampled]), 0, "hung")
    assert failed.score.masked


def test_a_cut_completion_whose_components_have_other_names_is_masked_too():
    names = iter(["one", "other"])
    register("changes_names")(lambda section: lambda verdict, label: {next(names): 1.0})
    section = RewardSection(name="changes_names", failure_value=-0.5)
    worker = RewardWorker(TOKENIZER, section, limit=TokenLimit(truncated="mask"))
    found = score_all(RewardGroup(Pool("reward", lambda _: worker, 1), section), [rollout("a", Finish.LENGTH)] * 2)
    assert [(one.total, one.masked) for one in found] == [(1.0, True), (-0.5, True)]


def scored(group: int, sample: int, total: float, masked: bool) -> Scored:
    task = PointwiseTask(100 + group, "q", "d", 1)
    sampled = Sampled(tuple(range(3 + sample)), (-0.5,) * (3 + sample), Finish.LENGTH if masked else Finish.STOP, 0)
    verdict = Verdict("yes", 2, True, frozenset({Violation.CUT} if masked else ()))
    return Scored(Rollout(task, group, sample, Prompt((1, 2)), sampled), "t", verdict, {"x": total}, total, masked)


def batch(*groups: list[tuple[float, bool]]) -> list[ScoredGroup]:
    return sampling.grouped(scored(g, s, *one) for g, group in enumerate(groups) for s, one in enumerate(group))


def test_the_refill_and_the_learner_agree_on_groups_whose_spread_is_masked():
    some = batch(
        [(1.0, False), (0.0, True), (1.0, False)],  # the only other reward is masked
        [(1.0, False), (0.0, False), (0.3, True)],
        [(0.1, True), (0.2, True), (0.3, True)],
        [(0.4, False), (0.2, True), (0.3, True)],
    )
    assert list(map(sampling.has_spread, some)) == [False, True, False, False]
    assert rollout_metrics(some)["zero_spread_share"] == 0.75
    groups = sampling.train_groups(some)
    assert [len(group.lengths) for group in groups] == [2, 2, 0, 1]
    found = skip_idle(groups, StageAConfig(algo="grpo"), 0)
    assert found[1:3] == groups[1:3]
    assert sum(not found[i].lengths for i in (0, 3)) == 1  # one of the two idle groups is kept


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp_completions"])
def test_masked_completions_count_in_no_mean_and_no_denominator(name):
    draw = random.Random(5)
    groups = [[(draw.random(), draw.random() < 0.4) for _ in range(6)] for _ in range(7)] + [[(0.5, True)] * 6]
    some = batch(*groups)
    made = make_batch(read_groups(sampling.train_groups(some)), 0, 0, torch.device("cpu"))
    found = ADVANTAGES[name](made.reward_N.double(), made.group_N, lambda x: x).tolist()
    everything = [reward for group in groups for reward, masked in group if not masked]
    expected = []
    for group in groups:
        kept = [reward for reward, masked in group if not masked]
        for reward in kept:
            others = sum(kept) - reward
            expected.append(
                {
                    "grpo": (reward - statistics.fmean(kept)) / (statistics.stdev(kept) + 1e-4) if len(kept) > 1 else 0.0,
                    "dr_grpo": reward - statistics.fmean(kept),
                    "rloo": reward - others / (len(kept) - 1) if len(kept) > 1 else 0.0,
                    "reinforce_pp_completions": (reward - statistics.fmean(everything))
                    / (statistics.variance(everything) + 1e-8) ** 0.5,
                }[name]
            )
    assert found == pytest.approx(expected, abs=1e-6)
    ((mini,),) = make_minibatches(made, [[list(range(8))]], True, 100, Comm(1, torch.device("cpu")))
    assert mini.completions == len(everything)
    assert mini.tokens == sum(3 + s for group in groups for s, (_, masked) in enumerate(group) if not masked)


def test_the_rollout_log_keeps_what_was_masked(tmp_path):
    some = batch([(1.0, False), (0.0, True)])
    (tmp_path / "rollouts").mkdir()
    path = RolloutLog(tmp_path / "rollouts").write(3, some)
    assert [one.scored for one in read_rollouts(path)] == list(sampling.whole(some))


def test_samples_of_a_bad_batch_are_counted_without_masked_ones():
    some = batch([(1.0, True), (0.0, False)], [(1.0, True), (1.0, True)], [(0.1, False), (0.2, True), (0.3, False)])
    assert _whose(some, [(0, 0), (2, 1)]) == " (task 100 sample 1, task 102 sample 2)"

"""Real DeepSpeed on CPU: without the groups that have no spread, gradients and weights are those of the whole batch; masked
completions give none."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learner_ranks import Job, plain_logprobs, plain_training, random_groups, run_ranks, tiny_model

from r0.actors.learner.networks import load_causal
from r0.actors.learner.shares import assign_groups
from r0.config import StageAConfig
from r0.records import TrainGroup

pytestmark = pytest.mark.ray

SHAPES = [(9, [4, 7, 7, 2]), (5, [3, 3]), (20, [6, 5, 9, 8]), (4, [1, 8, 5]), (7, [5, 6]), (6, [2, 9, 3])]
SPREAD = ({0, 2}, set(), {3})  # of each batch, the groups whose rewards are not equal


def batch(spread: set[int], seed: int) -> list[TrainGroup]:
    groups = random_groups(SHAPES, seed)
    return [group if g in spread else replace(group, completions=equal(group)) for g, group in enumerate(groups)]


def equal(group: TrainGroup) -> tuple:
    return tuple(replace(one, reward=0.7) for one in group.completions)


BATCHES = [batch(spread, seed) for seed, spread in enumerate(SPREAD)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny_model("llama").save_pretrained(folder)
    return folder


def job(model: Path, stage: int, minis: int = 2, rate: float = 1e-3, gradients: bool = False, learner=(), **grpo) -> Job:
    config = {
        "algo": "grpo", "batch_size": 6, "learning_rate": rate, "temperature": 0.8,
        "grpo": {"num_mini_batches": minis, **grpo},
        "learner": {"row_tokens": 40, "logprob_chunk": 7, "dtype": "fp32", "zero_stage": stage, **dict(learner)},
    }  # fmt: skip
    return Job(f"{gradients}{stage}{minis}{grpo}{learner}", config, BATCHES, model, gradients=gradients)


def check(found: dict, jobs: list[Job]) -> None:
    for each in jobs:
        result, minis = found[each.name], each.config["grpo"]["num_mini_batches"]
        if not each.gradients:
            want = plain_training(StageAConfig(**each.config), load_causal(str(each.model), torch.float32), each.batches)
            assert max(float((tensor - want[name]).abs().max()) for name, tensor in result["weights"].items()) <= 1e-5, each.name
            continue
        skipped, whole = result["skipped"], result["whole"]
        assert len(skipped) == len(whole) == minis * each.config["grpo"].get("num_ppo_epochs", 1) * len(SPREAD)
        for mine, gradient in zip(skipped, whole, strict=True):
            assert float((mine - gradient).abs().max()) <= 1e-6, each.name
        sizes = [float(gradient.abs().max()) for gradient in skipped]
        per_batch = [sizes[i : i + len(sizes) // len(SPREAD)] for i in range(0, len(sizes), len(sizes) // len(SPREAD))]
        assert min(max(per_batch[0]), max(per_batch[2])) > 1e-3
        assert max(per_batch[1]) == 0.0  # nothing to do at all
        for figures, plain, spread in zip(*result["figures"], SPREAD, strict=True):
            assert figures["skipped_groups"] == 5 - len(spread)
            assert plain["skipped_groups"] == 0
            assert figures["loss"] == pytest.approx(plain["loss"], abs=1e-6)
            assert {"gap", "entropy", "policy_kl"} <= set(figures)
            assert figures["gap"] > 0 < figures["entropy"]


def test_two_ranks_make_the_gradients_of_the_whole_batch(model, tmp_path):
    jobs = [job(model, stage, 2, 1e-12, True) for stage in (0, 3)]
    check(run_ranks(2, jobs, tmp_path), jobs)


@pytest.mark.parametrize(("world", "stages"), [(1, (2,)), pytest.param(2, (0, 1, 3), marks=pytest.mark.slow)])
def test_masked_completions_are_as_if_they_had_not_been_sampled(world, stages, model, tmp_path):
    groups = random_groups(SHAPES, seed=7)
    masked = {(0, 0), (0, 2), (1, 0), (2, 3), (3, 0), (3, 1), (3, 2), (5, 1)}
    batches = [without(groups, masked), without(groups, {(g, s) for g in range(6) for s in range(4)})]
    jobs = [replace(job(model, stage, 2, 1e-12, True), batches=batches) for stage in stages]
    config, plain = StageAConfig(**jobs[0].config), load_causal(str(model), torch.float32).double()
    expected = float64_gradients(config, plain, groups, masked)
    assert min(float(gradient.abs().max()) for gradient in expected) > 1e-3
    for result in run_ranks(world, jobs, tmp_path).values():
        for gradient, want in zip(result["skipped"], [*expected, 0 * expected[0], 0 * expected[0]], strict=True):
            assert float((gradient - want).abs().max()) <= 1e-6
        first, second = result["figures"][0]
        assert "gap" in first
        assert (second["loss"], second["grad_norm"], second["rows"], second["skipped_groups"]) == (0, 0, 0, 6)
        assert "gap" not in second  # nothing was computed that it could be of


def without(groups: list[TrainGroup], masked: set[tuple[int, int]]) -> list[TrainGroup]:
    kept = [[one for s, one in enumerate(group.completions) if (g, s) not in masked] for g, group in enumerate(groups)]
    return [replace(group, completions=tuple(rest)) for group, rest in zip(groups, kept, strict=True)]


def float64_gradients(config: StageAConfig, model, groups: list[TrainGroup], masked: set[tuple[int, int]]) -> list[torch.Tensor]:
    """By the book, one sequence at a time: the gradient of each mini-batch of the first epoch, all at the first weights."""
    (share,) = assign_groups(groups, 1, 1, config.grpo.num_mini_batches, config.seed, 0)
    found = []
    for mini in share.schedule[0]:
        members = [(g, s) for g in mini for s in range(len(groups[g].completions)) if (g, s) not in masked]
        total, loss = sum(len(groups[g].completions[s].token_ids) for g, s in members), 0.0
        for g, s in members:
            rewards = [one.reward for i, one in enumerate(groups[g].completions) if (g, i) not in masked]
            reward_N = torch.tensor(rewards, dtype=torch.float64)
            spread = float(reward_N.std()) if len(rewards) > 1 else 0.0
            advantage = (groups[g].completions[s].reward - float(reward_N.mean())) / (spread + 1e-4)
            logp = plain_logprobs(model, groups[g], s, config.temperature)
            rollout = torch.tensor(groups[g].completions[s].logprobs, dtype=torch.float64)
            weight = (logp.detach() - rollout).exp().clamp(max=3.0)
            loss = loss - (weight * logp).sum() * advantage / total
        model.zero_grad()
        loss.backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_nothing_is_lost_with_any_loss_advantage_and_kind_of_rows(world, model, tmp_path):
    kinds = [{"loss": "gspo"}, {"loss": "cispo", "advantage": "rloo"}, {"advantage": "dr_grpo", "num_ppo_epochs": 2}]
    jobs = [job(model, stage, 2, 1e-12, True, **kind) for stage, kind in itertools.product(range(4), kinds)]
    jobs += [job(model, stage, 6, 1e-12, True, learner=(("shared_prefix", False),)) for stage in (0, 3)]
    jobs += [job(model, stage, 1, 1e-12, True, learner=(("lora", {"r": 4}),)) for stage in (0, 3)]
    jobs += [job(model, stage, num_ppo_epochs=2) for stage in range(4)]
    check(run_ranks(world, jobs, tmp_path), jobs)

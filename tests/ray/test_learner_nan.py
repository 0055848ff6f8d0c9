"""Real DeepSpeed on CPU: a NaN on any rank keeps all ranks from changing any weight or moment, and the next batch is learned."""

from __future__ import annotations

import itertools

import pytest
from learner_ranks import Job, random_groups, run_ranks, tiny_model

from r0.records import TrainCompletion, TrainGroup

pytestmark = pytest.mark.ray

LEARNER = {"row_tokens": 40, "logprob_chunk": 7}
GRPO = {"algo": "grpo", "learning_rate": 1e-3, "on_nan": "skip"}
PPO = {**GRPO, "algo": "ppo", "kl_coef": 0.05, "batch_size": 6, "ppo": {"num_mini_batches": 2}}
SHAPES = [(9, [4, 7, 7, 2]), (5, [3, 3]), (20, [6, 5, 9, 8, 7, 6]), (4, [1, 8, 5])]
BATCHES = {
    "grpo": random_groups(SHAPES, seed=1),
    "ppo": random_groups([(9, [4]), (5, [3]), (12, [6]), (4, [8]), (7, [5]), (6, [2])]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny_model("llama").save_pretrained(folder)
    return folder


def job(model, algo: str, stage: int, poison: str, dtype: str = "fp32", **more) -> Job:
    config = {**(GRPO if algo == "grpo" else PPO), **more, "learner": {**LEARNER, "zero_stage": stage, "dtype": dtype}}
    return Job(f"{algo}{stage}{poison}{dtype}{'-'.join(more)}", config, [BATCHES[algo]], model, poison=poison)


def check(found: dict, jobs: list[Job], world: int) -> None:
    for each in jobs:
        result = found[each.name]
        assert result["changed"] == [0, world, 0], each.name  # poisoned, good, poisoned
        updates = 2 if each.config["algo"] == "ppo" else 1
        assert [f["skipped_updates"] for f in result["figures"]] == [updates, 0, updates], each.name
        assert result["figures"][1]["grad_norm"] > 0
        assert not {"loss", "gap", "grad_norm"} & set(result["figures"][0])  # nothing was made that they could be of


def test_a_nan_gradient_on_one_of_two_ranks_changes_nothing_on_both(model, tmp_path):
    jobs = [job(model, "grpo", 0, "policy"), job(model, "grpo", 2, "policy"), job(model, "ppo", 2, "critic")]
    check(run_ranks(2, jobs, tmp_path), jobs, 2)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_nan_gradient_changes_nothing_in_any_zero_stage(world, model, tmp_path):
    kinds = itertools.product(("grpo", "ppo"), range(4), ("policy", "critic"), ("fp32", "bf16"))
    jobs = [job(model, *kind) for kind in kinds if kind[0] == "ppo" or kind[2] == "policy"]
    check(run_ranks(world, jobs, tmp_path), jobs, world)


def test_the_samples_of_a_nan_are_named(model, tmp_path):
    token = 7
    bad = {
        (g, s)
        for g, group in enumerate(BATCHES["grpo"])
        for s, completion in enumerate(group.completions)
        if token in group.prompt_ids or token in completion.token_ids[:-1]  # the last one is not read by the model
    }
    everyone = sum(len(group.completions) for group in BATCHES["grpo"])
    assert 0 < len(bad) < everyone
    jobs = [job(model, "grpo", stage, str(token)) for stage in (0, 2)]
    jobs.append(
        job(model, "grpo", 0, str(token), kl_coef=0.1, grpo={"kl_in": "reward"})
    )  # the policy gives values before it learns
    found = run_ranks(1, jobs, tmp_path)
    check(found, jobs, 1)
    for each, said in zip(jobs, ["the loss is nan"] * 2 + ["the networks' first passes are NaN or infinite"], strict=True):
        assert [reason for reason, _ in found[each.name]["faults"]] == [said, "", said]
        assert set(found[each.name]["faults"][0][1]) == bad


def test_nothing_follows_a_bad_update_where_the_run_is_to_stop(model, tmp_path):
    jobs = [job(model, "ppo", 2, "policy", on_nan="stop")]
    (figures, _, _) = run_ranks(1, jobs, tmp_path)[jobs[0].name]["figures"]
    assert figures["skipped_updates"] == 1  # of two


def test_completions_without_tokens_are_learned_from_without_an_error(model, tmp_path):
    empty = TrainGroup((1, 2, 3), tuple(TrainCompletion((), (), reward, 0) for reward in (0.0, 1.0)))
    two = {"num_mini_batches": 2, "advantage": "reinforce_pp"}
    batches = {"alone": ([empty, empty], {}), "mixed": ([empty, BATCHES["grpo"][0]], two)}
    jobs = []
    for stage, (name, (batch, grpo)) in itertools.product((0, 2), batches.items()):
        config = {**GRPO, "batch_size": 2, "grpo": grpo, "learner": {**LEARNER, "zero_stage": stage, "dtype": "fp32"}}
        jobs.append(Job(f"{name}{stage}", config, [batch], model))
    found = run_ranks(1, jobs, tmp_path)
    for each in jobs:
        (figures,) = found[each.name]["figures"]
        assert figures["skipped_updates"] == 0
        assert ("gap" in figures) == ("mixed" in each.name)  # of no token there is none

"""Real DeepSpeed on CPU: one or two ranks at every ZeRO stage end with the weights of plain torch."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from learner_ranks import Job, plain_training, random_groups, run_ranks, tiny_model

from r0.actors.learner.networks import load_causal
from r0.actors.learner.worker import Learner
from r0.config import StageAConfig
from r0.errors import UserError

pytestmark = pytest.mark.ray

# Ranks get unlike numbers of rows; in the second batch rank 1 of 2 gets none at all.
BATCHES = [
    random_groups([(9, [4, 7, 7, 2]), (5, [3, 3]), (20, [6, 5, 9, 8, 7, 6]), (4, [1, 8, 5])], seed=1),
    random_groups([(7, [5, 6, 2])], seed=2),
]
EVEN = [random_groups([(9, [4]), (5, [3]), (12, [6]), (4, [8]), (7, [5]), (6, [2])], seed=s) for s in (3, 4)]
LEARNER = {"row_tokens": 40, "logprob_chunk": 7, "dtype": "fp32"}
GRPO = {"algo": "grpo", "learning_rate": 1e-3, "temperature": 0.8}
PPO = {
    "algo": "ppo", "learning_rate": 1e-3, "temperature": 0.8, "kl_coef": 0.05, "batch_size": 6,
    "ppo": {"num_ppo_epochs": 2, "num_mini_batches": 2, "vf_coef": 0.5, "gamma": 0.99},
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a model with an output head of its own and of one with tied embeddings."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model("llama").save_pretrained(folder / "untied")
    tiny_model("llama", tied=True).save_pretrained(folder / "tied")
    return folder


@pytest.fixture
def job(models):
    def make(
        kind: str, stage: int, name: str = "", resume: bool = False, model: str = "untied", left: bool = False, **learner
    ) -> Job:
        config = (GRPO if kind == "grpo" else PPO) | {"learner": LEARNER | {"zero_stage": stage} | learner}
        config["gradient_checkpointing"] = "checkpointed" in name
        return Job(name or f"{kind}{stage}{model}", config, BATCHES if kind == "grpo" else EVEN, models / model, resume, left)

    return make


def check(found: dict, jobs: list[Job], folder: Path) -> None:
    for each in jobs:
        result = found[each.name]
        if each.resume:
            assert all(torch.equal(result["first"][name], result["second"][name]) for name in result["first"]), each.name
            assert all(figures == result["figures"][0] for figures in result["figures"])
            continue
        assert result["shared_prefix"] == each.config["learner"].get("shared_prefix", True)
        if "lora" in each.config["learner"]:
            continue
        want = plain_training(StageAConfig(**each.config), load_causal(str(each.model), torch.float32), each.batches)
        for name, tensor in result["weights"].items():
            worst = float((tensor - want[name]).abs().max())
            assert worst <= 1e-5, f"{each.name}: {name} differs by {worst}"
        saved = load_causal(str(folder / each.name), torch.float32).state_dict()
        assert all(torch.equal(saved[name], tensor) for name, tensor in result["weights"].items())


def test_two_ranks_with_unequal_rows_end_with_the_weights_of_plain_torch_and_resume_bit_for_bit(job, models, tmp_path):
    jobs = [job("grpo", 0), job("grpo", 3, model="tied"), job("ppo", 3), job("grpo", 3, "lora", lora={"r": 4})]
    jobs += [job("grpo", 2, "resume2", resume=True), job("ppo", 3, "resume3", resume=True)]
    jobs += [job(kind, stage, f"left{stage}", resume=True, left=True) for kind, stage in (("grpo", 3), ("ppo", 2), ("grpo", 0))]
    found = run_ranks(2, jobs, tmp_path)
    check(found, jobs, tmp_path)
    start = load_causal(str(models / "untied"), torch.float32).state_dict()
    merged = found["lora"]["weights"]
    assert set(merged) == set(start)
    assert all(not torch.equal(merged[n], start[n]) for n in start if "proj" in n)
    assert all(torch.equal(merged[n], start[n]) for n in start if "proj" not in n)
    figures = found["ppo3untied"]["figures"][-1]
    assert {"value_loss", "explained_variance", "critic_grad_norm", "kl", "gap", "lr", "grad_norm"} <= set(figures)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_an_offloaded_optimizer_ends_with_the_weights_of_plain_torch_and_resumes_bit_for_bit(world, job, tmp_path):
    jobs = [job(kind, stage, f"{kind}{stage}", offload_optimizer=True) for stage in (2, 3) for kind in ("grpo", "ppo")]
    for stage, dtype in itertools.product((2, 3), ("fp32", "bf16")):
        jobs.append(job("ppo", stage, f"resume{stage}{dtype}", True, dtype=dtype, offload_optimizer=True))
    check(run_ranks(world, jobs, tmp_path), jobs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_every_zero_stage_ends_with_the_weights_of_plain_torch(world, job, tmp_path):
    jobs = [job(kind, stage, model=model) for stage in range(4) for kind in ("grpo", "ppo") for model in ("untied", "tied")]
    jobs += [job("ppo", stage, f"resume{stage}{dtype}", True, dtype=dtype) for stage in range(4) for dtype in ("fp32", "bf16")]
    jobs += [job("grpo", stage, f"resume-lora{stage}", True, "tied", lora={"r": 4}) for stage in range(4)]
    jobs += [job("ppo", stage, f"checkpointed{stage}") for stage in (0, 3)]
    jobs += [job("ppo", stage, f"padded{stage}", shared_prefix=False) for stage in (0, 3)]
    check(run_ranks(world, jobs, tmp_path), jobs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_compiled_kernels_end_with_the_weights_of_plain_torch(world, job, tmp_path):
    jobs = [job("ppo", stage, f"compiled{stage}", compile=True) for stage in (0, 3)]
    jobs += [job("grpo", stage, f"compiled-checkpointed{stage}", compile=True) for stage in (0, 3)]
    jobs += [job("grpo", 3, "compiled-lora", True, "tied", lora={"r": 4}, compile=True)]
    check(run_ranks(world, jobs, tmp_path), jobs, tmp_path)


def test_a_model_that_is_not_there_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_causal(str(tmp_path / "nothing"), torch.float32)


def test_the_learning_rate_warms_up_and_decays():
    learner = object.__new__(Learner)
    learner.config = StageAConfig(algo="grpo", learner={"warmup_ratio": 0.2, "lr_schedule": "cosine"})
    learner.total_updates = 10
    rates = []
    for learner.updates in range(10):
        rates.append(learner.learning_rate(1.0))
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert rates[-1] < 0.05

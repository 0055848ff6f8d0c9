"""Placements on GPUs: what cannot work is refused by the configuration, with the remedy."""

import re

import pytest
from pydantic import ValidationError

from r0.actors.learner.update import loss_settings
from r0.actors.placement import bundles
from r0.config import RolloutSection, StageAConfig
from r0.config.cards import shares_card, transfer_backend
from r0.config.load import load
from r0.errors import UserError
from r0.launch import main


def config(learner=None, rollout=None, backend="auto", staleness=0, **values):
    sync = {"backend": backend, "max_staleness": staleness}
    return StageAConfig.model_validate({"learner": learner or {}, "rollout": rollout or {}, "sync": sync, **values})


HALVES = {"learner": {"gpus": 0.4}, "rollout": {"gpus": 0.6}}


@pytest.mark.parametrize(
    ("values", "backend"),
    [
        ({}, "nccl"),
        (HALVES, "ipc"),
        ({"learner": {"gpus": 0.7}, "rollout": {"gpus": 0.3}}, "ipc"),
        ({"learner": {"ranks": 4}, "rollout": {"workers": 2, "tensor_parallel_size": 2}}, "nccl"),
        ({"learner": {"gpus": 0.5}}, "nccl"),  # the engine has another card to itself
        ({"learner": {"gpus": 0.4}, "rollout": {"tensor_parallel_size": 2}}, "nccl"),
        ({"rollout": {"gpus": 0.5}}, "nccl"),
        ({"rollout": {"gpus": 0.6, "workers": 2}}, "nccl"),  # no card holds two of them
        ({"learner": {"gpus": 0.0}}, "gloo"),
        ({"rollout": {"gpus": 0.0}}, "gloo"),
        ({"rollout": {"engine": "hf"}}, "gloo"),
        ({"learner": {"gpus": 0.4}, "rollout": {"gpus": 0.3, "workers": 2}, "backend": "gloo"}, "gloo"),
        ({"ray": {"inline": True}}, "local"),
        ({"ray": {"inline": True}, "backend": "gloo"}, "gloo"),
    ],
)
def test_what_can_work_gets_its_way_of_weights(values, backend):
    assert transfer_backend(config(**values), gpus=True) == backend


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learner": {"gpus": 1.5}}, "learner.gpus: a rank works on one GPU, not on 1.5; use learner.ranks"),
        ({"learner": {"gpus": 2.0}}, "use learner.ranks for more GPUs"),
        ({"learner": {"gpus": 0.5, "ranks": 2}}, "2 ranks need a whole GPU each.* use learner.gpus=1, or learner.ranks=1"),
        ({"learner": {"gpus": 0.4}, "rollout": {"gpus": 0.3, "workers": 2}}, "use rollout.workers=1"),
        ({"learner": {"gpus": 0.4}, "rollout": {"gpus": 0.6, "workers": 2}}, "learner and engine can be on the same card"),
        ({"rollout": {"gpus": 0.5, "workers": 2}}, "two engines can be on the same card"),
        ({"backend": "ipc"}, r"ipc is for one learner rank and one engine on the same card.*learner.gpus=0.4 rollout.gpus=0.6"),
        ({"learner": {"gpus": 0.4}, "rollout": {"tensor_parallel_size": 2}, "backend": "ipc"}, "without tensor parallelism"),
        ({"learner": {"gpus": 0.5}, "backend": "ipc"}, "ipc is for one learner rank"),
        ({**HALVES, "backend": "nccl"}, "which NCCL refuses"),
        ({"learner": {"gpus": 0.0}, "backend": "nccl"}, "nccl needs learner and engines on GPUs; use auto or gloo"),
        ({"learner": {"gpus": 0.0}, "rollout": {"gpus": 0.5}, "backend": "ipc"}, "ipc needs learner and engines on GPUs"),
        ({"rollout": {"engine": "hf"}, "backend": "nccl"}, "nccl needs vLLM; with rollout.engine=hf use auto or gloo"),
        ({"ray": {"inline": True}, "backend": "ipc"}, "with ray.inline=true use auto"),
        ({"ray": {"inline": True}, "rollout": {"tensor_parallel_size": 2}}, "use 1, or ray.inline=false"),
        ({"rollout": {"gpus": 1.5}}, "works on one GPU or a part of it, not on 1.5; leave rollout.gpus empty"),
        ({"rollout": {"gpus": 0.5, "tensor_parallel_size": 2}}, "works on 2 whole GPUs, not on 0.5; leave rollout.gpus empty$"),
        ({"rollout": {"engine": "hf", "tensor_parallel_size": 2}}, "hf samples on one device"),
        ({"staleness": 1, "ray": {"inline": True}}, "sync.max_staleness: ray.inline=true has.*; use 0, or ray.inline=false"),
        ({"staleness": 1, **HALVES}, "learner and engine share a card and take turns on it; use 0, or leave learner.gpus"),
        ({"staleness": 2}, "max_staleness: 2 is more than r0 samples ahead, which is one step; use 0 or 1"),
        ({"staleness": 1, "ppo": {"tis_cap": 0.0}}, "ppo.tis_cap: 0 leaves rollouts uncorrected.*ppo.tis_cap=3, or sync.max"),
        ({"staleness": 1, "grpo": {"tis_cap": 0.0}}, "grpo.tis_cap: 0 leaves rollouts uncorrected.*use grpo.tis_cap=3"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(values, words):
    with pytest.raises(ValidationError) as caught:
        config(**values)
    (error,) = caught.value.errors()
    assert re.search(words, str(error["ctx"]["error"])), error["ctx"]["error"]


def test_a_backend_between_gpus_is_refused_where_there_are_none():
    assert transfer_backend(config(), gpus=False) == "gloo"
    with pytest.raises(ValueError, match="nccl needs learner and engines on GPUs"):
        transfer_backend(config(backend="nccl"), gpus=False)


def test_a_card_is_shared_by_fractions_and_inline_but_not_without_gpus_or_vllm():
    inline = {"ray": {"inline": True}}
    assert shares_card(config(**HALVES), gpus=True)
    assert shares_card(config(**HALVES, backend="gloo"), gpus=True)
    assert shares_card(config(**inline), gpus=True)
    assert not shares_card(config(**inline), gpus=False)
    assert not shares_card(config(), gpus=True)
    assert not shares_card(config(**inline, learner={"gpus": 0.0}), gpus=True)
    assert not shares_card(config(**inline, rollout={"engine": "hf"}), gpus=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "possible, since learner and engines have cores of their own"),
        (["learner.cpus=3000"], "possible, but 0 is better: learner and engines want 3001 cores, and this machine has"),
        (["ray.inline=true"], "not possible, because learner and engine are in one process"),
        (["learner.gpus=0.4", "rollout.gpus=0.6"], "not possible, because learner and engine share a card"),
        (["--gpu-memory=80"], "possible, since learner and engines have cards of their own"),
    ],
)
def test_a_dry_run_says_whether_sampling_ahead_is_possible_and_worth_it(tmp_path, capsys, monkeypatch, values, words):
    monkeypatch.setattr("r0.commands.plan.available_cores", lambda: 4)
    assert main(["stage_a", "model=r0-tiny", f"output={tmp_path / 'run'}", *values, "--dry-run"]) == 0
    assert f"\nsync.max_staleness=1: {words}" in capsys.readouterr().out


def test_rollouts_of_older_weights_are_corrected_by_default():
    assert [config(staleness=number).ppo.tis_cap for number in (0, 1)] == [0.0, 3.0]
    assert config(staleness=1, ppo={"tis_cap": 1.0}).ppo.tis_cap == 1.0
    assert [loss_settings(config(staleness=number)).tis_cap for number in (0, 1)] == [0.0, 3.0]
    assert config(staleness=1, algo="grpo").grpo.tis_cap == 3.0


def test_a_learner_without_a_gpu_takes_none_of_the_clusters():
    assert [bundle.gpus for bundle in bundles(config(learner={"gpus": 0.0}), has_gpus=True)] == [0.0, 1.0, 0.0]


def test_automatic_sizes_are_words_and_numbers_are_numbers_on_the_command_line():
    made = load(StageAConfig, None, ["rollout.max_num_seqs=32", "rollout.kv_cache_gib=2.5", "sync.bucket_mb=auto"])
    assert (made.rollout.max_num_seqs, made.rollout.kv_cache_gib, made.sync.bucket_mb) == (32, 2.5, "auto")
    assert load(StageAConfig, None, ["rollout.kv_cache_gib=auto"]).rollout == RolloutSection()
    with pytest.raises(UserError, match=r"rollout.max_num_seqs: input should be greater than or equal to 1, not 0"):
        load(StageAConfig, None, ["rollout.max_num_seqs=0"])


def test_a_bucket_is_larger_between_gpus_unless_it_is_given():
    assert (config().sync.bucket_bytes(True), config().sync.bucket_bytes(False)) == (512_000_000, 64_000_000)
    given = StageAConfig.model_validate({"sync": {"bucket_mb": 100.0}}).sync
    assert given.bucket_bytes(True) == given.bucket_bytes(False) == 100_000_000

"""Memory by arithmetic, against real models and the tensors that a real backward pass keeps (tests/ray: real engines)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from learner_models import random_groups

from r0.actors.learner import attention
from r0.actors.learner.checkpointing import decide_checkpointing
from r0.actors.learner.policy import PolicyModel, run_row
from r0.actors.learner.rows import shared_rows
from r0.actors.memory.activations import RowSize, activations
from r0.actors.memory.cards import parse
from r0.actors.memory.fit import choose_checkpointing, fit
from r0.actors.memory.learner import learner_rank
from r0.actors.memory.lookup import look_up_model
from r0.actors.memory.remedies import remedies, with_keys
from r0.actors.memory.shape import ModelShape
from r0.actors.memory.states import states
from r0.actors.roles import _engine_settings
from r0.commands.memory import check_fits
from r0.config import StageAConfig
from r0.config.models import NAMES, preset
from r0.errors import UserError
from r0.launch import main
from r0.launch import parse as parse_arguments
from tests.architectures import ARCHITECTURES
from tests.helpers import tiny_model

CONFIGS = Path(__file__).parents[2] / "configs"
GB = 10**9


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"), tied=False, vocab=2048, hidden=512)


def shape_of(folder: str) -> ModelShape:
    return ModelShape.of(json.loads((Path(folder) / "config.json").read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_a_presets_shape_has_the_weights_of_the_real_architecture(name):
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    values = dict(preset(name).shape)
    shape = ModelShape.of(values)
    settings = dict(values)
    if name.startswith("mobilellm"):  # without experts
        settings = {**ARCHITECTURES[name].settings, **values, "no_rope_layers": [1] * shape.layers}
    with torch.device("meta"):
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        model = AutoModel.from_config(config) if shape.encoder else AutoModelForCausalLM.from_config(config)
    assert shape.weights == sum(parameter.numel() for parameter in model.parameters())
    assert look_up_model(preset(name).values["model"])[1] == shape


def test_adapters_and_critic_are_counted_as_they_are_made(model):
    from r0.actors.learner.networks import add_adapters, load_causal
    from r0.actors.learner.policy import CriticModel

    shape = shape_of(model)
    for targets in (None, ("q_proj", "down_proj")):
        config = StageAConfig(learner={"lora": {"r": 4, "target_modules": targets}})
        adapted = add_adapters(load_causal(model, torch.float32), config)
        assert shape.adapters(4, targets) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape.critic == sum(p.numel() for p in CriticModel(load_causal(model, torch.float32)).parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "llama"])
def test_layers_save_the_estimated_activations(arch, dtype, checkpointing):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        arch, vocab_size=256, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.set_attn_implementation(attention.NAME)
    policy = PolicyModel(model, temperature=1.0, chunk=32).train()
    (row,) = shared_rows(random_groups([(300, [200, 150, 100, 220])]), 1024)
    saved = _saved_bytes(policy, row)
    size = RowSize(row.tokens, prompt=300, completion=168, group=4)
    estimated = activations(ModelShape.of(config.to_dict()), size, dtype == torch.bfloat16, checkpointing, logits=32)
    assert estimated.saved == pytest.approx(saved, rel=0.1)


def _saved_bytes(policy: PolicyModel, row) -> int:
    """Bytes of all tensors that the backward pass of ``row`` will need, without weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (pointer := tensor.untyped_storage().data_ptr()) not in weights:
            saved[pointer] = tensor  # kept alive, so that its memory is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_row(policy, row)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def test_a_row_can_be_longer_than_its_budget():
    assert RowSize.of(8192, prompt=2048, completion=256, group=8, shared=True) == RowSize(8192, 2048, 256, 8)
    assert RowSize.of(4096, prompt=8192, completion=1024, group=8, shared=True) == RowSize(8192 + 2048, 8192, 1024, 2)
    assert RowSize.of(4096, prompt=8192, completion=1024, group=8, shared=False).tokens == 9216


SHIPPED = [(stage, card) for stage in ("stage_a", "stage_b") for card in ("24gb", "80gb", "8x80gb")]


@pytest.mark.parametrize(("stage", "card"), SHIPPED)
def test_a_shipped_configuration_fits_its_card_with_the_margin(stage, card, capsys, tmp_path):
    path, memory = CONFIGS / f"{stage}_{card}.yaml", card.removesuffix("gb").removeprefix("8x")
    config, _ = parse_arguments(stage, [str(path)])
    found = fit(config, *look_up_model(config.model), int(memory) * GB)
    assert found.fits
    assert all(phase.bytes <= 0.95 * int(memory) * GB for phase in found.phases)
    assert found.shared == (not card.startswith("8x"))
    assert found.engine.capacity >= config.samples_per_prompt
    assert config.batch_size >= (64 if memory == "80" else 16)
    assert main([stage, str(path), "--dry-run", "--gpu-memory", memory, f"output={tmp_path}"]) == 0
    assert "  fits: " in capsys.readouterr().out


def test_eight_cards_are_four_learners_and_four_engines():
    for stage in ("stage_a", "stage_b"):
        config, _ = parse_arguments(stage, [str(CONFIGS / f"{stage}_8x80gb.yaml")])
        assert (config.learner.ranks, config.rollout.workers, config.rollout.tensor_parallel_size) == (4, 4, 1)


def grpo(**keys) -> StageAConfig:
    config, _ = parse_arguments("stage_a", [str(CONFIGS / "stage_a_grpo.yaml"), *(f"{k}={v}" for k, v in keys.items())])
    return config


def test_what_does_not_fit_is_answered_with_keys_that_make_it_fit():
    config = grpo(gradient_checkpointing="auto")
    model_config, shape = look_up_model(config.model)
    found = fit(config, model_config, shape, 24 * GB)
    assert not found.fits
    assert found.impossible
    listed = remedies(config, model_config, shape, found)
    lora = next(one for one in listed if one.keys == "learner.lora.r=16")
    assert lora.fits
    assert lora.saved > 15 * GB
    for remedy in (one for one in listed if one.fits):
        change = {name: value for name, _, value in (key.partition("=") for key in remedy.keys.split())}
        changed = grpo(**change)
        assert fit(changed, model_config, shape, 24 * GB).fits


def test_an_engine_leaves_the_room_of_moments_that_the_first_update_makes():
    shared = grpo(**{"learner.gpus": 0.4, "rollout.gpus": 0.6})
    model_config, shape = look_up_model(shared.model)
    found = fit(shared, model_config, shape, 80 * GB)
    assert found.fits
    assert found.learner.idle - found.learner.start == 8 * shape.weights
    movable = fit(with_keys(shared, {"learner.zero_stage": 2}), model_config, shape, 80 * GB)
    assert movable.fits
    assert movable.learner.idle == movable.learner.start
    assert movable.engine.cache > found.engine.cache
    large = with_keys(shared, {"rollout.kv_cache_gib": 60})
    found = fit(large, model_config, shape, 80 * GB)
    assert found.fullest.name == "sampling"
    assert not found.fits
    assert "rollout.kv_cache_gib=auto" in [one.keys for one in remedies(large, model_config, shape, found) if one.fits]


def test_the_roles_tell_the_engine_what_the_learner_will_take(tmp_path):
    folder = tiny_model(tmp_path)
    shared = StageAConfig(algo="grpo", learner={"gpus": 0.4}, rollout={"gpus": 0.6})
    weights = look_up_model(folder)[1].weights
    assert _engine_settings(shared, folder, gpus=True).learner_growth == 8 * weights
    assert _engine_settings(with_keys(shared, {"learner.zero_stage": 2}), folder, gpus=True).learner_growth == 0
    assert _engine_settings(StageAConfig(algo="grpo"), folder, gpus=True).learner_growth == 0


def test_a_sleeping_engine_does_not_count_while_the_learner_learns():
    awake = grpo(**{"learner.gpus": 0.4, "rollout.gpus": 0.6, "rollout.sleep": "false", "rollout.kv_cache_gib": 20})
    asleep = with_keys(awake, {"rollout.sleep": True})
    known = look_up_model(awake.model)
    phases = [{phase.name: phase.bytes for phase in fit(one, *known, 80 * GB).phases} for one in (awake, asleep)]
    assert phases[0]["sampling"] == phases[1]["sampling"]
    assert phases[0]["learning"] > phases[1]["learning"] + 20 * 2**30


def test_checkpointing_is_chosen_by_the_free_memory_on_a_gpu_and_off_on_a_cpu():
    config = grpo(gradient_checkpointing="auto")
    _, shape = look_up_model(config.model)
    without = learner_rank(config, shape, checkpointing=False).peak
    assert choose_checkpointing(config, shape, int(without / 0.96))
    assert not choose_checkpointing(config, shape, int(without / 0.94))
    assert not choose_checkpointing(grpo(gradient_checkpointing="false"), shape, GB)
    assert choose_checkpointing(grpo(gradient_checkpointing="true"), shape, 1000 * GB)
    assert decide_checkpointing(config, "nowhere", torch.device("cpu")).gradient_checkpointing is False


def test_a_card_that_is_too_small_for_certain_is_refused_with_numbers_and_keys(monkeypatch):
    config = grpo(gradient_checkpointing="auto")
    known = look_up_model(config.model)
    answer = "0, GPU-a, NVIDIA L4, {}\n"
    monkeypatch.setattr("r0.commands.memory.visible_cards", lambda: parse(answer.format(23034), None))
    with pytest.raises(UserError, match=r"needs 30\.\d GiB .* 22\.5 GiB of NVIDIA L4; use .*learner\.lora\.r=16"):
        check_fits(config, *known)
    monkeypatch.setattr("r0.commands.memory.visible_cards", lambda: parse(answer.format(33_000), None))
    assert "the GPU memory may not suffice: learning takes about" in check_fits(config, *known)
    monkeypatch.setattr("r0.commands.memory.visible_cards", lambda: parse(answer.format(81_559), None))
    assert check_fits(config, *known) == ""
    monkeypatch.setattr("r0.commands.memory.visible_cards", list)
    assert check_fits(config, *known) == ""


def test_cards_are_read_from_the_drivers_answer():
    answer = "0, GPU-aa11, NVIDIA H100 80GB HBM3, 81559\n1, GPU-bb22, NVIDIA A10, 23028\nnonsense\n"
    assert [card.total // 2**20 for card in parse(answer, None)] == [81559, 23028]
    assert [card.name for card in parse(answer, "1")] == ["NVIDIA A10"]
    assert [card.name for card in parse(answer, "GPU-aa,1")] == ["NVIDIA H100 80GB HBM3", "NVIDIA A10"]
    assert parse(answer, "") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stage_a", "--gpu-memory", "80"], "add --dry-run"),
        (["stage_a", "--dry-run", "--gpu-memory", "eighty"], "not 'eighty'"),
        (["stage_a", "--dry-run", "--gpu-memory=-1"], "not '-1'"),
        (["stage_a", "--dry-run", "--gpu-memory"], "such as --gpu-memory 80"),
        (["eval", "qrels=a", "runs=b", "--dry-run", "--gpu-memory", "80"], "this one uses none"),
        (["stage_a", "learner.offload_optimizer=true", "--dry-run"], "use learner.zero_stage=2"),
    ],
)
def test_bad_options_are_one_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_each_zero_stage_shares_more_among_the_ranks():
    held = [states(1_000, 0, stage, 4, bf16=True).held for stage in range(4)]
    assert held == [2_000 + 4_000 + 3_000, 2_000 + 4_000 + 3_000, 2_000 + 1_000 + 3_000, 500 + 1_000 + 3_000]


def test_every_command_on_gpus_tells_its_memory(capsys, tmp_path):
    for command in (["sft"], ["stage_c"], ["finetune"], ["rerank", "data=x"], ["demo"], ["stage_b"]):
        assert main([*command, "--dry-run", "--gpu-memory", "24", f"output={tmp_path / 'x'}"]) == 0
        said = capsys.readouterr().out
        assert "a card of 24 GB (--gpu-memory)" in said
        assert "fit" in said
    assert main(["stage_a", "--dry-run", "--gpu-memory", "24", f"output={tmp_path / 'x'}"]) == 0
    assert "what would help:" in capsys.readouterr().out

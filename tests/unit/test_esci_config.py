"""esci's keys: the command lines of the ESCI scripts work unchanged, and in files too."""

from __future__ import annotations

from pathlib import Path

import pytest

from r0.config import EsciConfig, EsciEvalConfig
from r0.config.load import load
from r0.errors import UserError
from r0.launch import main, parse
from r0.runs.resolved import to_yaml

FLAGS = {
    "base_model": "../llms/Qwen/Qwen3-0.6B", "train_file": "train.parquet", "output_dir": "./outputs/lora", "max_length": "256",
    "per_device_train_batch_size": "2", "gradient_accumulation_steps": "8", "num_train_epochs": "2", "learning_rate": "1e-4",
    "warmup_ratio": "0.1", "logging_steps": "25", "save_steps": "1000", "save_total_limit": "3", "lora_r": "8",
    "lora_alpha": "64", "lora_dropout": "0.1", "eval_ratio": "0.2",
}  # fmt: skip
EVAL_FLAGS = {
    "base_model": "Qwen3-0.6B", "lora_model": "./outputs/lora", "eval_file": "test.parquet", "max_length": "256",
    "batch_size": "8",
}  # fmt: skip


def line(flags: dict[str, str]) -> list[str]:
    return [*(part for name, value in flags.items() for part in (f"--{name}", value)), "--bf16"]


TRAIN, EVAL = line(FLAGS), line(EVAL_FLAGS)


def test_the_training_scripts_command_line_works_as_it_is() -> None:
    config, _ = parse("esci", [*TRAIN, "--report_to", "wandb", "--wandb_run_name", "v1", "--no_flash_attn"])
    assert (config.model, config.data, config.output) == ("../llms/Qwen/Qwen3-0.6B", "train.parquet", "./outputs/lora")
    assert (config.max_prompt_tokens, config.micro_batch_size, config.batch_size, config.epochs) == (256, 2, 16, 2.0)
    assert (config.learning_rate, config.warmup_ratio, config.heldout_share) == (1e-4, 0.1, 0.2)
    assert (config.log_every, config.save_every, config.keep) == (25, 1000, 3)
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (8, 64.0, 0.1)
    assert config.lora.target_modules == ("q_proj", "v_proj")
    assert (config.dtype, config.no_flash_attn) == ("bf16", True)
    assert (config.tracking.wandb, config.tracking.name) == ("online", "v1")


def test_the_evaluation_scripts_command_line_works_as_it_is() -> None:
    config, _ = parse("esci eval", [*EVAL, "--save_scores_path", "scores.jsonl", "--no_flash_attn"])
    assert (config.model, config.adapter, config.data) == ("Qwen3-0.6B", "./outputs/lora", "test.parquet")
    assert (config.max_prompt_tokens, config.batch_size, config.dtype) == (256, 8, "bf16")
    assert (config.save_scores_path, config.no_flash_attn) == ("scores.jsonl", True)


def test_the_defaults_are_those_of_the_scripts() -> None:
    shipped, _ = parse("esci", ["data=x"])
    bare = EsciConfig(data="x")
    for config in (shipped, bare):
        assert (config.model, config.max_prompt_tokens, config.heldout_share) == ("Qwen/Qwen3-0.6B", 512, 0.05)
        assert (config.batch_size, config.micro_batch_size, config.learning_rate, config.warmup_ratio) == (32, 4, 2e-4, 0.03)
        assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (16, 32.0, 0.05)
        assert (config.log_every, config.keep) == (50, 2)
    assert shipped.save_every == 2000
    assert EsciConfig(data="x", lora={"r": 4}).lora.target_modules == ("q_proj", "v_proj")


def test_an_update_is_micro_batch_by_accumulation_by_ranks() -> None:
    config, _ = parse("esci", ["data=x", "ranks=3", "gradient_accumulation_steps=2", "micro_batch_size=5"])
    assert (config.batch_size, config.gradient_accumulation_steps) == (30, None)


def test_a_file_may_use_the_other_names_of_a_sections_keys(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train_file: x.parquet\nlora_r: 8\nlora:\n  alpha: 16\nlora_dropout: 0.2\nwandb_run_name: v1\n")
    config = load(EsciConfig, file, ["lora_alpha=64"])
    assert (config.lora.r, config.lora.alpha, config.lora.dropout, config.tracking.name) == (8, 64.0, 0.2, "v1")
    file.write_text("train_file: x.parquet\nlora_r: 8\nlora:\n  r: 16\n")
    with pytest.raises(UserError, match=r"run\.yaml:2: lora\.r is given twice \(lora_r is an alias of it\)"):
        load(EsciConfig, file)
    file.write_text("train_file: x.parquet\nlora_r: eight\n")
    with pytest.raises(UserError, match=r"run\.yaml:2: lora\.r: input should be a valid integer"):
        load(EsciConfig, file)


def test_the_resolved_configuration_loads_again(tmp_path: Path) -> None:
    config, _ = parse("esci", [*TRAIN, "--report_to", "tensorboard"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml("esci", config))
    assert load(EsciConfig, file) == config


@pytest.mark.parametrize(("name", "model"), [("esci", EsciConfig), ("esci eval", EsciEvalConfig)])
def test_help_names_the_other_names(capsys: pytest.CaptureFixture, name: str, model: type) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for other, own in model.ALIASES.items():
        assert any(line.startswith(f"  {own} (") and f"also {other})" in line for line in text.splitlines()), other


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["report_to=excel"], "choose one of wandb, tensorboard, none"),
        (["bf16=true", "dtype=fp32"], "remove one of the"),
        (["lora_rank=3"], "did you mean lora_r?"),
        (["lora.r=-1"], "lora.r"),
        (["heldout_share=2"], "heldout_share"),
    ],
)
def test_wrong_values_give_a_one_sentence_error(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(EsciConfig, None, ["data=x", *overrides])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_and_what_is_measured_are_required() -> None:
    with pytest.raises(UserError, match="data is missing"):
        load(EsciConfig, None)
    with pytest.raises(UserError, match="model is missing"):
        parse("esci eval", ["data=x"])

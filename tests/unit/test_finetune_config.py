"""finetune's keys: RAG-Retrieval's files load unchanged, and wrong values are refused with their location."""

from __future__ import annotations

from pathlib import Path

import pytest

from r0.config import FinetuneConfig
from r0.config.load import load
from r0.errors import UserError
from r0.launch import parse

RAG = """
model_name_or_path: "Qwen/Qwen2.5-1.5B"
model_type: "llm_decoder"
max_len: 512
train_dataset: "../example_data/train.jsonl"
train_dataset_type: "grouped"
val_dataset: None
val_dataset_type: "grouped"
max_label: 2
min_label: 0
train_group_size: 10
shuffle_rate: 0.0
loss_type: "pairwise_ranknet"
output_dir: "./output/run"
epoch: 2
lr: 5e-5
batch_size: 12
seed: 666
warmup_proportion: 0.1
stable_proportion: 0.2
gradient_accumulation_steps: 3
mixed_precision: bf16
save_on_epoch_end: 1
num_max_checkpoints: 5
log_interval: 10
log_with: "wandb"
num_labels: 1
query_format: "query: {}"
document_format: "document: {}"
seq: "\\n"
special_token: "</s>"
"""


def read(tmp_path: Path, text: str, *overrides: str) -> FinetuneConfig:
    file = tmp_path / "training.yaml"
    file.write_text(text)
    return load(FinetuneConfig, file, overrides)


def test_rag_retrievals_file_loads_as_it_is(tmp_path: Path) -> None:
    config = read(tmp_path, RAG, "ranks=2")
    assert (config.model, config.model_type, config.max_prompt_tokens) == ("Qwen/Qwen2.5-1.5B", "llm_decoder", 512)
    assert (config.data, config.data_type, config.validation) == ("../example_data/train.jsonl", "grouped", None)
    assert (config.min_label, config.max_label, config.train_group_size, config.shuffle_rate) == (0.0, 2.0, 10, 0.0)
    assert (config.loss_type, config.output, config.epochs, config.learning_rate) == ("pairwise_ranknet", "./output/run", 2, 5e-5)
    assert (config.warmup_ratio, config.stable_ratio, config.seed, config.dtype) == (0.1, 0.2, 666, "bf16")
    # There batch_size is what one rank computes at one time: an update sees it × accumulation × ranks.
    assert (config.batch_size, config.micro_batch_size) == (12 * 3 * 2, 12)
    assert (config.save_on_epoch_end, config.keep, config.log_every, config.tracking.wandb) == (True, 5, 10, "online")
    formats = (config.query_format, config.document_format, config.seq, config.special_token)
    assert formats == ("query: {}", "document: {}", "\n", "</s>")


def test_the_resolved_configuration_loads_again(tmp_path: Path) -> None:
    from r0.runs.resolved import to_yaml

    config = read(tmp_path, RAG, "ranks=2")
    assert read(tmp_path, to_yaml("finetune", config)) == config


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [("loss_type=point_ce", "loss_type", "pointwise_bce"), ("loss_type=point_mse", "loss_type", "pointwise_mse"),
     ("mixed_precision=fp16", "dtype", "bf16"), ("mixed_precision=no", "dtype", "fp32"), ("--epoch=3", "epochs", 3),
     ("--num-max-checkpoints=7", "keep", 7), ("save_on_epoch_end=0", "save_on_epoch_end", False)],
)  # fmt: skip
def test_the_command_line_takes_the_same_names_and_values(written: str, name: str, value: object) -> None:
    config, _ = parse("finetune", [written])
    assert getattr(config, name) == value


def test_a_key_under_two_names_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.yaml:2: learning_rate is given twice \(lr is an alias of it\)"):
        read(tmp_path, "learning_rate: 1e-5\nlr: 1e-5\n")


def test_a_base_may_use_the_other_name(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: some/model\nlr: 1e-5\n")
    config = read(tmp_path, "base: base.yaml\nmodel_name_or_path: r0-tiny\nlearning_rate: 3e-5\n")
    assert (config.model, config.learning_rate) == ("r0-tiny", 3e-5)


def test_help_names_the_other_names(capsys: pytest.CaptureFixture) -> None:
    from r0.launch import main

    assert main(["finetune", "--help"]) == 0
    text = capsys.readouterr().out
    for name, other in FinetuneConfig.ALIASES.items():
        assert f"  {other} (" in text
        assert f"also {name})" in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["num_labels=2"], "use num_labels=1"), (["warmup_ratio=0.6", "stable_ratio=0.6"], "it is 1.2, above 1"),
     (["query_format=query"], "{} exactly once"), (["model_type=bert_encoder", "seq=; "], "seq: applies to decoders"),
     (["log_with=excel"], "choose one of wandb, tensorboard"), (["lerning_rate=1"], "did you mean learning_rate"),
     (["fsdp=true", "ranks=2", "zero_stage=2"], "zero_stage=2 also shards the model"), (["fsdp=true"], "set ranks=2"),
     (["gradient_accumulation_steps=2", "micro_batch_size=4"], "remove one of the"), (["loss_type=hinge"], "loss_type")],
)  # fmt: skip
def test_wrong_values_give_a_one_sentence_error(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(FinetuneConfig, None, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

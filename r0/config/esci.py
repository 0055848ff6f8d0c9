"""Keys of the four-class ESCI reranker. The flags of tiny-reranker's train.py and eval.py are accepted as aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from r0.config.commands import PlainRankKeys, ScheduleKeys
from r0.config.esci_source import COLUMNS, EsciSourceKeys
from r0.config.models import ModelKeys
from r0.config.sections import Count, LoraSection, Positive, Share, key, mirror_by, rewriting
from r0.config.types import CountFrom0, DataText, ModelText, PathText

BASE = "Qwen/Qwen3-0.6B"


class EsciLoraSection(LoraSection):
    """Low-rank adapters in the attention layers, with the ESCI reranker's defaults."""

    r: CountFrom0 = key(16, "rank of the adapters; 0: train all weights")
    dropout: Share = key(0.05, "dropout on the input of the adapters")
    target_modules: tuple[str, ...] | None = key(
        ("q_proj", "v_proj"), "module names to adapt; empty: all linear layers", strict=False
    )


def _bf16(values: dict[str, Any]) -> None:
    """Treat ``bf16=true`` as ``dtype=bf16``."""
    if values.get("bf16") is True:
        if values.get("dtype", "auto") not in ("auto", "bf16"):
            raise ValueError(f"bf16: contradicts dtype={values['dtype']}; remove one of them")
        values |= {"bf16": False, "dtype": "bf16"}


def _short_for(values: dict[str, Any]) -> None:
    """Replace bf16, report_to and gradient_accumulation_steps by the keys that they are aliases of."""
    _bf16(values)
    mirror_by(values, "report_to", none="none")
    steps, micro, ranks = (
        values.get(name, default)
        for name, default in (("gradient_accumulation_steps", None), ("micro_batch_size", 4), ("ranks", 1))
    )
    if isinstance(steps, int) and steps > 0 and isinstance(micro, int) and isinstance(ranks, int):
        values |= {"gradient_accumulation_steps": None, "batch_size": micro * steps * ranks}


class EsciConfig(EsciSourceKeys, ScheduleKeys, PlainRankKeys):
    """Train a reranker with four classes (exact, substitute, complement, irrelevant) on Ray Train, with or without DeepSpeed."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "base_model": "model",
        "train_file": "data",
        "output_dir": "output",
        "max_length": "max_prompt_tokens",
        "per_device_train_batch_size": "micro_batch_size",
        "num_train_epochs": "epochs",
        "logging_steps": "log_every",
        "save_steps": "save_every",
        "save_total_limit": "keep",
        "eval_ratio": "heldout_share",
        "lora_r": "lora.r",
        "lora_alpha": "lora.alpha",
        "lora_dropout": "lora.dropout",
        "wandb_run_name": "tracking.name",
    }

    model: ModelText = key(BASE, "language model to start from: a folder, or a name on the Hugging Face Hub")
    data: DataText = key(..., COLUMNS)
    split: Literal["train", "test", "all"] = key("train", "only rows of this split, where the table has a column split")
    heldout_share: Share = key(0.05, "share of the queries held out for evaluation; a query is never on both sides")
    system_prompt: str = key("", "system message; empty: r0's default")
    max_prompt_tokens: Count = key(512, "maximum prompt length in tokens; item texts are cut to fit")
    batch_size: Count = key(32, "rows per update, over all ranks; but see gradient_accumulation_steps")
    gradient_accumulation_steps: Count | None = key(
        None, "if given, batch_size is ignored and becomes micro_batch_size × this × ranks"
    )
    learning_rate: Positive = key(2e-4, "peak learning rate of AdamW")
    bf16: bool = key(False, "alias of dtype=bf16")
    no_flash_attn: bool = key(False, "use torch's attention on a GPU, even if the package flash-attn is installed")
    lora: EsciLoraSection = key(EsciLoraSection(), "low-rank adapters")
    log_every: Count = key(50, "steps between lines of metrics.jsonl")
    report_to: Literal["wandb", "tensorboard", "none"] | None = key(
        None, "alias of tracking.wandb=online or tracking.tensorboard=true; its project is tracking.project"
    )

    _resolve = rewriting(_short_for)


class EsciEvalConfig(EsciSourceKeys, ModelKeys):
    """Evaluate an ESCI reranker on labelled rows: a base model with an adapter, or the folder of a trained model."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "base_model": "model",
        "lora_model": "adapter",
        "eval_file": "data",
        "max_length": "max_prompt_tokens",
    }

    model: ModelText = key(..., "model/ of an esci run, or a language model: a folder, or a name on the Hugging Face Hub")
    adapter: PathText | None = key(None, "adapter/ of an esci run (or the run), applied to model without merging")
    data: PathText = key(..., COLUMNS)
    split: Literal["train", "test", "all"] = key("test", "only rows of this split, where the table has a column split")
    skip_bad: bool = key(False, "skip bad rows; count and list them")
    system_prompt: str = key("", "system message; empty: the one the model was trained with, or r0's default")
    max_prompt_tokens: Count | None = key(None, "maximum prompt length in tokens; empty: as in training, or 512")
    batch_size: Count = key(16, "rows per forward pass")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "precision; auto: bf16 on a GPU, otherwise fp32")
    bf16: bool = key(False, "alias of dtype=bf16")
    no_flash_attn: bool = key(False, "use torch's attention on a GPU, even if the package flash-attn is installed")
    save_scores_path: PathText | None = key(
        None, "new file (JSONL) for row, label, prediction, score and the four probabilities of each row"
    )

    _resolve = rewriting(_bf16)

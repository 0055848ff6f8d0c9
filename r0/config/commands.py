"""One closed configuration a command: what all commands on data share, and those without a module of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r0.config.lists import ListKeys
from r0.config.models import ModelKeys
from r0.config.sections import (
    Count,
    LoraSection,
    NonNegative,
    Positive,
    RaySection,
    Section,
    Share,
    TrackingSection,
    key,
)
from r0.records import Form

DEFAULT_MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


class SourceKeys(Section):
    """Where (query, document) pairs and their labels come from."""

    data: str = key("builtin", "`builtin`, a JSONL file of rows or rank_llm requests, or a BEIR folder (with run=)")
    run: str | None = key(None, "TREC run with the candidates of each query (BEIR folders)")
    qrels: str = key("test", "judgements: a file, or a split of a BEIR folder (qrels/<split>.tsv)")
    relevance_threshold: Positive = key(1.0, "graded labels of at least this are relevant")
    min_label: float | None = key(None, "lowest grade in the file; empty: 0")
    max_label: float | None = key(None, "highest grade in the file; empty: 1")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")
    builtin_rows: Count = key(20000, "tasks generated for data=builtin")


class DataKeys(SourceKeys):
    """What comes in; shared by every command that trains on tasks."""

    label_sampling: Literal["natural", "balanced"] = key("natural", "rows as they come, or as many relevant as not")
    heldout_share: Share = key(0.1, "share of the queries kept for evaluation; a query is never on both sides")


class TrainingKeys(ModelKeys):
    """What every training command has."""

    model: str = key(DEFAULT_MODEL, "model to start from: a folder, or a name on the Hugging Face Hub")
    output: str | None = key(None, "run directory; empty: runs/<command>-<hash of the configuration>")
    fresh: bool = key(False, "start the run over: what the output directory holds of it is deleted")
    seed: Annotated[int, Field(ge=0)] = key(42, "of data order, sampling and initial weights")
    epochs: Positive = key(1.0, "passes over the training rows")
    max_steps: Annotated[int, Field(ge=0)] = key(0, "updates, at most; 0 = as the epochs say")
    batch_size: Count = key(16, "prompts (sft: rows) an update sees over all ranks")
    learning_rate: Positive = key(1e-6, "peak learning rate of AdamW")
    gradient_checkpointing: bool | Literal["auto"] = key(
        "auto", "recompute activations in the backward pass to save memory; auto: on a GPU (RL: if they do not fit), not on a CPU"
    )
    tracking: TrackingSection = key(TrackingSection(), "mirrors of the metrics")
    ray: RaySection = key(RaySection(), "where the roles run")


class RunKeys(DataKeys, TrainingKeys):
    """Training on tasks: a prompt of query and document, or of a list."""

    system_prompt: str = key("", "system message; empty: none")
    max_prompt_tokens: Count = key(2048, "prompt budget; longer documents are cut at a token boundary")

    @property
    def form(self) -> Form:
        """What the model answers."""
        return Form.YES_NO


class RankKeys(TrainingKeys):
    """Training without RL: DeepSpeed ranks on Ray Train."""

    learning_rate: Positive = key(1e-5, "peak learning rate of AdamW")
    micro_batch_size: Count = key(4, "rows a rank computes at one time")
    ranks: Count = key(1, "Ray Train workers")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = key(2, "DeepSpeed ZeRO stage")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "auto: bf16 on a GPU, fp32 without")
    cpus: Positive = key(1.0, "CPU cores of each worker")
    gpus: NonNegative | None = key(None, "GPUs of each worker; empty: 1 where the cluster has GPUs")
    weight_decay: NonNegative = key(0.0, "AdamW weight decay")
    max_grad_norm: Positive = key(1.0, "gradient norm is clipped here")
    lora: LoraSection = key(LoraSection(), "low-rank adapters")
    save_every: Annotated[int, Field(ge=0)] = key(0, "steps between checkpoints; 0 = only at the end of each epoch")


class SftConfig(ListKeys, RankKeys, RunKeys):
    """Warm start: supervised fine-tuning on rows that carry thinking, on Ray Train with DeepSpeed."""

    answer: Literal["yes_no", "permutation", "pick", "scores"] = key(
        "yes_no", "yes_no: one document a row; else lists, and what is answered"
    )
    system_prompt: str = key("", "system message; empty: none, and for lists r0's own for the answer form")
    max_new_tokens: Count = key(512, "completions are cut here; how many were is reported")
    warmup_ratio: Share = key(0.03, "share of the steps in which the learning rate rises from 0")
    lr_schedule: Literal["constant", "cosine"] = key("cosine", "learning rate after the warm-up")

    @property
    def form(self) -> Form:
        """What the model answers."""
        return Form(self.answer)


class ConvertConfig(Section):
    """Raw production logs to pointwise rows: convert IN OUT. Or the built-in lists to a BEIR folder: convert builtin FOLDER."""

    input: str = key(..., "raw log, JSONL: query, response, response_thinking, rejected_response; or `builtin`")
    output: str = key(..., "pointwise rows to write; with `builtin` a new BEIR folder")
    max_think_chars: Count = key(1_200_000, "thoughts are cut to this many characters")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")
    rows: Count = key(100, "with `builtin`: lists to write")
    candidates: Annotated[int, Field(ge=2)] = key(4, "with `builtin`: documents of a list")
    seed: Annotated[int, Field(ge=0)] = key(1, "with `builtin`: of the lists; another than a training's, and they are new to it")


class RolloutsConfig(Section):
    """Read the rollouts that a run kept: rollouts RUN."""

    run: str = key(..., "run directory")
    step: Annotated[int, Field(ge=0)] | None = key(None, "only this step; empty: the newest")
    worst: Annotated[int, Field(ge=0)] = key(0, "only the K rollouts of lowest reward; 0 = all")
    ids: bool = key(False, "print token ids too")

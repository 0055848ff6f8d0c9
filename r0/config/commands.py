"""One configuration per command: the keys shared by all commands that read data, and the small commands."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from r0.config.esci_source import EsciSourceKeys
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
from r0.config.types import CountFrom0, CountFrom2, DataText, Epochs, ModelText, PathText, Seed
from r0.records import Form

DEFAULT_MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


class OutputKeys(Section):
    """Where a command that trains nothing writes."""

    output: PathText | None = key(None, "folder of the result; empty: runs/<command>-<hash of the configuration>")
    fresh: bool = key(False, "start over: delete this run's files in the output folder")


class SourceKeys(Section):
    """The source of (query, document) pairs and their labels."""

    data: DataText = key(
        "builtin", "`builtin`, a JSONL file of rows or rank_llm requests, a BEIR folder (with run=), or the name of a data set, "
        "such as hf:BeIR/scifact"
    )  # fmt: skip
    run: DataText | None = key(None, "TREC run with the candidates of each query (BEIR folders)")
    qrels: DataText = key("test", "judgements: a file, or a split of a BEIR folder (qrels/<split>.tsv)")
    relevance_threshold: Positive = key(1.0, "lowest grade that counts as relevant")
    min_label: float | None = key(None, "lowest possible grade; empty: 0")
    max_label: float | None = key(None, "highest possible grade; empty: 1")
    skip_bad: bool = key(False, "skip bad lines; count and list them")
    builtin_rows: Count = key(20000, "number of tasks generated for data=builtin")


class DataKeys(SourceKeys):
    """Input data, for all commands that train on tasks."""

    label_sampling: Literal["natural", "balanced"] = key("natural", "natural: as in the data; balanced: half relevant")
    heldout_share: Share = key(0.1, "share of the queries held out for evaluation; a query is never on both sides")


class TrainingKeys(ModelKeys):
    """Keys of all training commands."""

    model: ModelText = key(DEFAULT_MODEL, "model to start from: a folder, or a name on the Hugging Face Hub")
    output: PathText | None = key(None, "run directory; empty: runs/<command>-<hash of the configuration>")
    fresh: bool = key(False, "start over: delete this run's files in the output directory")
    seed: Seed = key(42, "seed of data order, sampling and initial weights")
    epochs: Epochs = key(1.0, "passes over the training rows")
    max_steps: CountFrom0 = key(0, "maximum number of updates; 0: no limit besides epochs")
    batch_size: Count = key(16, "prompts (sft: rows) per update, over all ranks")
    learning_rate: Positive = key(1e-6, "peak learning rate of AdamW")
    gradient_checkpointing: bool | Literal["auto"] = key(
        "auto", "recompute activations in the backward pass to save memory; auto: on a GPU (RL: if they do not fit), not on a CPU"
    )
    tracking: TrackingSection = key(TrackingSection(), "experiment tracking")
    ray: RaySection = key(RaySection(), "where the workers run")

    def steps(self, steps_per_epoch: int) -> int:
        """Updates of a run: epochs of rows / batch_size steps, at most ``max_steps``."""
        steps = max(1, round(self.epochs * steps_per_epoch))
        return min(steps, self.max_steps) if self.max_steps else steps


class RunKeys(DataKeys, TrainingKeys):
    """Keys of training on tasks, whose prompts are a query with a document or a list."""

    system_prompt: str = key("", "system message; empty: none")
    max_prompt_tokens: Count = key(2048, "maximum prompt length in tokens; documents are cut to fit")

    @property
    def form(self) -> Form:
        """The answer form."""
        return Form.YES_NO


class RankKeys(TrainingKeys):
    """Keys of supervised training with DeepSpeed ranks on Ray Train."""

    learning_rate: Positive = key(1e-5, "peak learning rate of AdamW")
    micro_batch_size: Count = key(4, "rows per rank in one forward pass")
    ranks: Count = key(1, "number of Ray Train workers")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = key(2, "DeepSpeed ZeRO stage")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "precision; auto: bf16 on a GPU, otherwise fp32")
    cpus: Positive = key(1.0, "CPU cores per worker")
    gpus: NonNegative | None = key(None, "GPUs per worker; empty: 1 if the cluster has GPUs")
    weight_decay: NonNegative = key(0.0, "AdamW weight decay")
    max_grad_norm: Positive = key(1.0, "maximum gradient norm; larger gradients are clipped")
    lora: LoraSection = key(LoraSection(), "low-rank adapters")
    save_every: CountFrom0 = key(0, "steps between checkpoints; 0: at the end of each epoch")


class ScheduleKeys(Section):
    """The learning rate over the steps of a run."""

    warmup_ratio: Share = key(0.03, "share of the steps for warm-up, in which the learning rate rises from 0")
    lr_schedule: Literal["constant", "cosine"] = key("cosine", "learning rate after the warm-up")


class PlainRankKeys(RankKeys):
    """Training on plain ranks or with DeepSpeed, validated while it learns."""

    skip_bad: bool = key(False, "skip bad rows; count and list them")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = key(0, "DeepSpeed ZeRO stage; 0: no DeepSpeed")
    eval_every: CountFrom0 = key(0, "steps between held-out evaluations; 0: once per epoch; always before the first step")
    keep: Count = key(2, "number of newest checkpoints to keep")
    log_every: Count = key(1, "steps between lines of metrics.jsonl")


class SftConfig(ListKeys, ScheduleKeys, RankKeys, RunKeys):
    """Warm start: supervised fine-tuning on rows with thoughts, on Ray Train with DeepSpeed."""

    answer: Literal["yes_no", "permutation", "pick", "scores"] = key(
        "yes_no", "answer form; yes_no: one document per row; all others: lists"
    )
    system_prompt: str = key("", "system message; empty: none for yes_no, r0's default for lists")
    max_new_tokens: Count = key(512, "maximum completion length in tokens; longer ones are cut and counted")

    @property
    def form(self) -> Form:
        """The answer form."""
        return Form(self.answer)


class ConvertConfig(EsciSourceKeys):
    """Convert raw production logs to pointwise rows, or ESCI examples to groups (convert IN OUT), write the built-in lists as
    a BEIR folder (convert builtin FOLDER), or a GGUF file as a model folder (convert FILE.gguf FOLDER).
    """

    input: DataText = key(
        ..., "raw log, JSONL: query, response, response_thinking, rejected_response; ESCI examples, as `esci` reads them; "
        "`builtin`; or a GGUF file"
    )  # fmt: skip
    output: PathText = key(
        ..., "file for the rows or groups; a new BEIR folder with `builtin`, and for ESCI examples if not named .jsonl; a new "
        "model folder for a GGUF file"
    )
    max_think_chars: Count = key(1_200_000, "maximum length of a thought in characters; longer ones are cut")
    skip_bad: bool = key(False, "skip bad lines; count and list them")
    rows: Count = key(100, "with `builtin`: number of lists")
    candidates: CountFrom2 = key(4, "with `builtin`: documents per list")
    seed: Seed = key(1, "with `builtin`: seed of the lists; use another than in training to get unseen lists")


class RolloutsConfig(Section):
    """Show the stored rollouts of a run: rollouts RUN."""

    run: PathText = key(..., "run directory")
    step: CountFrom0 | None = key(None, "step to show; empty: the newest")
    worst: CountFrom0 = key(0, "show only this many rollouts, those of lowest reward; 0: all")
    ids: bool = key(False, "also print token ids")


class CompletionConfig(Section):
    """Print a shell's completion script: completion SHELL."""

    shell: Literal["bash", "zsh", "fish"] = key(..., "the shell")

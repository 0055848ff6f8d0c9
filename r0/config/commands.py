"""One closed configuration a command. Later commands add theirs here."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from r0.config.sections import (
    CheckpointSection,
    Count,
    EvalSection,
    GRPOSection,
    LearnerSection,
    LoraSection,
    NonNegative,
    Positive,
    PPOSection,
    RaySection,
    RewardSection,
    RolloutSection,
    Section,
    Share,
    SyncSection,
    TrackingSection,
    key,
)

DEFAULT_MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


class DataKeys(Section):
    """What comes in; shared by every command that reads tasks."""

    data: str = key("builtin", "`builtin`, a JSONL file of pointwise or grouped rows, or a BEIR folder (with run=)")
    run: str | None = key(None, "TREC run with the candidates of each query (BEIR folders)")
    qrels: str = key("test", "split of a BEIR folder's qrels: qrels/<split>.tsv")
    relevance_threshold: Positive = key(1.0, "graded labels of at least this are relevant")
    min_label: float | None = key(None, "lowest grade in the file; empty: 0")
    max_label: float | None = key(None, "highest grade in the file; empty: 1")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")
    label_sampling: Literal["natural", "balanced"] = key("natural", "rows as they come, or as many relevant as not")
    heldout_share: Share = key(0.1, "share of the queries kept for evaluation; a query is never on both sides")
    builtin_rows: Count = key(20000, "tasks generated for data=builtin")


class RunKeys(DataKeys):
    """What every training command has."""

    model: str = key(DEFAULT_MODEL, "model to start from: a folder, or a name on the Hugging Face Hub")
    output: str | None = key(None, "run directory; empty: runs/<command>-<hash of the configuration>")
    fresh: bool = key(False, "start the run over: what the output directory holds of it is deleted")
    seed: Annotated[int, Field(ge=0)] = key(42, "of data order, sampling and initial weights")
    epochs: Positive = key(1.0, "passes over the training rows")
    max_steps: Annotated[int, Field(ge=0)] = key(0, "updates, at most; 0 = as the epochs say")
    batch_size: Count = key(16, "prompts (sft: rows) an update sees over all ranks")
    learning_rate: Positive = key(1e-6, "peak learning rate of AdamW")
    system_prompt: str = key("", "system message; empty: none")
    max_prompt_tokens: Count = key(2048, "prompt budget; longer documents are cut at a token boundary")
    gradient_checkpointing: bool = key(False, "recompute activations in the backward pass to save memory")
    tracking: TrackingSection = key(TrackingSection(), "mirrors of the metrics")
    ray: RaySection = key(RaySection(), "where the roles run")


class StageAConfig(RunKeys):
    """RL with a rule reward: one document, think, then yes or no."""

    algo: Literal["ppo", "grpo"] | None = key(None, "empty: the only one of the sections ppo: and grpo: that is given")
    kl_coef: NonNegative = key(0.0, "weight of the KL to the reference model; 0 = no reference model is loaded")
    max_new_tokens: Count = key(256, "token limit of a completion")
    temperature: Positive = key(1.0, "sampling temperature; all log-probabilities are of this distribution")
    top_p: float = key(1.0, "must be 1: cutting the distribution while training biases the ratio")
    max_think_tokens: Count | None = key(None, "as reward.max_think_tokens; given once, it holds for both (default 200)")
    missing_eos_penalty: NonNegative | None = key(None, "as reward.missing_eos_penalty; given once, holds for both (default 0)")
    reward: RewardSection = key(RewardSection(), "the rule reward")
    ppo: PPOSection | None = key(None, "PPO's own keys")
    grpo: GRPOSection | None = key(None, "GRPO's own keys")
    learner: LearnerSection = key(LearnerSection(), "DeepSpeed ranks")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers")
    sync: SyncSection = key(SyncSection(), "weight sync")
    eval: EvalSection = key(EvalSection(), "held-out evaluation")
    checkpoint: CheckpointSection = key(CheckpointSection(), "checkpoints")

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: object) -> object:
        """Keys given once hold at both places; ``algo`` follows from the only section given."""
        if not isinstance(given, dict):
            return given
        values = dict(given)
        _agree(values, "max_think_tokens", 200)
        _agree(values, "missing_eos_penalty", 0.0)
        if values.get("algo") is None:
            sections = [name for name in ("ppo", "grpo") if values.get(name) is not None]
            if len(sections) == 2:
                raise ValueError("both ppo: and grpo: are given; choose with algo=ppo or algo=grpo")
            values["algo"] = sections[0] if sections else "ppo"
        if values["algo"] in ("ppo", "grpo") and values.get(values["algo"]) is None:
            values[values["algo"]] = {}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_p != 1.0:
            raise ValueError(
                f"top_p: {self.top_p} is refused in training, because completions cut to the top of the distribution "
                "no longer have the probabilities the loss assumes (the ratio is biased); use top_p=1"
            )
        group = self.grpo if self.algo == "grpo" else None
        if group is not None and group.num_generations < 2 and group.advantage != "reinforce_pp":
            raise ValueError(
                f"grpo.num_generations: a group of 1 has no spread, so advantage={group.advantage} is always 0; "
                "use at least 2, or grpo.advantage=reinforce_pp"
            )
        if self.batch_size % self.mini_batches:
            split = f"{self.algo}.num_mini_batches={self.mini_batches}"
            raise ValueError(f"batch_size: {self.batch_size} is not a multiple of {split}")
        least, most = self.reward.min_think_tokens, self.reward.max_think_tokens
        if most is not None and least > most:
            raise ValueError(f"reward.min_think_tokens: {least} is above max_think_tokens={most}")
        if self.ray.inline and (self.learner.ranks > 1 or self.rollout.workers > 1):
            raise ValueError("ray.inline: runs one learner and one engine; set learner.ranks=1 and rollout.workers=1")
        if self.min_label is not None and self.max_label is not None and self.min_label >= self.max_label:
            raise ValueError(f"min_label: {self.min_label} is not below max_label={self.max_label}")
        return self

    @property
    def section(self) -> PPOSection | GRPOSection:
        """The section that ``algo`` chose."""
        chosen = self.ppo if self.algo == "ppo" else self.grpo
        if chosen is None:  # filled by _resolve
            raise RuntimeError(f"no section for algo={self.algo}")
        return chosen

    @property
    def mini_batches(self) -> int:
        """Optimizer updates a pass."""
        return self.section.num_mini_batches

    @property
    def samples_per_prompt(self) -> int:
        """Completions sampled for each prompt: ``num_generations`` in GRPO, 1 in PPO."""
        return self.section.num_generations if isinstance(self.section, GRPOSection) else 1


def _agree(values: dict, name: str, default: float) -> None:
    """Make ``values[name]`` and ``values["reward"][name]`` one key."""
    reward = values.get("reward")
    if isinstance(reward, Section):
        reward = reward.model_dump()
    if reward is not None and not isinstance(reward, dict):
        return  # the section's own validation says what is wrong
    reward = dict(reward or {})
    top, inner = values.get(name), reward.get(name)
    if top is not None and inner is not None and top != inner:
        raise ValueError(f"{name}: {top} at the top level and {inner} in reward: disagree; give it once, it holds for both")
    value = top if top is not None else inner if inner is not None else default
    values[name] = value
    reward[name] = value
    values["reward"] = reward


class SftConfig(RunKeys):
    """Warm start: supervised fine-tuning on rows that carry thinking, on Ray Train with DeepSpeed."""

    learning_rate: Positive = key(1e-5, "peak learning rate of AdamW")
    max_new_tokens: Count = key(512, "completions are cut here; how many were is reported")
    micro_batch_size: Count = key(4, "rows a rank computes at one time")
    ranks: Count = key(1, "Ray Train workers")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = key(2, "DeepSpeed ZeRO stage")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "auto: bf16 on a GPU, fp32 without")
    cpus: Positive = key(1.0, "CPU cores of each worker")
    gpus: NonNegative | None = key(None, "GPUs of each worker; empty: 1 where the cluster has GPUs")
    warmup_ratio: Share = key(0.03, "share of the steps in which the learning rate rises from 0")
    lr_schedule: Literal["constant", "cosine"] = key("cosine", "learning rate after the warm-up")
    weight_decay: NonNegative = key(0.0, "AdamW weight decay")
    max_grad_norm: Positive = key(1.0, "gradient norm is clipped here")
    lora: LoraSection = key(LoraSection(), "low-rank adapters")
    save_every: Annotated[int, Field(ge=0)] = key(0, "steps between checkpoints; 0 = only at the end of each epoch")


class WarmStartSection(Section):
    """The demo's supervised start, from the built-in task's warm-start log."""

    rows: Count = key(1024, "rows of the warm-start log")
    epochs: Positive = key(1.0, "passes over them")
    batch_size: Count = key(32, "rows an update sees")
    learning_rate: Positive = key(1e-3, "peak learning rate")


class DemoConfig(StageAConfig):
    """Warm start, RL and probes on the built-in task, from the embedded r0-tiny, on two cores."""

    model: str = key("r0-tiny", "model to start from; r0-tiny is the embedded one")
    completions: Count = key(128, "completions an update sees; batch_size, if not given, is this / samples a prompt")
    warm_start: WarmStartSection = key(WarmStartSection(), "the supervised start")

    @model_validator(mode="before")
    @classmethod
    def _batch(cls, given: object) -> object:
        """PPO samples one completion a prompt and GRPO several: both get as many completions an update."""
        if not isinstance(given, dict) or "batch_size" in given:
            return given
        completions, grpo = given.get("completions", 128), given.get("grpo") or {}
        samples = grpo.get("num_generations", 8) if given.get("algo") != "ppo" and isinstance(grpo, dict) else 1
        if not isinstance(completions, int) or not isinstance(samples, int) or samples < 1:
            return given  # the fields' own validation says what is wrong
        return {**given, "batch_size": max(1, completions // samples)}


class ConvertConfig(Section):
    """Raw production logs to pointwise rows: convert IN OUT."""

    input: str = key(..., "raw log, JSONL: query, response, response_thinking, rejected_response")
    output: str = key(..., "pointwise rows to write")
    max_think_chars: Count = key(1_200_000, "thoughts are cut to this many characters")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")


class RolloutsConfig(Section):
    """Read the rollouts that a run kept: rollouts RUN."""

    run: str = key(..., "run directory")
    step: Annotated[int, Field(ge=0)] | None = key(None, "only this step; empty: the newest")
    worst: Annotated[int, Field(ge=0)] = key(0, "only the K rollouts of lowest reward; 0 = all")
    ids: bool = key(False, "print token ids too")

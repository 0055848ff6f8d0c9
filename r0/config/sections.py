"""The sections of a configuration: typed and frozen. Each key has a meaning text, which `COMMAND --help` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from r0.config.types import Count, CountFrom0, NonNegative, PathText, Positive, Seconds, Share


def key(default: Any, meaning: str, **bounds: Any) -> Any:
    """A field with its meaning text."""
    return Field(default, description=meaning, **bounds)


def rewriting(rewrite: Callable[[dict[str, Any]], None]) -> Any:
    """A validator with which ``rewrite`` changes the keys that are given, in a copy, before they are validated."""

    def validator(cls: type[BaseModel], given: object) -> object:
        if not isinstance(given, dict):
            return given  # the section's own validation says what is wrong
        values = dict(given)
        rewrite(values)
        return values

    of_the_class: Any = classmethod(validator)
    return model_validator(mode="before")(of_the_class)


class Section(BaseModel):
    """A section that refuses unknown keys, wrong types, NaN and infinity, and whose values cannot change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True, validate_default=True)


class RewardBase(Section):
    """Keys of all rewards."""

    name: str = key(..., "name of a reward registered in r0 or by an installed package's `r0.rewards` entry point")
    workers: Count = key(1, "number of reward processes")
    deadline_s: Seconds = key(60.0, "time limit in seconds for all completions of a prompt; a worker that exceeds it is replaced")
    failure_value: float | None = key(
        None, "value of a completion on which the reward fails twice (it raises, hangs, or gives no numbers); empty: stop the run"
    )
    overlong_tokens: CountFrom0 = key(
        0,
        "DAPO's soft overlong punishment: in the last overlong_tokens before max_new_tokens the component overlong falls "
        "linearly from 0 to −overlong_penalty; 0: off",
    )
    overlong_penalty: NonNegative = key(1.0, "penalty of a completion of max_new_tokens, if overlong_tokens is above 0")


class RewardSection(RewardBase):
    """Stage A's rule reward: the weight of each component; the reward is the sum of the components that apply."""

    name: str = key("stage_a", "name of a reward registered in r0 or by an installed package's `r0.rewards` entry point")
    format_weight: NonNegative = key(0.4, "reward for one answer pair whose stripped content is exactly yes or no")
    acc_weight: NonNegative = key(0.5, "reward for an answer equal to the label")
    think_bonus: NonNegative = key(0.3, "reward for a thought of min_think_tokens to max_think_tokens before the answer")
    length_penalty: NonNegative = key(0.05, "penalty above max_think_tokens, multiplied by (thinking tokens − max) / max")
    extra_text_penalty: NonNegative = key(0.2, "penalty for text after the last </answer>")
    invalid_tag_penalty: NonNegative = key(0.5, "penalty for missing, repeated, nested or misplaced tags")
    missing_answer_penalty: NonNegative = key(0.3, "additional penalty if there is no answer pair at all")
    missing_eos_penalty: NonNegative | None = key(
        None, "penalty for a completion cut at the token limit; same as the top-level key"
    )
    min_think_tokens: CountFrom0 = key(64, "shortest thought that earns think_bonus, in tokens")
    max_think_tokens: Count | None = key(None, "longest thought that earns think_bonus, in tokens; same as the top-level key")


class LoraSection(Section):
    """Low-rank adapters (Hu et al., 2021) through peft."""

    r: CountFrom0 = key(0, "rank of the adapters; 0: train all weights")
    alpha: Positive = key(32.0, "scale α; the update is multiplied by α / r")
    dropout: Share = key(0.0, "dropout on the input of the adapters; RL allows 0 only")
    target_modules: tuple[str, ...] | None = key(None, "module names to adapt; empty: all linear layers", strict=False)


class LearnerSection(Section):
    """The DeepSpeed ranks of the learner."""

    ranks: Count = key(1, "number of processes in the DeepSpeed group")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = key(0, "DeepSpeed ZeRO stage")
    offload_optimizer: bool = key(
        False, "keep gradients and optimizer in CPU memory: up to 16 bytes per weight less on the GPU, slower steps"
    )
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "precision of the weights; auto: bf16 on a GPU, otherwise fp32")
    shared_prefix: bool = key(True, "compute each prompt once for all its completions; false: one padded row per completion")
    row_tokens: Count = key(8192, "maximum tokens per row; longer groups are split, longer prompts get a row of their own")
    logprob_chunk: Count = key(1024, "maximum number of positions whose logits are held in memory at once")
    compile: bool = key(
        False, "fuse norms, rotary embeddings, gated activations and log-probabilities by torch.compile; not yet tried on a GPU"
    )
    max_grad_norm: Positive = key(1.0, "maximum gradient norm; larger gradients are clipped")
    weight_decay: NonNegative = key(0.0, "AdamW weight decay")
    warmup_ratio: Share = key(0.0, "share of the steps for warm-up, in which the learning rate rises from 0")
    lr_schedule: Literal["constant", "cosine"] = key("constant", "learning rate after the warm-up")
    critic_learning_rate: Positive | None = key(None, "peak learning rate of the critic; empty: learning_rate")
    lora: LoraSection = key(LoraSection(), "low-rank adapters")
    cpus: Positive = key(1.0, "CPU cores per rank")
    gpus: NonNegative | None = key(None, "GPUs per rank (a fraction shares a GPU); empty: 1 if the cluster has GPUs")

    @model_validator(mode="after")
    def _check_offload(self) -> Self:
        if self.offload_optimizer and self.zero_stage < 2:
            raise ValueError(
                f"offload_optimizer: with learner.zero_stage={self.zero_stage} all gradients stay on the card; "
                "use learner.zero_stage=2"
            )
        return self


class RolloutSection(Section):
    """The sampling workers."""

    engine: Literal["vllm", "hf"] = key("vllm", "vllm; or hf (transformers' generate), if vLLM cannot be installed")
    workers: Count = key(1, "number of engines")
    tensor_parallel_size: Count = key(1, "GPUs per vLLM engine")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "precision of the weights; auto: bf16 on a GPU, otherwise fp32")
    max_num_seqs: Count | Literal["auto"] = key(
        "auto", "completions an engine works on at one time; auto: what a GPU's key-value cache holds (128 to 1024), 128 on a CPU"
    )
    gpu_memory_utilization: Share = key(0.85, "maximum share of the GPU's memory for vLLM")
    kv_cache_gib: Positive | Literal["auto"] = key(
        "auto", "key-value cache of an engine on each GPU, in GiB; auto: what gpu_memory_utilization leaves, 1 GiB on a CPU"
    )
    sleep: bool = key(True, "if learner and vLLM share a GPU: vLLM frees its memory while the learner works")
    enforce_eager: bool = key(False, "switch CUDA graphs off on a GPU (there are none on a CPU)")
    cpus: Positive = key(1.0, "CPU cores per worker")
    gpus: NonNegative | None = key(
        None, "GPUs per worker (a fraction shares a GPU); empty: tensor_parallel_size if there are GPUs"
    )

    @model_validator(mode="after")
    def _check_cards(self) -> Self:
        size = self.tensor_parallel_size
        if self.engine == "hf" and size > 1:
            raise ValueError("tensor_parallel_size: rollout.engine=hf samples on one device; use rollout.engine=vllm, or 1")
        if size == 1 and self.gpus and self.gpus > 1:
            raise ValueError(
                f"gpus: an engine works on one GPU or a part of it, not on {self.gpus:g}; leave rollout.gpus empty, "
                "or set rollout.tensor_parallel_size for more GPUs"
            )
        if size > 1 and self.gpus and self.gpus != size:
            raise ValueError(
                f"gpus: an engine with tensor_parallel_size={size} works on {size} whole GPUs, not on {self.gpus:g}; "
                "leave rollout.gpus empty"
            )
        return self


class SyncSection(Section):
    """Weight synchronization from the learner to the rollout workers."""

    backend: Literal["auto", "nccl", "ipc", "gloo"] = key(
        "auto", "transport; auto: nccl between GPUs, ipc on a shared GPU, gloo on CPU"
    )
    bucket_mb: Positive | Literal["auto"] = key("auto", "megabytes sent at one time; auto: 512 between GPUs, 64 on CPUs")
    deadline_s: Seconds = key(300.0, "time limit of a sync in seconds")
    gap_warn: Positive = key(0.05, "warn if the mean difference of rollout and learner log-probabilities exceeds this, in nats")
    gap_fatal: Positive = key(0.2, "stop if the mean difference of rollout and learner log-probabilities exceeds this, in nats")
    max_staleness: CountFrom0 = key(
        0,
        "0: sampling and learning take turns; 1: the next step is sampled while this one is learned, so that rollouts are one "
        "weight version behind",
    )

    @model_validator(mode="after")
    def _check_staleness(self) -> Self:
        if self.max_staleness > 1:
            raise ValueError(
                f"max_staleness: {self.max_staleness} is more than r0 samples ahead, which is one step; use 0 or 1"
            )
        return self

    def bucket_bytes(self, on_gpu: bool) -> int:
        """Bytes sent at one time by a learner on a GPU, or on a CPU."""
        megabytes = (512.0 if on_gpu else 64.0) if self.bucket_mb == "auto" else self.bucket_mb
        return int(megabytes * 1e6)


class RaySection(Section):
    """Where the workers run, and time limits."""

    inline: bool = key(False, "run one learner and one engine in the driver process without Ray, so that breakpoint() works")
    address: str | None = key(
        None, "Ray cluster to join; local: a new one on this machine; empty: one that is there and fits, else a new one"
    )
    start_deadline_s: Seconds = key(600.0, "time limit for all workers to be ready, in seconds")
    sample_deadline_s: Seconds = key(
        900.0,
        "seconds without a completed prompt after which a rollout worker has hung; later: 10 × the longest so far, at "
        "least 300, or this if less",
    )
    update_deadline_s: Seconds = key(
        900.0,
        "time limit for the first update, in seconds, or 10 × the time of its sampling, if more; later ones: 10 × the "
        "slowest, at least 300, or this if less",
    )
    max_restarts: CountFrom0 = key(
        3, "how often rollout workers or the learner are started again within an hour, after a process died or hung; 0: never"
    )


def check_engines(ray: RaySection, rollout: RolloutSection) -> None:
    """Refuse several engines in one process."""
    if ray.inline and rollout.workers > 1:
        raise ValueError("ray.inline: runs one engine; set rollout.workers=1")


class EvalSection(Section):
    """Evaluation on held-out queries during training."""

    every: CountFrom0 = key(50, "steps between evaluations (also before the first and after the last step); 0: never")
    tasks: Count = key(200, "maximum number of held-out tasks")
    samples: CountFrom0 = key(1, "sampled completions per task, in addition to the greedy one")


class CheckpointSection(Section):
    """Checkpoints for resuming."""

    every: CountFrom0 = key(100, "steps between checkpoints (also at the end and on a signal); 0: only those")
    keep: Count = key(2, "number of newest checkpoints to keep")
    resume: str = key(
        "auto",
        "auto: go on where the output folder holds a run; never: refuse to; or the folder of another run, or of one of its "
        "checkpoints, from which a new run starts",
    )
    best: str | None = key(
        None, "held-out metric, e.g. heldout/greedy/reward, whose best (highest) checkpoint is kept besides; empty: none"
    )


class TrackingSection(Section):
    """Experiment tracking besides metrics.jsonl."""

    wandb: Literal["off", "offline", "online"] = key("off", "log to Weights & Biases")
    mlflow: PathText | None = key(
        None, "log to MLflow at this tracking URI: a server's address, or sqlite:////path/to/mlflow.db; empty: off"
    )
    trackio: bool = key(False, "log to trackio, in OUTPUT/trackio (or in $TRACKIO_DIR)")
    project: str = key("r0", "project in wandb and trackio, experiment in MLflow")
    name: str | None = key(None, "name of the run in wandb, MLflow and trackio; empty: the name of the run directory")
    tensorboard: bool = key(False, "log to TensorBoard, in OUTPUT/tensorboard")
    rollouts_every: Count = key(1, "store the rollouts of every n-th step in OUTPUT/rollouts")


MIRRORS: Mapping[str, Mapping[str, object]] = {"wandb": {"wandb": "online"}, "tensorboard": {"tensorboard": True}}


def mirror_by(values: dict[str, Any], name: str, none: str | None = None) -> None:
    """Replace the key ``name`` of ``values``, with which other tools' files name a tracker, by the section ``tracking``.

    Raises:
        ValueError: the value is neither a known tracker nor ``none``, the word for no tracker.
    """
    mirror = values.pop(name, None)
    if mirror is None or mirror == none:
        return
    if mirror not in MIRRORS:
        raise ValueError(f"{name}: {mirror!r} is unknown; choose one of {', '.join([*MIRRORS, *([none] if none else [])])}")
    tracking = values.get("tracking") or {}
    if isinstance(tracking, dict):  # else the section's own validation says what is wrong
        values["tracking"] = {**tracking, **MIRRORS[mirror]}

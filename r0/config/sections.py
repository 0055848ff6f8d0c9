"""The sections of a configuration: closed, typed, frozen. Every key carries its meaning, which `COMMAND --help` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def key(default: Any, meaning: str, **bounds: Any) -> Any:
    """A field with its meaning."""
    return Field(default, description=meaning, **bounds)


class Section(BaseModel):
    """A closed section: unknown keys, wrong types, NaN and infinity are refused; values cannot change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True, validate_default=True)


class RewardBase(Section):
    """What every reward has."""

    name: str = key(..., "name of a reward registered in r0 or by an installed package's `r0.rewards` entry point")
    workers: Count = key(1, "reward processes")
    deadline_s: Positive = key(60.0, "seconds for a batch; a worker that takes longer is replaced")


class RewardSection(RewardBase):
    """Stage A's rule reward (DESIGN, "Stage A's reward"): what each component is worth."""

    name: str = key("stage_a", "name of a reward registered in r0 or by an installed package's `r0.rewards` entry point")
    format_weight: NonNegative = key(0.4, "for one answer pair whose stripped content is exactly yes or no")
    acc_weight: NonNegative = key(0.5, "for an answer equal to the label")
    think_bonus: NonNegative = key(0.3, "for a thought of min_think_tokens to max_think_tokens before the answer")
    length_penalty: NonNegative = key(0.05, "taken away × (thinking tokens − max) / max, above max_think_tokens")
    extra_text_penalty: NonNegative = key(0.2, "taken away for text after the last </answer>")
    invalid_tag_penalty: NonNegative = key(0.5, "taken away for missing, repeated, nested or misplaced tags")
    missing_answer_penalty: NonNegative = key(0.3, "taken away in addition when there is no answer pair at all")
    missing_eos_penalty: NonNegative | None = key(None, "taken away when the token limit cut the completion; as at the top level")
    min_think_tokens: Annotated[int, Field(ge=0)] = key(64, "shortest thought that earns think_bonus, in tokens")
    max_think_tokens: Count | None = key(None, "longest thought that earns think_bonus, in tokens; as at the top level")


class PPOSection(Section):
    """PPO (Schulman et al., 2017) with a critic."""

    num_ppo_epochs: Count = key(1, "passes over each batch")
    num_mini_batches: Count = key(1, "optimizer updates a pass")
    cliprange: Positive = key(0.2, "clip range ε of the probability ratio")
    cliprange_value: Positive = key(0.2, "clip range of the value around its old prediction")
    vf_coef: NonNegative = key(0.1, "weight of the value loss")
    gamma: Share = key(1.0, "discount γ of GAE")
    lam: Share = key(0.95, "λ of GAE")
    whiten_rewards: bool = key(False, "scale the per-token rewards to variance 1 before GAE")


class GRPOSection(Section):
    """GRPO (Shao et al., 2024) and its relatives."""

    num_generations: Count = key(8, "completions sampled for each prompt (G)")
    num_ppo_epochs: Count = key(1, "passes over each batch")
    num_mini_batches: Count = key(1, "optimizer updates a pass")
    advantage: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp"] = key("grpo", "how rewards become advantages")
    loss: Literal["ppo_clip", "gspo", "cispo"] = key("ppo_clip", "policy loss; gspo wants far narrower clips, such as 3e-4")
    clip_low: Positive = key(0.2, "the ratio is clipped below at 1 − clip_low")
    clip_high: Positive = key(0.28, "the ratio is clipped above at 1 + clip_high")
    denominator: Literal["tokens", "sequences"] = key("tokens", "one mean over all tokens of the batch, or a mean per sequence")
    kl_estimator: Literal["k1", "k2", "k3"] = key("k3", "of the KL to the reference model; k1 in the loss has no mean gradient")
    kl_in: Literal["loss", "reward"] = key("loss", "where kl_coef × KL enters")
    tis_cap: NonNegative = key(3.0, "cap of the importance weight learner/rollout (truncated importance sampling); 0 = off")
    refill_rounds: Annotated[int, Field(ge=0)] = key(0, "rounds of fresh prompts in place of groups whose rewards are all equal")


class LoraSection(Section):
    """Low-rank adapters (Hu et al., 2021) through peft."""

    r: Annotated[int, Field(ge=0)] = key(0, "rank of the adapters; 0 trains all weights")
    alpha: Positive = key(32.0, "scale α; the update is multiplied by α / r")
    dropout: Share = key(0.0, "dropout on the adapters' input; RL wants 0")
    target_modules: tuple[str, ...] | None = key(None, "module names to adapt; empty: all linear layers", strict=False)


class LearnerSection(Section):
    """The DeepSpeed ranks."""

    ranks: Count = key(1, "processes in the DeepSpeed group")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = key(0, "DeepSpeed ZeRO stage")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "weights while learning; auto: bf16 on a GPU, fp32 without")
    shared_prefix: bool = key(True, "compute a prompt once for all its completions; false: one padded row a completion")
    row_tokens: Count = key(8192, "token budget of a learner row; longer groups are split, longer prompts have a row each")
    logprob_chunk: Count = key(1024, "positions whose logits exist at one time")
    compile: bool = key(
        False, "fuse norms, rotary embeddings, gated activations and log-probabilities by torch.compile; not yet tried on a GPU"
    )
    max_grad_norm: Positive = key(1.0, "gradient norm is clipped here")
    weight_decay: NonNegative = key(0.0, "AdamW weight decay")
    warmup_ratio: Share = key(0.0, "share of the steps in which the learning rate rises from 0")
    lr_schedule: Literal["constant", "cosine"] = key("constant", "learning rate after the warm-up")
    critic_learning_rate: Positive | None = key(None, "learning rate of the critic; empty: learning_rate")
    lora: LoraSection = key(LoraSection(), "low-rank adapters")
    cpus: Positive = key(1.0, "CPU cores declared and used by each rank")
    gpus: NonNegative | None = key(None, "GPUs of each rank (a fraction shares the card); empty: 1 where the cluster has GPUs")


class RolloutSection(Section):
    """The sampling workers."""

    engine: Literal["vllm", "hf"] = key("vllm", "vllm, or hf: transformers' own generate where vLLM cannot be installed")
    workers: Count = key(1, "independent engines")
    tensor_parallel_size: Count = key(1, "GPUs of one vLLM engine")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "weights while sampling; auto: bf16 on a GPU, fp32 without")
    max_num_seqs: Count | Literal["auto"] = key(
        "auto", "completions an engine works on at one time; auto: what a GPU's key-value cache holds (128 to 1024), 128 on a CPU"
    )
    gpu_memory_utilization: Share = key(0.85, "share of the card that vLLM may take, at most")
    kv_cache_gib: Positive | Literal["auto"] = key(
        "auto", "key-value cache of an engine on each card, in GiB; auto: what gpu_memory_utilization leaves, 1 GiB on a CPU"
    )
    sleep: bool = key(True, "where learner and vLLM share a card, vLLM gives its memory back while the learner works")
    enforce_eager: bool = key(False, "no CUDA graphs on a GPU (always so on a CPU)")
    cpus: Positive = key(1.0, "CPU cores declared and used by each worker")
    gpus: NonNegative | None = key(None, "GPUs of each worker (a fraction shares a card); empty: tensor_parallel_size with GPUs")

    @model_validator(mode="after")
    def _check_cards(self) -> Self:
        size = self.tensor_parallel_size
        if self.engine == "hf" and size > 1:
            raise ValueError("tensor_parallel_size: rollout.engine=hf samples on one device; use rollout.engine=vllm, or 1")
        shares = size == 1 and (self.gpus or 0) < 1
        if self.gpus and self.gpus != size and not shares:
            fraction = ", or a fraction below 1 to share a card" if size == 1 else ""
            raise ValueError(
                f"gpus: an engine with tensor_parallel_size={size} works on {size} whole GPUs, not on {self.gpus:g}; "
                f"leave rollout.gpus empty{fraction}"
            )
        return self


class SyncSection(Section):
    """Weight sync from learner to rollout workers."""

    backend: Literal["auto", "nccl", "ipc", "gloo"] = key("auto", "auto: nccl between GPUs, ipc on a shared GPU, gloo on CPU")
    bucket_mb: Positive | Literal["auto"] = key("auto", "megabytes sent at one time; auto: 512 between GPUs, 64 on CPUs")
    deadline_s: Positive = key(300.0, "seconds after which a sync fails")
    gap_warn: Positive = key(0.05, "warn when rollout and learner log-probabilities differ by more in the mean, in nats")
    gap_fatal: Positive = key(0.2, "stop when they differ by more, in nats")
    max_staleness: Annotated[int, Field(ge=0)] = key(0, "weight versions a rollout may lag behind the learner")

    def bucket_bytes(self, on_gpu: bool) -> int:
        """Bytes sent at one time by a learner on a GPU, or on a CPU."""
        megabytes = (512.0 if on_gpu else 64.0) if self.bucket_mb == "auto" else self.bucket_mb
        return int(megabytes * 1e6)


class RaySection(Section):
    """Where the roles run."""

    inline: bool = key(False, "one learner and one engine in the driver's process, so that breakpoint() works; no Ray")
    address: str | None = key(None, "Ray cluster to join; empty: RAY_ADDRESS, else a Ray started here for this run")
    start_deadline_s: Positive = key(600.0, "seconds for all roles to be ready")
    sample_deadline_s: Positive = key(1800.0, "seconds for sampling one batch")
    update_deadline_s: Positive = key(3600.0, "seconds for one learner update")


class EvalSection(Section):
    """Evaluation on held-out queries during training."""

    every: Annotated[int, Field(ge=0)] = key(50, "steps between evaluations (also before the first, after the last); 0 = never")
    tasks: Count = key(200, "held-out tasks judged, at most")
    samples: Annotated[int, Field(ge=0)] = key(1, "sampled completions a task, beside the greedy one")


class CheckpointSection(Section):
    """What survives an interruption."""

    every: Annotated[int, Field(ge=0)] = key(100, "steps between checkpoints (also at the end and on a signal); 0 = only those")
    keep: Count = key(2, "newest checkpoints kept")


class TrackingSection(Section):
    """Mirrors of metrics.jsonl."""

    wandb: Literal["off", "offline", "online"] = key("off", "mirror to Weights & Biases")
    wandb_project: str = key("r0", "its project")
    wandb_name: str | None = key(None, "name of the run there; empty: the run directory's")
    tensorboard: bool = key(False, "mirror to TensorBoard, under OUTPUT/tensorboard")
    rollouts_every: Count = key(1, "steps between steps whose rollouts are kept in OUTPUT/rollouts")


MIRRORS: Mapping[str, Mapping[str, object]] = {"wandb": {"wandb": "online"}, "tensorboard": {"tensorboard": True}}


def mirror_by(values: dict[str, Any], name: str, none: str | None = None) -> None:
    """Turn the key ``name`` of ``values``, by which others' files name a mirror, into the section ``tracking``.

    Raises:
        ValueError: it names no mirror, nor is it ``none``, the word for no mirror.
    """
    mirror = values.pop(name, None)
    if mirror is None or mirror == none:
        return
    if mirror not in MIRRORS:
        raise ValueError(f"{name}: {mirror!r} is none of {', '.join([*MIRRORS, *([none] if none else [])])}")
    values["tracking"] = {**(values.get("tracking") or {}), **MIRRORS[mirror]}

"""Code shared by the ranks of supervised runs: transformers' Trainer on DeepSpeed, checkpoints, LoRA."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback

from r0.actors.learner.adapters import check_experts, check_targets
from r0.actors.learner.zero import effective_stage
from r0.config import PlainRankKeys, RankKeys, ScheduleKeys
from r0.errors import UserError, reason
from r0.process import native
from r0.process.device import process_device
from r0.supervised.training.job import Channel, Job, Kind, Report, micro_batch
from r0.supervised.training.report import ReportCallback, StepValues
from r0.supervised.training.save import safe_torch_load


def training_arguments(job: Job) -> dict[str, Any]:
    """The Trainer's settings; gradient accumulation completes a batch from the micro-batches of all ranks."""
    config = job.config
    bf16 = uses_bf16(config)
    micro = micro_batch(config)
    settings = {
        "output_dir": str(job.checkpoints),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": config.batch_size // (micro * config.ranks),
        "max_steps": job.steps,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": bf16,
        "gradient_checkpointing": checkpointed(config),
        # Reentrant with ZeRO-3: the other variant mistakes the gathered weights of a recomputed layer for a change.
        "gradient_checkpointing_kwargs": {"use_reentrant": config.zero_stage == 3},
        "deepspeed": deepspeed_config(config.zero_stage, bf16),
        "seed": config.seed,
        "save_strategy": "steps",
        "save_steps": min(job.save_every, job.steps),
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "use_cpu": not on_gpu(config),
        "prediction_loss_only": True,
    }
    if isinstance(config, ScheduleKeys):
        warmup = round(config.warmup_ratio * job.steps)
        kind = "cosine" if config.lr_schedule == "cosine" else "constant_with_warmup"
        settings |= {"lr_scheduler_type": kind, "warmup_steps": warmup}
    if isinstance(config, PlainRankKeys):
        settings |= {"save_total_limit": config.keep, "logging_steps": config.log_every}
        if not config.zero_stage:
            settings |= {"deepspeed": None, "ddp_find_unused_parameters": False, "ddp_backend": dist.get_backend()}
    return settings


def deepspeed_config(zero_stage: int, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's settings; "auto" is filled in from the Trainer's. torch's AdamW needs no native build.

    bf16 with stage 0 becomes stage 1, because stage 0 has no float32 master weights; the updates are the same. Optimizer and
    gradients are as in RL (``zero.make_engine``): AdamW is fused except in ZeRO 3, and gradients accumulate in float32.
    """
    stage = effective_stage(zero_stage, bf16)
    adam = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto", "torch_adam": True, "adam_w_mode": True}
    adam["fused"] = stage != 3
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": 50_000_000, "overlap_comm": False}
    if stage == 3:  # without gathering, a saved model has no weights
        zero |= {"stage3_gather_16bit_weights_on_model_save": True, "stage3_prefetch_bucket_size": 50_000_000}
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto", "immediate_grad_update": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "optimizer": {"type": "AdamW", "params": adam},
        "steps_per_print": 1_000_000_000,
    }


def uses_bf16(config: RankKeys) -> bool:
    """Whether the weights are bf16 during training."""
    return config.dtype == "bf16" or (config.dtype == "auto" and on_gpu(config))


def on_gpu(config: RankKeys) -> bool:
    """Whether this rank computes on a GPU."""
    return process_device(config.gpus).type == "cuda"


def checkpointed(config: RankKeys) -> bool:
    """Whether activations are recomputed in the backward pass; ``auto``: on a GPU."""
    return on_gpu(config) if config.gradient_checkpointing == "auto" else config.gradient_checkpointing


def init_deepspeed() -> None:
    """Initialize DeepSpeed with the process group. Otherwise ZeRO-3, which shards a model while it loads, assumes one rank."""
    if dist.get_backend() == "gloo":
        native.ready()
    import deepspeed

    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints that its native part was built
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)


def prepare_model(model: Any, config: RankKeys, task_type: str) -> Any:
    """The model prepared for training: with the configured LoRA adapters, if any.

    Raises:
        UserError: a target name is that of another module than a linear layer inside the model.
    """
    if checkpointed(config):
        model.config.use_cache = False
    if not config.lora.r:
        return model
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    if checkpointed(config):
        model.enable_input_require_grads()
    check_targets(model, lora.target_modules, "lora")
    targets = list(lora.target_modules) if lora.target_modules else "all-linear"
    settings = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type=task_type
    )  # fmt: skip
    # Adapters in the model's dtype: ZeRO-3 requires one dtype for all trained weights; DeepSpeed has float32 copies.
    try:
        model = get_peft_model(model, settings, autocast_adapter_dtype=False)
    except ValueError as error:  # such as dropout on experts
        raise UserError(f"lora: peft cannot put adapters into this {type(model).__name__}: {reason(error)}") from error
    check_experts(model, config.zero_stage, "lora")
    return model


class OrderedTrainer(StepValues, Trainer):
    """A Trainer that does not shuffle, because the rows are shuffled already."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)


def fit(
    trainer: Any,
    job: Job,
    channel: Channel,
    finish: Callable[[], Mapping[str, float]],
    *callbacks: TrainerCallback,
) -> None:
    """Train, from the job's newest checkpoint if there is one. At the end ``finish`` saves the final model together with the
    other ranks and returns the metrics of the run; it is not called if the run was stopped.

    ``callbacks`` are called after the one that ends the run at a NaN.

    Raises:
        UserError: a loss, a weight to be saved or a held-out figure is NaN or infinite.
    """
    watch = ReportCallback(trainer, job, channel)
    trainer.remove_callback(PrinterCallback)
    for callback in (watch, *callbacks):
        trainer.add_callback(callback)
    if watch.asked(trainer.args.device):
        return
    checkpoint, _ = job.newest()
    with safe_torch_load():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if watch.stopped:
        return
    figures = finish()
    if dist.get_rank() == 0:
        channel.send(Report(Kind.DONE, job.steps, values=figures))


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def sum_over_ranks(values: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
    """The sum of each value over the ranks; all values are reduced and copied in one operation."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values.values()])
    dist.all_reduce(total)
    return dict(zip(values, total.tolist(), strict=True))


def silence_libraries() -> None:
    """Suppress progress bars, warnings and log messages of the libraries."""
    import transformers
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)

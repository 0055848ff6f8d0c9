"""What each rank of a warm start does: rows, model, transformers' Trainer over DeepSpeed, the final model."""

from __future__ import annotations

import inspect
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from r0.actors.zero import effective_stage, start_distributed
from r0.config import SftConfig
from r0.errors import UserError
from r0.supervised.examples import IGNORED, Collate, OpenRows, StepRows
from r0.supervised.job import WHOLE, Channel, Job, Kind, Report, micro_batch
from r0.supervised.save import known_pickles, save_model

GROUP_TIMEOUT_S = 1800.0  # a collective that a rank never joins fails after this
HELDOUT_TASKS = 256  # held-out rows whose loss is measured at the end, at most


def train_rank(job: Job, channel: Channel) -> None:
    """Train as one rank of an initialised ``torch.distributed`` group, and save the final model with the others.

    Raises:
        UserError: what is wrong with the model or the data.
    """
    _quiet()
    arguments = training_arguments(job)  # before the model: ZeRO-3 splits it while it loads
    rows = OpenRows(job)
    model = _model(job.config, job.model)
    collate = Collate(rows.pad_id, "logits_to_keep" in inspect.signature(_base(model).forward).parameters)
    train = StepRows(rows, job.config.batch_size, job.steps)
    trainer = _Trainer(model=model, args=arguments, data_collator=collate, train_dataset=train)
    watch = _Watch(trainer, job, channel)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    checkpoint, _ = job.newest()
    with known_pickles():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if watch.stopped:
        return
    figures = {**sum_over_ranks(asdict(collate.counts)), **_heldout_loss(trainer, rows, job)}
    save_model(trainer, job, rows.prompter)
    if dist.get_rank() == 0:
        channel.send(Report(Kind.EVALUATION, job.steps, values=figures))
        channel.send(Report(Kind.DONE, job.steps, values=figures))


def inline_rank(job: Job, channel: Channel) -> None:
    """The one rank of ``ray.inline=true``, in this process; its process group stays, for whoever needs one next."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    start_distributed(0, 1, "127.0.0.1:0", device, timeout_s=GROUP_TIMEOUT_S)
    train_rank(job, channel)


def training_arguments(job: Job) -> TrainingArguments:
    """The Trainer's settings; accumulation makes up what ranks and micro-batches leave of a batch."""
    config = job.config
    half = _half(config)
    micro = micro_batch(config)
    return TrainingArguments(
        output_dir=str(job.checkpoints),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.batch_size // (micro * config.ranks),
        max_steps=job.steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine" if config.lr_schedule == "cosine" else "constant_with_warmup",
        warmup_steps=round(config.warmup_ratio * job.steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=half,
        gradient_checkpointing=config.gradient_checkpointing,
        # With ZeRO-3 a recomputed layer sees its weights gathered, which the other way takes for a change.
        gradient_checkpointing_kwargs={"use_reentrant": config.zero_stage == 3},
        deepspeed=deepspeed_config(config.zero_stage, half),
        seed=config.seed,
        save_strategy="steps",
        save_steps=min(job.save_every, job.steps),
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        use_cpu=not torch.cuda.is_available(),
        prediction_loss_only=True,
    )


def deepspeed_config(zero_stage: int, half: bool) -> dict[str, Any]:
    """DeepSpeed's settings; "auto" is filled from the Trainer's. torch's own AdamW needs no native build.

    bf16 with stage 0 becomes stage 1: the same updates, but stage 0 keeps no float32 weights beside the bf16 ones.
    """
    stage = effective_stage(zero_stage, half)
    adam = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto", "torch_adam": True, "adam_w_mode": True}
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": 50_000_000, "overlap_comm": False}
    if stage == 3:  # without the gather a save holds no weights at all
        zero |= {"stage3_gather_16bit_weights_on_model_save": True, "stage3_prefetch_bucket_size": 50_000_000}
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": zero,
        "optimizer": {"type": "AdamW", "params": adam},
        "steps_per_print": 1_000_000_000,
    }


def _model(config: SftConfig, folder: str) -> Any:
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if _half(config) else torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"model: {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    if config.gradient_checkpointing:
        model.config.use_cache = False
    if not config.lora.r:
        return model
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    if config.gradient_checkpointing:
        model.enable_input_require_grads()
    targets = list(lora.target_modules) if lora.target_modules else "all-linear"
    settings = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )  # fmt: skip
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        raise UserError(f"lora.target_modules: {str(error).splitlines()[0]}") from error


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _half(config: SftConfig) -> bool:
    return config.dtype == "bf16" or (config.dtype == "auto" and torch.cuda.is_available())


class _Trainer(Trainer):
    """Rows in their own order (the source has shuffled them), and the number of trained tokens of a step kept for the record."""

    tokens = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """The micro-batches of a step, and its tokens over all ranks."""
        batches, tokens = super().get_batch_samples(*args, **kwargs)
        self.tokens = 0 if tokens is None else int(tokens)
        return batches, tokens


class _Watch(TrainerCallback):
    """Reports every step, marks whole checkpoints, and ends the run at a checkpoint when the driver asks."""

    def __init__(self, trainer: _Trainer, job: Job, channel: Channel):
        self._trainer, self._job, self._channel = trainer, job, channel
        self._began = time.monotonic()
        self.stopped = False

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the step's clock."""
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """All ranks see the same wish to stop: rank 0's."""
        asked = torch.tensor([float(dist.get_rank() == 0 and self._channel.stop_asked())], device=args.device)
        dist.broadcast(asked, src=0)
        if asked.item() and state.global_step < self._job.steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        """One report a step."""
        if "loss" not in logs or dist.get_rank() != 0:
            return
        values = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if logs.get(name) is not None}
        values["tokens"] = float(self._trainer.tokens)
        seconds = {"learn": time.monotonic() - self._began}
        self._channel.send(Report(Kind.STEP, state.global_step, values, seconds))

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A checkpoint counts only once every rank has written its part."""
        dist.barrier()
        if dist.get_rank() == 0:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()


def _heldout_loss(trainer: Trainer, rows: OpenRows, job: Job) -> dict[str, float]:
    """Mean loss of a held-out completion token, in nats; nothing when no rows are held out. Every rank computes as many rows."""
    examples = [rows.example(task) for task in rows.heldout(HELDOUT_TASKS)]
    if not examples:
        return {}
    micro, world, rank = micro_batch(job.config), dist.get_world_size(), dist.get_rank()
    model = trainer.model_wrapped
    model.eval()
    loss, tokens = 0.0, 0
    for start in range(0, len(examples), micro * world):
        mine = examples[start + rank * micro : start + (rank + 1) * micro]
        batch = trainer.data_collator(mine or examples[:1])
        labels = batch.pop("labels")[:, 1:].to(trainer.args.device)
        with torch.no_grad():
            logits = model(**{name: _to(value, trainer.args.device) for name, value in batch.items()}).logits[:, :-1]
        if mine:
            flat = logits.flatten(0, 1).float()
            loss += torch.nn.functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum").item()
            tokens += int(labels.ne(IGNORED).sum())
    total = sum_over_ranks({"loss": loss, "tokens": tokens})
    return {"heldout/loss": total["loss"] / max(1.0, total["tokens"])}


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def sum_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Each value added up over the ranks."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor([float(value) for value in values.values()], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(values, total.tolist(), strict=True))


def _quiet() -> None:
    """Only what a person should read: the libraries' progress is not the run's."""
    import transformers
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)

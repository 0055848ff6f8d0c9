"""Training of a causal language model: the model, the rows of all steps in order, and transformers' Trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, TrainingArguments, set_seed

from r0.records import Task
from r0.storage.loading import load_model
from r0.supervised.training.job import Job
from r0.supervised.training.ranks import OrderedTrainer, init_deepspeed, prepare_model, training_arguments, uses_bf16
from r0.supervised.training.report import COUNTED

Made = TypeVar("Made", covariant=True)
Kind = TypeVar("Kind", bound=OrderedTrainer)


class Source(Protocol[Made]):
    """Tasks by step, and examples made from them; ``pad_id`` is the token id of padding."""

    pad_id: int

    def batch(self, step: int) -> list[Task]:
        """The tasks of a step."""

    def example(self, task: Task) -> Made:
        """The example of a task, from which a micro-batch is collated."""


class StepRows(Dataset, Generic[Made]):
    """The rows of all steps in order, each created on access.

    Args:
        rows: the data.
        batch_size: rows of a step.
        steps: of the run.
    """

    def __init__(self, rows: Source[Made], batch_size: int, steps: int):
        self._rows, self._batch_size, self._length = rows, batch_size, batch_size * steps
        self._step, self._tasks = -1, list[Task]()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Made:
        """Row ``index`` counted from the first step."""
        step, place = divmod(index, self._batch_size)
        if step != self._step:
            self._step, self._tasks = step, self._rows.batch(step)
        return self._rows.example(self._tasks[place])


class Collator(Protocol):
    """Makes micro-batches of examples, and counts the examples; ``count`` returns a dataclass of integers."""

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        """The micro-batch."""

    def count(self, examples: Sequence[Any]) -> Any:
        """What the record says of the examples, when they have been trained on."""


def counted(collator: Collator) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """The collator's micro-batches with their counts, as a Trainer reads some that it does not train on."""
    return lambda examples: {**collator(examples), COUNTED: asdict(collator.count(examples))}


def load_causal(folder: str | Path, weights: torch.dtype, **options: Any) -> Any:
    """The language model in ``folder``.

    Raises:
        UserError: it cannot be loaded as one.
    """
    return load_model(AutoModelForCausalLM, folder, dtype=weights, **options)


def supports_logits_to_keep(model: Any) -> bool:
    """Whether the model supports the argument ``logits_to_keep``."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def causal_trainer(kind: type[Kind], job: Job, rows: Source, collate: Callable[[int, bool], Collator]) -> Kind:
    """The Trainer of a job on DeepSpeed, with the job's model.

    Args:
        kind: the Trainer's class.
        job: the job.
        rows: the data.
        collate: creates the collator from the token id of padding and whether the model supports ``logits_to_keep``.

    Raises:
        UserError: the model cannot be loaded; no module has one of the adapters' target names.
    """
    config = job.config
    arguments = TrainingArguments(**training_arguments(job))  # before the model: ZeRO-3 splits it while it loads
    init_deepspeed()
    set_seed(config.seed)  # of new adapters
    model = prepare_model(load_causal(job.model, torch.bfloat16 if uses_bf16(config) else torch.float32), config, "CAUSAL_LM")
    collator, steps = collate(rows.pad_id, supports_logits_to_keep(model)), StepRows(rows, config.batch_size, job.steps)
    return kind(model=model, args=arguments, data_collator=counted(collator), train_dataset=steps)

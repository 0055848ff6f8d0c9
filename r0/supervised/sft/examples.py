"""Examples of the warm start: prompt and completion as token ids, and their collation to a micro-batch.

Dimensions: B rows of a micro-batch, T tokens of its longest row, K positions of its longest completion + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from r0.config import SftConfig
from r0.data.builtin.lists import warm_start_list_completion
from r0.data.builtin.pairs import warm_start_completion
from r0.data.readers import DataKind
from r0.data.source import TaskSource, open_source
from r0.records import ListwiseTask, Task
from r0.supervised.training.job import Job
from r0.text.prompts import Prompter
from r0.text.tokenizer import open_tokenizer

IGNORED = -100  # label of positions without loss


@dataclass(frozen=True, slots=True)
class Example:
    """A training example."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    cut: bool  # the completion did not fit max_new_tokens; its end is not trained
    cut_prompt: bool  # its documents did not fit passage_tokens or max_prompt_tokens


def open_rows(config: SftConfig) -> TaskSource:
    """The training rows. Rows without a thought are dropped and counted: training on them would teach the model not to think.

    Raises:
        UserError: the data cannot be used.
    """
    return open_source(config, config.seed, with_thought=True)


def open_prompter(config: SftConfig, folder: Path) -> Prompter:
    """The prompts of the model in ``folder``.

    Raises:
        UserError: its tokenizer or its template cannot be used.
    """
    return Prompter.of(config, open_tokenizer(folder, pads=True), folder=folder)


class OpenRows:
    """The data of a job: tasks by step, and each task as an example.

    Raises:
        UserError: data or tokenizer cannot be used.
    """

    def __init__(self, job: Job[SftConfig]):
        config = job.config
        self.source = open_rows(config)
        self.prompter = open_prompter(config, Path(job.model))
        self.tokenizer = self.prompter.tokenizer
        self._config = config
        pad = self.tokenizer.pad_token_id
        self.pad_id = int(self.tokenizer.eos_token_id if pad is None else pad)

    def batch(self, step: int) -> list[Task]:
        """The tasks of a step."""
        return list(self.source.batch(step, self._config.batch_size))

    def heldout(self, count: int) -> list[Task]:
        """Held-out tasks, at most ``count``."""
        return list(self.source.heldout(count))

    def example(self, task: Task) -> Example:
        """A task as token ids; the completion ends with the end-of-sequence id unless it is cut."""
        if self._config.data == DataKind.BUILTIN:  # the log of a careless labeller, which RL has to improve on
            prompt = self.prompter.prompt(task)
            completion_ids = self.prompter.completion_ids(_careless(task, self._config.seed))
        else:
            pair = self.prompter.training_pair(task)
            prompt, completion_ids = pair.prompt, pair.completion_ids
        most = self._config.max_new_tokens
        return Example(prompt.token_ids, completion_ids[:most], len(completion_ids) > most, prompt.cut_tokens > 0)


def _careless(task: Task, seed: int) -> str:
    """The completion of the built-in log for a task."""
    return warm_start_list_completion(task, seed) if isinstance(task, ListwiseTask) else warm_start_completion(task, seed)


@dataclass
class Counts:
    """Counts over rows."""

    rows: int = 0
    cut: int = 0  # completions cut at max_new_tokens
    cut_prompts: int = 0  # prompts whose documents were cut, at passage_tokens or max_prompt_tokens


class Collate:
    """Collates examples to a micro-batch, left-padded so that completions end together and only their logits are needed.

    Args:
        pad_id: token id of padding.
        logits_to_keep: whether the model supports the argument ``logits_to_keep``.
    """

    def __init__(self, pad_id: int, logits_to_keep: bool):
        self._pad_id, self._logits_to_keep = pad_id, logits_to_keep

    def count(self, examples: Sequence[Example]) -> Counts:
        """What is counted of a micro-batch."""
        cut, cut_prompts = sum(example.cut for example in examples), sum(example.cut_prompt for example in examples)
        return Counts(len(examples), cut, cut_prompts)

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor | int]:
        """``input_ids``, ``attention_mask``, ``position_ids`` [B, T], ``labels`` [B, K] (or [B, T]), ``logits_to_keep`` = K."""
        length = max(len(example.prompt_ids) + len(example.completion_ids) for example in examples)
        keep = max(len(example.completion_ids) for example in examples) + 1
        input_ids = torch.full((len(examples), length), self._pad_id)
        mask = torch.zeros((len(examples), length), dtype=torch.long)
        labels = torch.full((len(examples), length), IGNORED)
        for row, example in enumerate(examples):
            ids = torch.tensor([*example.prompt_ids, *example.completion_ids])
            input_ids[row, length - len(ids) :] = ids
            mask[row, length - len(ids) :] = 1
            labels[row, length - len(example.completion_ids) :] = ids[len(example.prompt_ids) :]
        batch: dict[str, torch.Tensor | int] = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
            "labels": labels[:, -keep:] if self._logits_to_keep else labels,
        }
        return {**batch, "logits_to_keep": keep} if self._logits_to_keep else batch

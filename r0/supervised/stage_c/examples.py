"""Lists as tensors: each document up to its answer position, and a completion of the starting model for the KL.

Dimensions: G lists of a micro-batch, B their documents concatenated, C tokens of the longest completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r0.config import StageCConfig
from r0.records import ListwiseTask, Task
from r0.supervised.sft.examples import Collate, Example
from r0.supervised.stage_c.completions import CompletionFile, StoredCompletion, kl_document
from r0.supervised.stage_c.list_prompter import ListPrompter
from r0.supervised.stage_c.lists import label_range, scaled, stage_c_source
from r0.supervised.training.job import Job
from r0.text.answer_position import AnswerPosition

THOUGHTS = "thoughts.jsonl"


@dataclass(frozen=True, slots=True)
class ListExample:
    """A training list."""

    places: tuple[AnswerPosition, ...]  # [N]
    labels: tuple[float, ...]  # [N] in 0…1
    cut_prompts: int
    completion: Example | None = None  # with a KL: prompt and stored completion of one document
    logprobs: tuple[float, ...] = ()  # [C] of the starting model, in nats
    answer_token: int = -1  # index in the completion of the token that is yes or no; −1: none
    words: tuple[int, int] = (0, 0)  # ids of yes and no at that position


class OpenLists:
    """The data of a job: its lists by step, and each list as an example.

    Raises:
        UserError: data or tokenizer cannot be used.
    """

    def __init__(self, job: Job[StageCConfig]):
        config = self._config = job.config
        self._source, self._range = stage_c_source(config), label_range(config)
        self.list_prompter = ListPrompter(config, Path(job.model))
        self._stored = CompletionFile(Path(job.run) / THOUGHTS, write=False) if config.samples else None
        tokenizer = self.list_prompter.tokenizer
        self.pad_id = int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def batch(self, step: int) -> list[Task]:
        """The lists of a step."""
        return self._source.batch(step, self._config.batch_size)

    def example(self, task: Task) -> ListExample:
        """A list as token ids."""
        if not isinstance(task, ListwiseTask):
            raise TypeError(f"stage C learns from lists, not from {type(task).__name__}")
        prompts, labels = self.list_prompter.prompts(task), tuple(scaled(task, *self._range))
        cut, positions = sum(prompt.cut_tokens > 0 for prompt in prompts), self.list_prompter.places
        stored: list[StoredCompletion | None] = (
            [None] * task.size if self._stored is None else self._stored.completions(task.task_id)
        )
        if self._config.thinking:
            both = zip(prompts, stored, strict=True)
            places = tuple(positions.after_completion(prompt, one.token_ids) for prompt, one in both if one is not None)
        else:
            places = tuple(map(positions.without_thought, prompts))
        document = kl_document(self._config, task.task_id, task.size)
        if not self._config.kl_coef or (one := stored[document]) is None:
            return ListExample(places, labels, cut)
        completion = Example(prompts[document].token_ids, one.token_ids, cut=False, cut_prompt=False)
        place = places[document] if self._config.thinking else positions.after_completion(prompts[document], one.token_ids)
        words = place.yes_id, place.no_id
        answer_token = next((token for token in positions.word_tokens(one.token_ids) if one.token_ids[token] in words), -1)
        return ListExample(places, labels, cut, completion, one.logprobs, answer_token, words)


@dataclass
class ListCounts:
    """What happened to lists."""

    lists: int = 0
    documents: int = 0
    cut_prompts: int = 0  # documents that did not fit max_prompt_tokens


class ListCollate:
    """Lists as the tensors of a micro-batch.

    Args:
        pad_id: token id of padding.
        logits_to_keep: whether the model supports the argument ``logits_to_keep``.
    """

    def __init__(self, pad_id: int, logits_to_keep: bool):
        self._collate = Collate(pad_id, logits_to_keep)

    def count(self, examples: Sequence[ListExample]) -> ListCounts:
        """What is counted of a micro-batch."""
        return ListCounts(
            lists=len(examples),
            documents=sum(len(one.places) for one in examples),
            cut_prompts=sum(one.cut_prompts for one in examples),
        )

    def __call__(self, examples: Sequence[ListExample]) -> dict[str, Any]:
        """``scored`` (model inputs whose last logits are read at the answer), ``words`` [B, 2] (ids of yes and no), ``targets``
        [B] and ``sizes`` [G]. With a KL also ``sampled`` (model inputs), ``sampled_ids``, ``start_logprobs``,
        ``weights`` (each row sums to 1; 0 at the answer token), ``answer_token`` (1 at the answer token), all [G, C], and
        ``answer_words`` [G, 2]."""
        places = [place for one in examples for place in one.places]
        batch: dict[str, Any] = {
            "scored": self._inputs([Example(place.context_ids, (), cut=False, cut_prompt=False) for place in places])[0],
            "words": torch.tensor([[place.yes_id, place.no_id] for place in places]),
            "targets": torch.tensor([label for one in examples for label in one.labels], dtype=torch.float32),
            "sizes": [len(one.places) for one in examples],
        }
        if all(one.completion is not None for one in examples):
            batch |= self._completions(examples)
        return batch

    def _completions(self, examples: Sequence[ListExample]) -> dict[str, Any]:
        inputs, labels = self._inputs([one.completion for one in examples if one.completion is not None])
        ids = labels[:, 1:]
        logprobs, weights, answer_token = (torch.zeros(ids.shape) for _ in range(3))
        for row, one in enumerate(examples):
            size = len(one.logprobs)
            logprobs[row, ids.shape[1] - size :] = torch.tensor(one.logprobs)
            bound = torch.ones(size)
            if one.answer_token >= 0:
                bound[one.answer_token] = 0.0
                answer_token[row, ids.shape[1] - size + one.answer_token] = 1.0
            weights[row, ids.shape[1] - size :] = bound / bound.sum().clamp(min=1.0)
        return {
            "sampled": inputs,
            "sampled_ids": ids.clamp(min=0),
            "start_logprobs": logprobs,
            "weights": weights,
            "answer_token": answer_token,
            "answer_words": torch.tensor([one.words for one in examples]),
        }

    def _inputs(self, examples: Sequence[Example]) -> tuple[dict[str, Any], Tensor]:
        """Model inputs, and the labels of its logits."""
        inputs: dict[str, Any] = dict(self._collate(examples))
        return inputs, inputs.pop("labels")

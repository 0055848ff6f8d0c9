"""Lists as tensors: each document up to where its answer stands, and a completion of the starting model for the KL.

Dimensions: G lists of a micro-batch, B their documents end to end, C tokens of the longest completion.
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
from r0.supervised.sft.examples import Collate, Counts, Example
from r0.supervised.stage_c.asker import Asker
from r0.supervised.stage_c.completions import CompletionFile, KeptCompletion, kl_document
from r0.supervised.stage_c.lists import label_range, scaled, stage_c_source
from r0.supervised.training.job import Job
from r0.text.answer_position import AnswerPosition

THOUGHTS = "thoughts.jsonl"


@dataclass(frozen=True, slots=True)
class ListExample:
    """A list to learn from. Documents whose kept completion has no answer are left out; with ``counts`` False none is left, and
    the one place stands in for them, so that every rank has something to compute."""

    places: tuple[AnswerPosition, ...]  # [N]
    labels: tuple[float, ...]  # [N] in 0…1
    counts: bool
    left_out: int
    cut_prompts: int
    completion: Example | None = None  # with a KL: prompt and kept completion of one document
    logprobs: tuple[float, ...] = ()  # [C] of the starting model, in nats
    said: int = -1  # the token of the completion that is yes or no; −1: none
    words: tuple[int, int] = (0, 0)  # ids of yes and no there


class OpenLists:
    """The lists of a job, opened.

    Raises:
        UserError: what is wrong with data or tokenizer.
    """

    def __init__(self, job: Job[StageCConfig]):
        config = self._config = job.config
        self._source, self._range = stage_c_source(config), label_range(config)
        self.asker = Asker(config, Path(job.model))
        self._kept = CompletionFile(Path(job.run) / THOUGHTS, write=False) if config.samples else None
        tokenizer = self.asker.tokenizer
        self.pad_id = int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def batch(self, step: int) -> list[Task]:
        """The lists of a step."""
        return self._source.batch(step, self._config.batch_size)

    def example(self, task: Task) -> ListExample:
        """A list as token ids."""
        if not isinstance(task, ListwiseTask):
            raise TypeError(f"stage C learns from lists, not from {type(task).__name__}")
        prompts, labels = self.asker.prompts(task), scaled(task, *self._range)
        kept: list[KeptCompletion | None] = self._kept.kept(task.task_id) if self._kept is not None else [None] * task.size
        found: list[AnswerPosition | None]
        if self._config.thinking:
            both = zip(prompts, kept, strict=True)
            found = [None if one is None else self.asker.place(prompt, one.token_ids) for prompt, one in both]
        else:
            found = [self.asker.places.without_thought(prompt) for prompt in prompts]
        known = [(place, label) for place, label in zip(found, labels, strict=True) if place is not None]
        left_out, cut = task.size - len(known), sum(prompt.cut_tokens > 0 for prompt in prompts)
        counts = bool(known)
        places, values = zip(*known or [(self.asker.places.without_thought(prompts[0]), 0.0)], strict=True)
        document = kl_document(self._config, task.task_id, task.size)
        if not self._config.kl_coef or (one := kept[document]) is None:
            return ListExample(places, values, counts, left_out, cut)
        completion = Example(prompts[document].token_ids, one.token_ids, cut=False, cut_prompt=False)
        place = self.asker.place(prompts[document], one.token_ids)
        words = (0, 0) if place is None else (place.yes_id, place.no_id)
        between = self.asker.places.word_tokens(one.token_ids) if place is not None else ()
        said = next((token for token in between if one.token_ids[token] in words), -1)
        return ListExample(places, values, counts, left_out, cut, completion, one.logprobs, said, words)


@dataclass
class ListCounts:
    """What happened to the lists of one rank."""

    lists: int = 0
    documents: int = 0
    left_out: int = 0  # documents whose kept completion has no answer
    cut_prompts: int = 0  # documents that did not fit max_prompt_tokens


class ListCollate:
    """Lists as the tensors of a micro-batch.

    Args:
        pad_id: token id of padding.
        keeps: whether the model can be asked for the last logits only.
    """

    def __init__(self, pad_id: int, keeps: bool):
        self._collate = Collate(pad_id, keeps)
        self.counts = ListCounts()

    def __call__(self, examples: Sequence[ListExample]) -> dict[str, Any]:
        """``scored`` (the model's inputs, whose last logits are the answers'), ``words`` [B, 2] (ids of yes and no), ``targets``
        [B], ``sizes`` [G] and ``counts`` [G]; with a KL ``sampled`` (the model's inputs), ``sampled_ids``, ``start_logprobs``,
        ``weights`` (each row sums to 1; 0 at the answer's word) and ``said`` (1 there), all [G, C], and ``said_words`` [G, 2]."""
        for one in examples:
            self.counts.lists += 1
            self.counts.documents += len(one.places) * one.counts
            self.counts.left_out += one.left_out
            self.counts.cut_prompts += one.cut_prompts
        places = [place for one in examples for place in one.places]
        batch: dict[str, Any] = {
            "scored": self._inputs([Example(place.context_ids, (), cut=False, cut_prompt=False) for place in places])[0],
            "words": torch.tensor([[place.yes_id, place.no_id] for place in places]),
            "targets": torch.tensor([label for one in examples for label in one.labels], dtype=torch.float32),
            "sizes": [len(one.places) for one in examples],
            "counts": [one.counts for one in examples],
        }
        if all(one.completion is not None for one in examples):
            batch |= self._completions(examples)
        return batch

    def _completions(self, examples: Sequence[ListExample]) -> dict[str, Any]:
        inputs, labels = self._inputs([one.completion for one in examples if one.completion is not None])
        ids = labels[:, 1:]
        logprobs, weights, said = (torch.zeros(ids.shape) for _ in range(3))
        for row, one in enumerate(examples):
            size = len(one.logprobs)
            logprobs[row, ids.shape[1] - size :] = torch.tensor(one.logprobs)
            bound = torch.ones(size)
            if one.said >= 0:
                bound[one.said] = 0.0
                said[row, ids.shape[1] - size + one.said] = 1.0
            weights[row, ids.shape[1] - size :] = bound / bound.sum().clamp(min=1.0)
        return {
            "sampled": inputs,
            "sampled_ids": ids.clamp(min=0),
            "start_logprobs": logprobs,
            "weights": weights,
            "said": said,
            "said_words": torch.tensor([one.words for one in examples]),
        }

    def _inputs(self, examples: Sequence[Example]) -> tuple[dict[str, Any], Tensor]:
        """What goes into the model, and the labels of its logits."""
        inputs: dict[str, Any] = dict(self._collate(examples))
        self._collate.counts = Counts()
        return inputs, inputs.pop("labels")

"""``thoughts.jsonl``: completions sampled once from the starting model. A repeated or resumed run reads them again.

A line is a list: ``list`` (its row), ``ids`` and ``logprobs``, for each document in the order shown its token ids and their
log-probabilities in nats (of the sampled distribution), null where none was sampled. With ``thinking`` every document has a
completion. For the KL alone, one document of each list has one, chosen by a hash of seed and row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from r0.actors.rollout.group import RolloutGroup
from r0.actors.rollout.sizes import upper_num_seqs
from r0.config import StageCConfig
from r0.data.hashes import hash_key
from r0.data.source import TaskSource
from r0.process.gpus import local_gpus
from r0.records import ListwiseTask, SampleRequest
from r0.storage.resumable_jsonl import ResumableJsonl, Row
from r0.supervised.stage_c.list_prompter import ListPrompter

IN_FLIGHT = 4  # requests per call, as a multiple of what the engines process at a time


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """A completion; ``logprobs`` [C] of its C ids, including the end-of-sequence id if it was sampled."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class CompletionFile(ResumableJsonl[int]):
    """The completions of lists in a file, by the row of the list."""

    SYNC_S = inf  # the sampling function calls ``sync``: many lists finish at the same time

    def key_of(self, row: Row) -> int:
        """The row of the list in the data."""
        return int(row["list"])

    def add(self, row: int, stored: Sequence[StoredCompletion | None]) -> None:
        """Append the completions of a list; they are on disk after ``sync``."""
        ids, logprobs = [one and one.token_ids for one in stored], [one and one.logprobs for one in stored]
        self.append({"list": row, "ids": ids, "logprobs": logprobs})

    def completions(self, row: int) -> list[StoredCompletion | None]:
        """[N] the completions of a list."""
        line = self.row(row)
        both = zip(line["ids"], line["logprobs"], strict=True)
        return [None if ids is None else StoredCompletion(tuple(ids), tuple(logprobs)) for ids, logprobs in both]


def kl_document(config: StageCConfig, row: int, size: int) -> int:
    """The document of a list whose completion is used for the KL."""
    return hash_key("kl", config.seed, row) % size


def rows_of(config: StageCConfig, source: TaskSource, steps: int) -> list[int]:
    """The lists of a run of ``steps``, each once, in the order of their first use."""
    return list(dict.fromkeys(row for step in range(steps) for row in source.batch_rows(step, config.batch_size)))


def sample_completions(
    config: StageCConfig,
    source: TaskSource,
    rows: Sequence[int],
    list_prompter: ListPrompter,
    engines: RolloutGroup,
    file: CompletionFile,
    stop: Callable[[], bool],
) -> Iterator[ListwiseTask]:
    """Sample and store the completions of the lists ``rows``, many at a time; yields each list when it is stored.

    Ends early after ``stop()``.
    """
    most = IN_FLIGHT * upper_num_seqs(config.rollout.max_num_seqs, local_gpus() > 0) * config.rollout.workers
    waiting: list[ListwiseTask] = []
    requests: list[SampleRequest] = []
    for number, row in enumerate(rows, 1):
        task = source.task(row)
        if not isinstance(task, ListwiseTask):
            raise TypeError(f"stage C samples for lists, not for {type(task).__name__}")
        waiting.append(task)
        requests += _requests(config, task, list_prompter)
        if len(requests) < most and number < len(rows):
            continue
        sampled = iter(engines.sample(requests, config.temperature, config.max_new_tokens))
        for one in waiting:
            stored: list[StoredCompletion | None] = [None] * one.size
            for place in _documents(config, one):
                completion = next(sampled)
                stored[place] = StoredCompletion(completion.token_ids, completion.logprobs)
            file.add(one.task_id, stored)
        file.sync()
        yield from waiting
        waiting, requests = [], []
        if stop():
            return


def _documents(config: StageCConfig, task: ListwiseTask) -> Sequence[int]:
    return range(task.size) if config.thinking else (kl_document(config, task.task_id, task.size),)


def _requests(config: StageCConfig, task: ListwiseTask, list_prompter: ListPrompter) -> list[SampleRequest]:
    prompts = list_prompter.prompts(task)
    return [
        SampleRequest(prompts[place].token_ids, hash_key("thought", config.seed, task.task_id, place) >> 1)
        for place in _documents(config, task)
    ]

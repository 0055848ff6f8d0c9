"""A teacher writes thought and verdict for pairs: the streaming workers of reranking, asked for verdicts.

A pair's samples are addressed by its texts, so neither workers nor interruptions change what is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from r0.config import AnnotateConfig, RankingKeys
from r0.data.jsonl import shown
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.records import Form
from r0.rerank.cross_encoder import is_cross_encoder
from r0.rerank.job import Job, Outcome
from r0.rerank.reranker import Reranker, prompt_budget
from r0.runs.live import progress
from r0.storage.models import local_folder, model_folder
from r0.teacher.annotate_pairs import Pairs
from r0.teacher.annotate_store import Annotations
from r0.text.prompt_file import load_system_prompt

LABELLING_PROMPT = (
    "Decide whether the document covers the query comprehensively: every key concept of the query must be there, and the "
    "document must say how these concepts are connected; concepts that are only mentioned apart from each other do not count. "
    "Answer yes only if the whole need behind the query is met. Reason inside <think> and </think>, then write exactly yes or no."
)


def teacher_keys(config: AnnotateConfig, folder: Path | None) -> RankingKeys:
    """The keys of the workers. ``folder`` is the model's; None where it is not on this machine yet."""
    own = LABELLING_PROMPT if folder is None else load_system_prompt(folder, Form.YES_NO, LABELLING_PROMPT)
    return RankingKeys(
        model=config.model,
        method="pointwise",
        thinking=True,  # a language model, also where its folder is a cross-encoder too
        depth=1,
        temperature=config.temperature,
        seed=config.seed,
        system_prompt=config.system_prompt or own,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
        rollout=config.rollout,
        ray=config.ray,
    )


def planned_keys(config: AnnotateConfig) -> RankingKeys:
    """The keys for a dry run, which downloads nothing."""
    try:
        return teacher_keys(config, local_folder(config.model))
    except UserError:  # the plan says what is wrong with the model
        return teacher_keys(config, None)


def check_teacher(config: AnnotateConfig) -> RankingKeys:
    """The keys of the workers, when it is known that the model can be a teacher.

    Raises:
        UserError: it writes nothing, or has too few positions.
    """
    folder = model_folder(config.model)
    keys = teacher_keys(config, folder)
    is_cross_encoder(folder, keys)  # raises where the model can only be one
    prompt_budget(keys, folder)
    return keys


@dataclass
class Session:
    """What this process did of a run."""

    pairs: int = 0
    tokens: int = 0  # sampled
    seconds: float = 0.0  # wall time, without the start of the engines


def annotate(keys: RankingKeys, samples: int, pairs: Pairs, done: Annotations, skip_bad: bool, stop: StopRequest) -> Session:
    """Start the engines and annotate what is not done yet.

    Raises:
        UserError: as ``annotate_with``.
    """
    left = [key for key in pairs if key not in done]
    if not left:
        return Session()
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with Reranker.of(keys) as reranker:
        stop.install()  # Ray has handlers of its own
        return annotate_with(reranker, samples, pairs, left, done, skip_bad, stop)


def annotate_with(
    reranker: Reranker,
    samples: int,
    pairs: Pairs,
    left: Sequence[int],
    done: Annotations,
    skip_bad: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Session:
    """Annotate the pairs with the keys ``left``, ``samples`` of a pair at most, into ``done``.

    Raises:
        UserError: a pair cannot be shown to the model, and such pairs are not skipped.
    """
    session, began = Session(), time.monotonic()
    for key, outcome in progress(_outcomes(reranker, samples, pairs, left, stop), "annotating", len(left)):
        if outcome.refused:
            outcome = _refused(pairs, outcome, skip_bad)
        done.add(key, pairs.known(outcome.key), outcome)
        session.pairs += 1
        session.tokens += outcome.new_tokens
        session.seconds = time.monotonic() - began
    return session


def _outcomes(
    reranker: Reranker, samples: int, pairs: Pairs, keys: Sequence[int], stop: Callable[[], bool]
) -> Iterator[tuple[int, Outcome]]:
    """(key, outcome) of pairs in the order in which they are done; a job's own key is the pair's row."""
    in_work: dict[int, int] = {}

    def jobs() -> Iterator[Job]:
        for key in keys:
            row = pairs.row(key)
            if row is None:
                raise KeyError(key)
            task = pairs.task(row)
            in_work[row] = key
            yield Job(row, f"{key:016x}", task.query, (task.document,), samples=samples, known=pairs.known(row))

    for outcome in reranker.run(jobs(), stop):
        yield in_work.pop(outcome.key), outcome


def _refused(pairs: Pairs, outcome: Outcome, skip_bad: bool) -> Outcome:
    """An outcome whose reason names the query.

    Raises:
        UserError: pairs that cannot be shown are not skipped.
    """
    reason = f"query {shown(pairs.task(outcome.key).query)}: {outcome.refused.partition(': ')[2]}"
    if not skip_bad:
        raise UserError(f"{pairs.rows.name}: {reason}; with skip_bad=true such pairs are left out")
    return replace(outcome, refused=reason)

"""Annotation: a teacher writes a thought and a verdict for each pair, on the streaming workers of reranking.

A pair's samples are seeded by its texts, so neither workers nor interruptions change the result.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from r0.config import AnnotateConfig, RankingKeys
from r0.data.jsonl import shown
from r0.errors import UserError
from r0.records import Form
from r0.rerank.job import Job, Outcome
from r0.rerank.prompt_budget import check_model, open_template
from r0.rerank.reranker import Reranker
from r0.rerank.session import Work
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
    """The keys of the workers. ``folder`` is the model's folder; None if the model is not on this machine yet."""
    own = LABELLING_PROMPT if folder is None else load_system_prompt(folder, Form.YES_NO, LABELLING_PROMPT)
    return RankingKeys(
        model=config.model,
        method="pointwise",
        thinking=True,  # use the model as a language model, even if its folder is also a cross-encoder
        depth=1,
        temperature=config.temperature,
        seed=config.seed,
        system_prompt=config.system_prompt or own,
        chat_template_kwargs=config.chat_template_kwargs,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
        rollout=config.rollout,
        ray=config.ray,
    )


def planned_keys(config: AnnotateConfig) -> RankingKeys:
    """The keys for a dry run, which downloads nothing."""
    try:
        return teacher_keys(config, local_folder(config.model))
    except UserError:  # the plan reports the error
        return teacher_keys(config, None)


def check_teacher(config: AnnotateConfig) -> RankingKeys:
    """The keys of the workers, after checking that the model can be a teacher.

    Raises:
        UserError: the model cannot generate text, or has too few positions.
    """
    folder = model_folder(config.model)
    keys = teacher_keys(config, folder)
    check_model(keys, folder)
    open_template(keys, folder).check_thinks(unless_chosen=False)
    return keys


def pairs_to_annotate(samples: int, pairs: Pairs, done: Annotations, skip_bad: bool = False) -> Work[int]:
    """The pairs that are not in ``done`` yet, by key, with at most ``samples`` samples each. A pair that does not fit the prompt
    is an error unless such pairs are skipped.
    """
    left = [key for key in pairs if key not in done]

    def row(key: int) -> int:
        found = pairs.row(key)
        if found is None:
            raise KeyError(key)
        return found

    def job(_: Reranker, key: int) -> Job:
        task = pairs.task(row(key))
        known = pairs.known(row(key))
        return Job(row(key), f"{key:016x}", task.query, (task.document,), samples=samples, known=known)

    def keep(key: int, outcome: Outcome) -> None:
        if outcome.refused:
            outcome = _refused(pairs, outcome, skip_bad)
        done.add(key, pairs.known(row(key)), outcome)

    return Work(left, len(left), job, keep, "pairs", "annotated", "annotating")


def _refused(pairs: Pairs, outcome: Outcome, skip_bad: bool) -> Outcome:
    """An outcome whose reason names the query.

    Raises:
        UserError: pairs that do not fit are not skipped.
    """
    reason = f"query {shown(pairs.task(outcome.key).query)}: {outcome.refused.partition(': ')[2]}"
    if not skip_bad:
        raise UserError(f"{pairs.rows.name}: {reason}; with skip_bad=true such pairs are left out")
    return replace(outcome, refused=reason)

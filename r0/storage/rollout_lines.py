"""The stored rollouts of a step: one self-contained JSON line per rollout, compressed.

Compressed, because each rollout of a group repeats the prompt: a file is one gzip member for each group, readable with
``zcat … | grep`` and ``zcat … | jq``. Equal rollouts give equal bytes (no times are stored). A record holds everything needed to
recompute its verdict and reward.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r0.errors import UserError
from r0.records import (
    Finish,
    Form,
    ListLabel,
    ListwiseTask,
    PointwiseTask,
    Prompt,
    Rollout,
    Sampled,
    Scored,
    ScoredGroup,
    Task,
    Verdict,
    Violation,
)
from r0.sampling import whole

GZIP = 31  # zlib's window bits for a gzip header, which has no name and no time
FAST = 1  # gzip level: repeated prompts compress well at any level, and speed matters


@dataclass(frozen=True, slots=True)
class LoggedRollout:
    """A record read back. The task's thought and answer to imitate are not stored, since RL does not depend on them."""

    step: int
    prompt_text: str
    scored: Scored


def packed(step: int, group: ScoredGroup, prompt_text: str) -> bytes:
    """The rollouts of a group as a file's content.

    Raises:
        ObjectsLost: they are gone with the machine that held them.
    """
    packer = zlib.compressobj(FAST, wbits=GZIP)
    parts = [packer.compress(_line(_record(step, one, prompt_text))) for one in whole([group])]
    return b"".join([*parts, packer.flush()])


def each_packed(step: int, groups: Sequence[ScoredGroup], texts: Mapping[tuple[int, ...], str]) -> Iterator[bytes]:
    """``packed`` of every group, one after another. ``texts``: of each prompt, by its ids."""
    for group in groups:
        yield packed(step, group, texts[group.prompt.token_ids])


def read_rollouts(path: Path, remedy: str = "choose another step with --step") -> Iterator[LoggedRollout]:
    """The rollouts in one file, compressed or not.

    Raises:
        UserError: the file is missing or damaged, or a line is not a rollout (the message has file and line, and the ``remedy``).
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):  # noqa: B007 - named in the message
                yield _logged(json.loads(line))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}; {remedy}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}:{number}: is not a rollout of r0 ({error!r}); {remedy}") from None


def _line(record: Mapping[str, object]) -> bytes:
    # A lone surrogate cannot be encoded as UTF-8; written as \udXXX it is valid JSON and is read back unchanged.
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", errors="backslashreplace")


def _record(step: int, one: Scored, prompt_text: str) -> dict[str, object]:
    rollout, verdict = one.rollout, one.verdict
    task, prompt, sampled = rollout.task, rollout.prompt, rollout.sampled
    return {
        "step": step,
        "group": rollout.group,
        "sample": rollout.sample,
        "task_id": task.task_id,
        "kind": task.kind,
        "form": task.form,
        "label": asdict(task.label) if isinstance(task, ListwiseTask) else task.label,
        "answer": verdict.answer,
        **({"ranking": verdict.ranking, "scores": verdict.scores} if isinstance(task, ListwiseTask) else {}),
        "total": one.total,
        "components": dict(one.components),
        "think_tokens": verdict.think_tokens,
        "has_think": verdict.has_think,
        "violations": sorted(verdict.violations),
        "finish": sampled.finish,
        **({"masked": True} if one.masked else {}),
        "version": sampled.version,
        "text": one.text,
        "query": task.query,
        **({"documents": task.documents} if isinstance(task, ListwiseTask) else {"document": task.document}),
        "prompt": prompt_text,
        "prefix": prompt.prefix,
        "cut_tokens": prompt.cut_tokens,
        "prompt_ids": prompt.token_ids,
        "completion_ids": sampled.token_ids,
        "logprobs": [value if math.isfinite(value) else None for value in sampled.logprobs],
    }


def _logged(record: dict[str, Any]) -> LoggedRollout:
    logprobs = tuple(math.nan if value is None else float(value) for value in record["logprobs"])
    if len(logprobs) != len(record["completion_ids"]):
        raise ValueError(f"{len(record['completion_ids'])} tokens, but {len(logprobs)} log-probabilities")
    prompt = Prompt(tuple(record["prompt_ids"]), record["prefix"], record["cut_tokens"])
    sampled = Sampled(tuple(record["completion_ids"]), logprobs, Finish(record["finish"]), record["version"])
    violations = frozenset(map(Violation, record["violations"]))
    ranking, scores = record.get("ranking"), record.get("scores")
    verdict = Verdict(
        record["answer"],
        record["think_tokens"],
        record["has_think"],
        violations,
        None if ranking is None else tuple(map(tuple, ranking)),
        None if scores is None else tuple(scores),
    )
    rollout = Rollout(_task(record), record["group"], record["sample"], prompt, sampled)
    components, total, masked = record["components"], record["total"], record.get("masked", False)
    return LoggedRollout(record["step"], record["prompt"], Scored(rollout, record["text"], verdict, components, total, masked))


def _task(record: dict[str, Any]) -> Task:
    form = Form(record.get("form", Form.YES_NO))  # older logs have no form
    if form == Form.YES_NO:
        return PointwiseTask(record["task_id"], record["query"], record["document"], record["label"], kind=record["kind"])
    label = record["label"]
    return ListwiseTask(
        record["task_id"],
        record["query"],
        tuple(record["documents"]),
        ListLabel(tuple(label["grades"]), tuple(label["given"]), label["threshold"]),
        form,
        kind=record["kind"],
    )

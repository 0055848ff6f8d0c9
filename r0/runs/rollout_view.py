"""Prints the output of ``rollouts RUN``: a summary table and each rollout; with colours and frames on a terminal, otherwise
plain.

The printed texts come from models and documents, so control characters in them are escaped.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from r0.records import Answer, ListwiseTask, Scored
from r0.runs.live import terminal
from r0.runs.metrics import CUTOFF, ndcgs, rollout_metrics
from r0.sampling import grouped
from r0.storage.rollout_lines import LoggedRollout

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")  # all except tab and line break
SUMMARY = (
    ("reward", "mean reward"),
    ("accuracy", "accuracy"),
    ("accuracy_well_formed", "accuracy among well-formed completions"),
    ("constant_answer", "accuracy of a constant answer"),
    ("ndcg@10", "nDCG@10 (no answer: the given order)"),
    ("ndcg@10_well_formed", "  among well-formed completions"),
    ("ndcg@10_given", "  of the given order"),
    ("ndcg@10_gain_p", "  paired t-test against it, p"),
    ("format_rate", "format rate"),
    ("well_formed_rate", "well-formed rate"),
    ("cut_share", "share cut by the token limit"),
    ("zero_spread_share", "groups without spread"),
    ("think_tokens", "thinking tokens"),
    ("completion_tokens", "completion tokens"),
)


def show(path: Path, step: int, logged: Sequence[LoggedRollout], worst: int, ids: bool) -> None:
    """Print the summary of all rollouts of a step, then the rollouts: all, or the ``worst`` with the lowest reward."""
    chosen = sorted(logged, key=lambda one: one.scored.total)[:worst] if worst else logged
    scored = [one.scored for one in logged]
    try:
        (_rich if terminal() else _plain)(path, step, scored, [(one, list(_body(one, ids))) for one in chosen])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` closed the pipe; keep the interpreter from flushing into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def safe(text: str) -> str:
    r"""The text with control characters, bidirectional overrides and lone surrogates escaped, such as ``\\x1b``."""
    text = CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


def _summary(scored: Sequence[Scored]) -> list[tuple[str, str]]:
    metrics = rollout_metrics(grouped(scored))
    rows = [("rollouts", str(len(scored))), ("prompts", str(len({one.rollout.group for one in scored})))]
    for name, title in SUMMARY:
        if name in metrics:
            rows.append((title, "none" if math.isnan(metrics[name]) else f"{metrics[name]:.3f}"))
        if name == "reward":
            rows += [(f"  {key[7:]}", f"{value:+.3f}") for key, value in metrics.items() if key.startswith("reward/")]
        if name == "well_formed_rate":
            rows += [(f"  {key[10:]}", f"{value:.3f}") for key, value in metrics.items() if key.startswith("violation/")]
    return rows


def _head(one: Scored) -> str:
    rollout = one.rollout
    parts = " ".join(f"{name} {value:+.2f}" for name, value in one.components.items() if value)
    if isinstance(rollout.task, ListwiseTask):
        found, given = ndcgs(one.rollout.task, one.verdict)
        judged = f"nDCG@{CUTOFF} {found:.3f} (given order {given:.3f})"
    else:
        judged = f"label {Answer.YES if rollout.task.label else Answer.NO}"
    return (
        f"group {rollout.group} sample {rollout.sample} · task {rollout.task.task_id} · {judged} · "
        f"answer {one.verdict.answer or 'none'} · reward {one.total:.3f}{f' = {parts}' if parts else ''}"
    )


def _right(one: Scored) -> bool:
    """Whether the answer equals the label, or orders the list at least as well as the given order."""
    if one.verdict.answer is None:
        return False
    if isinstance(one.rollout.task, ListwiseTask):
        found, given = ndcgs(one.rollout.task, one.verdict)
        return found >= given
    return one.verdict.answer == (Answer.YES if one.rollout.task.label else Answer.NO)


def _body(logged: LoggedRollout, ids: bool) -> Iterable[tuple[str, str]]:
    one = logged.scored
    task, sampled, prompt = one.rollout.task, one.rollout.sampled, one.rollout.prompt
    facts = [f"{one.verdict.think_tokens} thinking of {len(sampled.token_ids)} tokens", f"finish {sampled.finish}"]
    facts += ["masked"] * one.masked + [f"weights {sampled.version}"]
    facts += [f"violations: {', '.join(sorted(one.verdict.violations))}"] if one.verdict.violations else []
    cut = "documents" if isinstance(task, ListwiseTask) else "document"
    facts += [f"{cut} cut by {prompt.cut_tokens} tokens"] if prompt.cut_tokens else []
    yield "", " · ".join(facts)
    yield "query", task.query
    if isinstance(task, ListwiseTask):
        for number, (grade, document) in enumerate(zip(task.label.grades, task.documents, strict=True), 1):
            yield f"[{number}] grade {grade:g}", document
        yield "given order", " > ".join(f"[{place + 1}]" for place in task.label.given)
    else:
        yield "document", task.document
    yield "completion", one.text
    if ids:
        yield "prompt ids", " ".join(map(str, prompt.token_ids))
        yield "completion ids", " ".join(map(str, sampled.token_ids))


Shown = Sequence[tuple[LoggedRollout, list[tuple[str, str]]]]


def _plain(path: Path, step: int, scored: Sequence[Scored], shown: Shown) -> None:
    print(f"step {step} ({path})")
    for name, value in _summary(scored):
        print(f"  {safe(name):<40}{value:>10}")
    for one, body in shown:
        print(f"\n--- {safe(_head(one.scored))}")
        for name, text in body:
            print(f"{name}: {safe(text)}" if name else safe(text))


def _rich(path: Path, step: int, scored: Sequence[Scored], shown: Shown) -> None:
    from rich import get_console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = get_console()
    table = Table("", "", title=Text(f"step {step} ({path})"), show_header=False)
    for name, value in _summary(scored):
        table.add_row(Text(safe(name)), Text(value, justify="right"))
    console.print(table)
    for one, body in shown:
        content = Text()
        for name, text in body:
            content.append(f"{name}: " if name else "", style="bold")
            content.append(safe(text).rstrip() + "\n", style="" if name else "dim")
        border = "green" if _right(one.scored) else "red"
        console.print(Panel(content, title=Text(safe(_head(one.scored))), border_style=border))

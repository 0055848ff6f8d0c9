"""The table of a real run: held-out figures of every step that is done, beside the constant, the given order and BM25."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_parts.steps import Setting, Step, plan, run_file
from r0.data.jsonl import BadLines
from r0.data.runfile import read_judgements, read_run
from r0.ranking import ndcg

MEASURE = "nDCG@10"
HEAD = ("", MEASURE, "against given", "p", "against BM25", "p", "docs/s", "written a query")


def table(at: Setting) -> str:
    """What was measured so far, in words and columns; also kept in ``table.txt``."""
    done = [step for step in plan(at) if step.title and (at.folder / "done" / f"{step.name}.json").is_file()]
    lists = [step for step in done if not step.whole]
    if not lists:
        return "real: nothing is measured yet\n"
    queries = len(read_run(at.data / "test.trec", BadLines(False)))
    blocks = {f"{queries} test queries, their own candidates": _rows(at, lists, at.data / "test.trec")}
    if whole := [step for step in done if step.whole]:
        blocks["the same queries, the whole corpus"] = _rows(at, whole, None)
    text = "".join(f"{_aligned([(title, *HEAD[1:]), *rows])}\n" for title, rows in blocks.items())
    text += "p: paired permutation test over the queries. A written token is one of a thought or an answer.\n"
    (at.folder / "table.txt").write_text(text, encoding="utf-8")
    return text


def _rows(at: Setting, steps: Sequence[Step], given: Path | None) -> list[tuple[str, ...]]:
    runs = {step.title: run_file(at, step) for step in steps}
    first = {"given order": given, **runs} if given else dict(runs)
    kept = {title: path for title, path in first.items() if path}
    against_given = _measured(at, kept, given) if given else {}
    against_bm25 = _measured(at, kept, kept["BM25"]) if "BM25" in kept else {}
    measured = against_bm25 or against_given or _measured(at, kept, next(iter(kept.values())))
    rows = [("constant answer", f"{constant(at, given):.3f}", *[""] * 6)] if given else []
    for title in kept:
        step = next((step for step in steps if step.title == title), None)
        found = f"{measured[title]['measures'][MEASURE]:.3f}"
        given_row, bm25_row = against_given.get(title), against_bm25.get(title)
        rows.append((title, found, *_difference(given_row), *_difference(bm25_row), *_speed(at, step)))
    return rows


def constant(at: Setting, given: Path) -> float:
    """The mean nDCG@10 of one score for all candidates: the expectation over their orders."""
    judged = read_judgements(at.data / "qrels" / "test.tsv", BadLines(False))
    run = read_run(given, BadLines(False))
    grades = [[judged[query].get(document, 0.0) for document in documents] for query, documents in run.items()]
    return statistics.mean(ndcg(one, [list(range(len(one)))], 10) for one in grades)


def _measured(at: Setting, runs: dict[str, Path], first: Path) -> dict[str, dict[str, Any]]:
    """By title, what ``eval`` says of the runs, with the test against ``first``."""
    from r0.launch import main

    output = at.folder / "eval" / f"{first.stem}-{len(runs)}.json"
    output.parent.mkdir(exist_ok=True)
    words = ["eval", f"qrels={at.data / 'qrels' / 'test.tsv'}", f"runs={','.join(map(str, runs.values()))}"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(
            [*words, f"first_stage={first}", f"measures={MEASURE}", "test=permutation", "format=json", f"output={output}"]
        )
    if code:
        raise RuntimeError(f"eval of {len(runs)} runs ended with exit code {code}")
    (dataset,) = json.loads(output.read_text(encoding="utf-8"))["datasets"]
    order = [first, *(path for path in runs.values() if path != first)]  # as eval prints them
    by_path = dict(zip(order, dataset["runs"], strict=True))
    return {title: by_path[path] for title, path in runs.items()}


def _difference(row: dict[str, Any] | None) -> tuple[str, str]:
    if row is None or row["p_value"] is None:
        return "", ""
    p = row["p_value"]
    return f"{row['difference']:+.3f}", f"{p:.3f}" if p >= 0.001 else "<0.001"


def _speed(at: Setting, step: Step | None) -> tuple[str, str]:
    """Documents a second and tokens written a query, where a model ranked."""
    path = at.made(step.name) / "summary.json" if step else Path()
    if not path.is_file():
        return "", ""
    summary = json.loads(path.read_text(encoding="utf-8"))
    seconds = summary["wall_seconds_a_query"]
    documents = summary["candidates"] / summary["queries"]
    return f"{documents / seconds:.1f}" if seconds else "", f"{summary['new_tokens_a_query']:.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        + "\n"
        for row in rows
    )

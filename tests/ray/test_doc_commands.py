"""The blocks that a page marks with ``<!-- run -->`` run as they are written, in the page's order, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import environment
from tests.pages import PAGES, ROOT, Block, blocks

pytestmark = pytest.mark.ray

QUICK = {"data.md", "data-by-name.md", "CONTRIBUTING.md"}  # the others train or rank
RUNNING = [page for page in PAGES if any(block.runs for block in blocks(page))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has: the shipped configurations, and ``r0`` and ``python`` on PATH."""
    (tmp_path / "configs").symlink_to(ROOT / "r0" / "configs")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, behind in (("r0", " -m r0.launch"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{behind} "$@"\n')
        (programs / name).chmod(0o755)
    return tmp_path


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block to its end, stopped by the first command that fails."""
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    program = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.language]
    settings = {**environment(), "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*program, block.text], cwd=folder, env=settings, capture_output=True, text=True, timeout=1200)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=() if page.name in QUICK else pytest.mark.slow, id=page.name) for page in RUNNING]
)
def test_the_blocks_of_a_page_run_as_written(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.runs:
            done = run(block, folder)
            assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            assert not noise(done.stderr), done.stderr


def noise(shown: str) -> list[str]:
    """Lines on a user's terminal that are a library's notices and none of r0's business."""
    return [
        line for line in shown.splitlines() if any(name in line for name in ("DeepSpeed", "real_accelerator", "FutureWarning"))
    ]

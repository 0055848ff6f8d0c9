"""Long prompts in the learner: memory grows with the tokens of a row, not with their square."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("options", [[], ["--keep-activations"]], ids=["checkpointing", "activations kept"])
def test_memory_is_linear_in_the_prompt_even_above_the_row_budget(options):
    command = [sys.executable, str(BENCHMARKS / "long_prompts.py"), "--row-tokens", "4096", "--completion", "64", *options]
    done = subprocess.run(
        [*command, "--prompts", "2000", "8000"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| [\d.]+ \| (\d+) \|", done.stdout, re.MULTILINE)
    (_, short_tokens, short), (_, long_tokens, long) = ([int(cell.replace(",", "")) for cell in row] for row in rows)
    assert (short_tokens, long_tokens) == (2000 + 4 * 64, 8000 + 4 * 64), "a prompt is computed once for all its completions"
    assert long / short < 6, f"{short} MiB at 2,000 tokens, {long} MiB at 8,000: linear would be 3.7 times, quadratic 13"

"""The smallest object store that Ray allows, and 50 steps whose rollouts are four times as large together."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
# The real driver and real objects; workers that compute nothing, so that the rollouts of a step can be large.
STEPS = """
import ray
from ray._private.internal_api import memory_summary
from benchmarks import scale
ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=75 * 2**20, logging_level="WARNING")
scale.measure(engines=2, ranks=1, tokens=1024, speed=1000.0, steps=50)
print(memory_summary(ray.get_runtime_context().gcs_address, stats_only=True))
"""


def test_what_a_step_has_learned_from_leaves_the_object_store():
    done = subprocess.run([sys.executable, "-c", STEPS], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    held = re.search(r"Plasma memory usage ([\d.]+) MiB", done.stdout)
    assert held, done.stdout
    assert float(held[1]) < 20.0  # that of about three steps
    assert "Spilled" not in done.stdout

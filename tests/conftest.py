"""What tests share: one local Ray in a process, and two vLLM workers in it.

r0 comes before transformers, as in its own processes (see ``lean_imports.py``).
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import hypothesis
import pytest

import r0  # noqa: F401

hypothesis.settings.register_profile("r0", deadline=None)  # no time limit: the machine may be busy
hypothesis.settings.load_profile("r0")

# Files that share processes which take long to start. pytest-xdist runs a group in one of its processes; any other file is a
# group of its own.
GROUPS = {
    "test_rollout": "engines", "test_sync": "engines",
    "test_learner": "ranks", "test_learner_idle": "ranks", "test_learner_nan": "ranks",
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests stay together."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(GROUPS.get(item.path.stem, item.path.stem)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes do not name a test: those of an archive hold the time, and all processes must collect the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def ray_session():
    """Ray with 8 declared cores on this machine, whatever it has."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        log_to_driver=True,
        logging_level=logging.WARNING,
        namespace="r0-tests",
    )
    session = ray._private.worker.global_worker.node.get_session_dir_path()
    yield ray
    ray.shutdown()
    shutil.rmtree(session, ignore_errors=True)


@pytest.fixture(scope="session")
def vllm_workers(ray_session):
    """Two actors that sample with vLLM once they have been told to ``open`` a model. The last test of a group may kill them."""
    from tests.switching import Switching

    root = str(Path(__file__).parents[1])  # where they find tests.switching
    variables = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": root}
    actor = ray_session.remote(Switching).options(num_cpus=1, runtime_env={"env_vars": variables})
    made = [actor.remote() for _ in range(2)]
    yield made
    for worker in made:
        ray_session.kill(worker)

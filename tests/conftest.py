"""One local Ray for all tests of a process. r0 comes before transformers, as in its own processes (see ``lean_imports.py``)."""

from __future__ import annotations

import logging
import os
import shutil

import hypothesis
import pytest

import r0  # noqa: F401

hypothesis.settings.register_profile("r0", deadline=None)  # no time limit: the machine may be busy
hypothesis.settings.load_profile("r0")


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

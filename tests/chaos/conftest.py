"""What the tests of faults share: a tiny model, and a run that nothing disturbed."""

import pytest

from tests import launching
from tests.helpers import tiny_model
from tests.small_run import PPO_INLINE


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def whole(model, tmp_path_factory):
    """A complete run by PPO in one process."""
    output = tmp_path_factory.mktemp("whole") / "run"
    launching.launch_here("stage_a", {"model": model, "output": output, **PPO_INLINE})
    return output

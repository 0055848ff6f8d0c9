"""Workers are started again a few times within an hour, then the run ends; faults of tests happen once and where they should."""

import pytest

from r0.actors import restarts
from r0.errors import RunFailed
from r0.process import faults


def test_only_the_restarts_of_the_last_hour_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(restarts.time, "monotonic", lambda: now[0])
    counted = restarts.Restarts(most=2)
    counted.count(RuntimeError("first"))
    now[0] = 3000.0
    counted.count(RuntimeError("second"))
    now[0] = 3700.0  # the first is more than an hour ago
    counted.count(RuntimeError("third"))
    with pytest.raises(RunFailed, match=r"^fourth; workers were started again 2 times within an hour.*ray.max_restarts=2"):
        counted.count(RuntimeError("fourth"))
    assert counted.total == 3


def test_a_fault_happens_at_its_place_and_visit_and_once(monkeypatch, tmp_path):
    monkeypatch.setattr(faults, "_visits", faults.Counter())
    monkeypatch.setenv("R0_FAULT", f"learner.step@2=raise {tmp_path}/fired")
    faults.reached("learner.step")
    faults.reached("learner.forward")
    with pytest.raises(RuntimeError, match=r"injected at learner.step"):
        faults.reached("learner.step")
    monkeypatch.setattr(faults, "_visits", faults.Counter())  # as in the process that takes its place
    faults.reached("learner.step")
    faults.reached("learner.step")


def test_without_the_variable_nothing_happens(monkeypatch):
    monkeypatch.delenv("R0_FAULT", raising=False)
    faults.reached("learner.step")
    monkeypatch.setenv("R0_FAULT", "learner.stop@1=kill /tmp/fired")
    with pytest.raises(ValueError, match=r"is not one of"):
        faults.reached("learner.step")

"""A deadline that follows what was measured."""

import contextlib

import pytest

from r0.actors import deadline
from r0.actors.deadline import Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])
    return now


def test_the_first_call_has_the_configured_limit_and_later_ones_ten_times_the_slowest(clock: list[float]) -> None:
    each = Deadline(1800.0)
    for took, allowed in ((60.0, 1800.0), (20.0, 600.0), (90.0, 600.0), (1.0, 900.0)):
        with each.call() as seconds:
            assert seconds == allowed
            clock[0] += took


def test_quick_calls_have_five_minutes_and_more_work_more_time(clock: list[float]) -> None:
    each = Deadline(1800.0)
    with each.call(work=10):
        clock[0] += 1.0
    assert each.seconds(work=10) == 300.0
    with each.call(work=10):
        clock[0] += 40.0
    assert each.seconds(work=20) == 800.0
    assert each.seconds(work=5) == 400.0
    assert each.seconds(work=1000) == 1800.0  # never above the limit


def test_a_call_that_failed_measures_nothing(clock: list[float]) -> None:
    each = Deadline(1800.0)
    with contextlib.suppress(TimeoutError), each.call():
        clock[0] += 1000.0
        raise TimeoutError
    assert each.seconds() == 1800.0

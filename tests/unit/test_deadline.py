"""A deadline that follows what was measured."""

import contextlib

import pytest

from r0.actors import deadline
from r0.actors.deadline import Deadline, Silence


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
    assert each.seconds(work=1000) == 40000.0


def test_a_short_limit_stays_where_calls_are_quick(clock: list[float]) -> None:
    each = Deadline(30.0)
    with each.call():
        clock[0] += 1.0
    assert each.seconds() == 30.0


def test_the_first_call_may_take_ten_times_as_long_as_another_part_of_the_step(clock: list[float]) -> None:
    each = Deadline(900.0)
    each.expect(20.0)
    assert each.seconds() == 900.0
    each.expect(200.0)
    assert each.seconds() == 2000.0
    each.measured(40.0)
    each.expect(1000.0)  # its own time is known now
    assert each.seconds() == 400.0


def test_the_longest_silence_of_a_worker_is_that_between_its_own_results(clock: list[float]) -> None:
    silence = Silence()
    for seconds, worker in ((5.0, 0), (2.0, 1), (1.0, 1), (6.0, 0)):  # after 5, 7, 8 and 14 seconds
        clock[0] += seconds
        silence.heard(worker)
    assert silence.longest_s == 9.0


def test_a_call_that_failed_measures_nothing(clock: list[float]) -> None:
    each = Deadline(1800.0)
    with contextlib.suppress(TimeoutError), each.call():
        clock[0] += 1000.0
        raise TimeoutError
    assert each.seconds() == 1800.0

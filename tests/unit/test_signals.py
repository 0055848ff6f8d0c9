"""The first signal ends what waits and lets a save finish; the second ends everything."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from r0.process import signals
from r0.process.interruption import interrupted_after
from r0.process.signals import Stopped, StopRequest


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "LATEST_S", 0.2)
    monkeypatch.setattr(signals, "AGAIN_S", 0.1)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def wait() -> None:
    """A wait that nothing but an exception ends in time."""
    time.sleep(60)


def terminate_and_wait(times: int = 1) -> None:
    """Signals, and the wait that they meet."""
    for _ in range(times):
        terminate()
    wait()


def test_where_nothing_is_lost_the_first_signal_ends_the_wait() -> None:
    with StopRequest() as stop:
        with pytest.raises(Stopped) as stopped, stop.at_once():
            terminate_and_wait()
        assert stopped.value.exit_code == 128 + signal.SIGTERM
        assert stop()


def test_a_signal_that_came_before_ends_such_a_block_at_its_begin() -> None:
    with StopRequest() as stop:
        terminate()
        with pytest.raises(Stopped), stop.at_once():
            wait()


def test_any_other_wait_is_ended_a_little_later(capsys: pytest.CaptureFixture[str]) -> None:
    with StopRequest("stopping after this query") as stop:
        terminate()
        assert stop()  # the loop may see it, and end by itself
        with pytest.raises(Stopped):
            wait()
    assert "stopping after this query; once more to end at once" in capsys.readouterr().err


def test_a_save_is_left_to_finish_and_what_follows_is_not_waited_for() -> None:
    with StopRequest() as stop:
        with stop.saving():
            terminate()
            time.sleep(0.5)
        with pytest.raises(Stopped):
            wait()


def test_a_block_may_come_to_have_something_to_lose() -> None:
    with StopRequest() as stop, stop.at_once():
        stop.save_from_now_on()
        terminate()
        time.sleep(0.5)
        assert stop()


def test_a_library_that_swallows_the_exception_delays_it_only() -> None:
    with StopRequest() as stop:
        terminate()
        with contextlib.suppress(BaseException):
            wait()
        with pytest.raises(Stopped):
            wait()
        assert stop()


def test_the_second_signal_ends_a_save_as_well() -> None:
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt) as interrupt, stop.saving():
        terminate_and_wait(times=2)
    assert not isinstance(interrupt.value, Stopped)


def test_a_library_that_raises_an_interrupt_of_its_own_changes_nothing() -> None:
    """Ray's waits do so."""

    def wait_like_ray() -> None:
        try:
            terminate_and_wait()
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with StopRequest() as stop, pytest.raises(Stopped) as at_once, stop.at_once():
        wait_like_ray()
    with pytest.raises(Stopped) as late, StopRequest():
        wait_like_ray()
    assert at_once.value.exit_code == late.value.exit_code == 128 + signal.SIGTERM


def test_a_deadline_that_ends_meanwhile_leaves_the_wait_to_be_ended() -> None:
    with StopRequest() as stop:
        terminate()
        with interrupted_after(60.0):
            assert stop()
        with pytest.raises(Stopped):
            wait()


def test_handlers_and_timer_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with StopRequest():
        terminate()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

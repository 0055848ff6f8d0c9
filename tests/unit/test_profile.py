"""Spans, traces and tables: pure parts of the profile, and its key."""

import json
import threading
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from r0.config import StageAConfig, load
from r0.process import spans
from r0.process.spans import Span, span
from r0.profiler import Profiler, offset_of
from r0.runs.profile_table import profile_table, step_seconds
from r0.runs.record import Clock
from r0.runs.trace import Track, by_role, write_trace

S = 10**9


def of(role, name, start, end, thread=1):
    """A span; times in seconds."""
    return Span(role, name, round(start * S), round(end * S), thread)


DRIVER = [
    of("driver", "sample", 10.0, 12.0),
    of("driver", "learn", 12.5, 15.5),
    of("driver", "total", 10.0, 16.0),
    of("driver", "checkpoint", 16.5, 17.5),
    of("driver", "sample", 20.0, 21.0),
    of("driver", "learn", 21.0, 30.0),
    of("driver", "sample", 22.0, 29.0, thread=2),  # ahead, while the learner works
    of("driver", "total", 20.0, 31.0),
    of("driver", "sample", 40.0, 41.0),
    of("driver", "learn", 41.0, 44.0),
    of("driver", "total", 40.0, 44.0),
]
WORKERS = [
    Track("rollout", 0, [of("rollout", "sample", 10.1, 11.9), of("rollout", "sample", 20.1, 20.5)]),
    Track("rollout", 1, [of("rollout", "sample", 10.1, 10.4), of("rollout", "sample", 20.1, 20.9)]),
    Track("learner", 0, [of("learner", "forward", 13.0, 14.0), of("learner", "forward", 14.0, 15.0)]),
]
TRACKS = [Track("driver", None, DRIVER), *WORKERS]


def test_nothing_is_kept_unless_spans_are_recorded():
    with span("driver", "a") as one:
        one.add(tokens=3)
    spans.record()
    with span("learner", "update", groups=2) as one:
        one.add(tokens=3)
        with span("learner", "forward"):
            pass
    inner, outer = spans.take()
    assert (outer.role, outer.name, outer.details) == ("learner", "update", {"groups": 2, "tokens": 3})
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns
    with span("driver", "a"):
        pass
    assert spans.take() is None


def test_a_span_is_kept_where_the_block_raises_and_waits_for_the_device():
    waited = []
    spans.record(settle=lambda: waited.append(1))
    with pytest.raises(ZeroDivisionError), span("learner", "forward"):
        1 / 0  # noqa: B018
    assert [one.name for one in spans.take()] == ["forward"]
    assert waited == [1]


def test_the_clock_of_a_step_makes_spans_of_the_driver_in_any_thread():
    clock = Clock()

    def sample():
        with clock("sample"):
            pass

    spans.record()
    with clock("total"):
        sample()
        thread = threading.Thread(target=sample)
        thread.start()
        thread.join()
    here, ahead, total = spans.take()
    assert [(one.role, one.name) for one in (here, ahead, total)] == [("driver", name) for name in ("sample", "sample", "total")]
    assert here.thread == total.thread != ahead.thread


def test_a_trace_has_microseconds_since_the_first_span_and_names_of_processes(tmp_path):
    DRIVER[2].details["step"] = 7
    write_trace(tmp_path / "trace.json", TRACKS)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {0: "driver", 1: "rollout 0", 2: "rollout 1", 3: "learner 0"}
    (forward, second) = [event for event in events if event["name"] == "forward"]
    assert (forward["ph"], forward["pid"], forward["ts"], forward["dur"]) == ("X", 3, 3e6, 1e6)
    assert second["ts"] == 4e6
    step = next(event for event in events if event["name"] == "step 7")
    first = next(event for event in events if event["ph"] == "X" and event["pid"] == 0)
    assert first is step  # the outer of two spans that begin together comes first
    assert {event["tid"] for event in events if event["pid"] == 0 and event["ph"] == "X"} == {0, 1}


def test_roles_in_one_process_are_tracks_of_their_own():
    found = by_role(Track("driver", None, [of("learner", "update", 0, 1), of("driver", "learn", 0, 1)]))
    assert [(track.name, len(track.spans)) for track in found] == [("driver", 1), ("learner 0", 1)]


def test_the_parts_of_a_step_add_up_to_it():
    first, second, third = step_seconds(TRACKS)
    assert first.parts == pytest.approx({"sample": 2.0, "learn": 3.0, "checkpoint": 1.0, "other": 1.0})
    assert first.total == pytest.approx(7.0)  # with the checkpoint after it, without the time between
    assert second.parts == pytest.approx({"sample": 1.0, "learn": 9.0, "other": 1.0})
    assert third.parts == pytest.approx({"sample": 1.0, "learn": 3.0, "other": 0.0})


def test_work_counts_where_the_driver_waits_for_it_by_the_slowest_worker():
    first, second, third = step_seconds(TRACKS)
    assert first.within == pytest.approx({("sample", "rollout: sample"): 1.8, ("learn", "learner: forward"): 2.0})
    assert second.within == pytest.approx({("learn", "driver: sample"): 7.0, ("sample", "rollout: sample"): 0.8})
    assert third.within == {}


def test_the_table_is_of_the_step_of_median_length():
    lines = profile_table(TRACKS, first=3).splitlines()
    assert lines[0] == "profile of steps 3 to 5; the seconds are those of step 3"
    assert lines[2].split() == ["sample", "2.000", "28.6%", "1.000", "…", "2.000"]
    assert lines[3].split() == ["rollout:", "sample", "1.800", "25.7%", "0.000", "…", "1.800"]
    ahead = next(line for line in lines if "driver: sample" in line)  # of another step than the one that is shown
    assert ahead.split() == ["driver:", "sample", "0.000", "0.0%", "0.000", "…", "7.000"]
    assert lines[-1].split() == ["step", "7.000", "100.0%", "4.000", "…", "11.000"]
    assert profile_table([], first=3) == "no step was recorded"


CLOCKS = [(1000, 400, 0), (1000, -500, 0), (1000, 900, 900), (10, -(10**12), -(10**12))]


def test_a_step_that_was_left_is_not_in_the_table(tmp_path, monkeypatch):
    said = []
    recorder = SimpleNamespace(say=said.append, folder=lambda name: tmp_path)
    profiler = Profiler("1-3", SimpleNamespace(pools=()), recorder)
    profiler.resume(0, 3)
    clock = Clock()
    for step in (1, 2):
        profiler.begin(step)
        with clock("total"), clock("sample"):
            pass
        profiler.end(step, stopping=step == 2, whole=step == 1)
    assert (tmp_path / "table.txt").read_text().startswith("profile of step 1\n")
    assert spans.take() is None
    profiler.begin(3)
    with clock("total"):
        pass
    profiler.end(3, stopping=True, whole=False)  # nothing whole was recorded
    assert len(said) == 1


@pytest.mark.parametrize(("trip", "difference", "offset"), CLOCKS)
def test_a_clock_differs_only_by_more_than_the_round_trip_explains(trip, difference, offset):
    assert offset_of(trip, difference) == offset


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (["profile=true"], True),
        (["profile=false"], False),
        (["profile=5-7"], "5-7"),
        (["profile.steps=5-7"], "5-7"),
        (["profile=4"], "4"),
        ([], False),
    ],
)
def test_the_key_is_true_or_a_range_of_steps(written, found):
    assert load.load(StageAConfig, None, written).profile == found


@pytest.mark.parametrize(("written", "found"), [("profile: true", True), ("profile: {steps: 5-7}", "5-7"), ("profile: 5", "5")])
def test_a_file_may_have_the_key_either_way(tmp_path, written, found):
    (tmp_path / "c.yaml").write_text(written)
    assert load.load(StageAConfig, tmp_path / "c.yaml").profile == found


@pytest.mark.parametrize("value", ["7-5", "0-3", "yes", "3-", "-3", {"every": 3}])
def test_other_values_are_refused(value):
    with pytest.raises(ValidationError, match="write it as 5-7"):
        StageAConfig(profile=value)

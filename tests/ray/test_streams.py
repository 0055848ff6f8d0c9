"""Results that workers give one by one: the deadline is for a worker that is silent, not for one that has much to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from r0.actors.addresses import stream_some
from r0.actors.calls import RoleTimeout

pytestmark = pytest.mark.ray
DEADLINE_S = 6.0


@pytest.fixture
def workers(ray_session):
    class Worker:
        def ping(self) -> None:
            pass

        def give(self, waits: list[float]) -> Iterator[int]:
            for number, seconds in enumerate(waits):
                time.sleep(seconds)
                yield 10 * number  # the thing
                yield number  # its figures

    made = {index: ray_session.remote(Worker).options(num_cpus=0).remote() for index in range(2)}
    ray_session.get([worker.ping.remote() for worker in made.values()])
    yield made
    for worker in made.values():
        ray_session.kill(worker)


def test_a_silent_worker_has_hung_and_one_that_goes_on_giving_has_not(workers, ray_session):
    found: dict[int, list] = {0: [], 1: []}
    for index, item in stream_some(workers, "give", {0: ([2.5, 2.5, 2.5],), 1: ([0.0, 3600.0],)}, DEADLINE_S, "rollout"):
        found[index].append(item)
    assert [(ray_session.get(thing), figures) for thing, figures in found[0]] == [(0, 0), (10, 1), (20, 2)]
    (thing, figures), error = found[1]
    assert (ray_session.get(thing), figures) == (0, 0)
    assert isinstance(error, RoleTimeout)
    assert str(error) == "rollout 1: give gave nothing for 6 s"


def test_results_that_wait_while_their_caller_is_busy_are_taken(workers, ray_session):
    given = []
    for _, (_, figures) in stream_some(workers, "give", {0: ([0.0, 0.0],), 1: ([0.0, 0.0],)}, 1.0, "rollout"):
        given.append(figures)
        time.sleep(1.5)
    assert sorted(given) == [0, 0, 1, 1]

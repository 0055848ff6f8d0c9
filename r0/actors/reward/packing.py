"""Rollouts that are stored are read, written as lines and compressed by the reward workers, which wait while the ranks learn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from r0.actors.addresses import Begun
from r0.actors.calls import RoleDied, RoleTimeout, is_actor
from r0.actors.pool import Pool
from r0.process.objects import FETCH_S, fetch
from r0.records import ScoredGroup
from r0.storage.rollout_lines import each_packed, packed

AHEAD = 2  # groups that a worker is given at a time: the driver holds the content of few


def pack(pool: Pool, step: int, groups: Sequence[ScoredGroup], texts: Mapping[tuple[int, ...], str]) -> Iterator[bytes]:
    """``each_packed``, by the workers of ``pool``. What a worker that hangs or dies was given is done here.

    Raises:
        ObjectsLost: rollouts are gone with the machine that held them.
    """
    size = len(pool)
    if not any(map(is_actor, pool.workers)):  # inline, or a run that samples nothing
        yield from each_packed(step, groups, texts)
        return
    begun: deque[tuple[ScoredGroup, Begun]] = deque()
    for number, group in enumerate(groups):
        if len(begun) == AHEAD * size:
            yield _content(step, *begun.popleft(), texts)
        begun.append((group, pool.begin(number % size, "packed", (step, group, texts[group.prompt.token_ids]))))
    while begun:
        yield _content(step, *begun.popleft(), texts)


def _content(step: int, group: ScoredGroup, call: Begun, texts: Mapping[tuple[int, ...], str]) -> bytes:
    if isinstance(call.figures(FETCH_S), RoleTimeout | RoleDied):
        return packed(step, group, texts[group.prompt.token_ids])
    (content,) = fetch([call.rest])
    return content

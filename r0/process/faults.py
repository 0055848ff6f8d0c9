"""Places in a run where a test can inject a fault. Nothing happens without the variable R0_FAULT, which only tests set.

``R0_FAULT="learner.step@3=kill /tmp/fired"``: the third time that a process comes to ``learner.step``, it kills itself. The
process that does so first creates the file; once it exists the fault does not happen again. Several are separated by ``;``.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

PLACES = (
    "driver.step",  # before a step's sampling
    "driver.learned",  # after an update, before the sync
    "driver.checkpoint",  # a checkpoint is being written
    "rollout.sample",
    "rollout.group",  # after a group that is complete
    "rollout.update",  # receiving weights
    "learner.forward",  # before a batch's first forward pass
    "learner.step",  # before the optimizer's step
    "learner.stepped",  # after it
    "learner.sync",  # sending weights
    "learner.write",  # writing its part of a checkpoint
)

_visits: Counter[str] = Counter()


def reached(place: str) -> None:
    """Called where a fault can be injected."""
    if faults := os.environ.get("R0_FAULT"):
        visit = _visits[place] = _visits[place] + 1
        for fault in faults.split(";"):
            _inject(fault, place, visit)


def _inject(fault: str, place: str, now: int) -> None:
    what, _, fired = fault.partition(" ")
    where, _, action = what.partition("=")
    name, _, visit = where.partition("@")
    if name not in PLACES or place not in PLACES:
        raise ValueError(f"R0_FAULT: {name} or {place} is not one of {', '.join(PLACES)}")
    if name != place or now != int(visit):
        return
    try:
        os.close(os.open(fired, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "raise":
        raise RuntimeError(f"injected at {place}")
    else:
        time.sleep(float(action))

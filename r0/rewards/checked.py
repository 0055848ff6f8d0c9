"""Calling a reward that others wrote: whatever it does wrong becomes one error that says what."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from numbers import Real
from typing import Any

from r0.errors import reason
from r0.records import Verdict
from r0.rewards.registry import Reward


class RewardFailed(Exception):
    """A reward gave no valid components, each time it was asked. The message continues "the reward …"."""


class CheckedReward:
    """A reward that is asked once more when it fails, and that must return the same component names in every call.

    Args:
        reward: as its factory made it.
    """

    def __init__(self, reward: Reward):
        self._reward = reward
        self._names: frozenset[str] | None = None  # of the first valid call

    def __call__(self, verdict: Verdict, label: Any) -> tuple[dict[str, float], float]:
        """The components and their sum, which does not depend on their order.

        Raises:
            RewardFailed: it raised, or returned something other than finite numbers by name, twice.
        """
        try:
            return self._ask(verdict, label)
        except RewardFailed:
            pass
        try:
            return self._ask(verdict, label)
        except RewardFailed as failed:
            raise RewardFailed(f"{failed}, twice") from failed.__cause__

    def _ask(self, verdict: Verdict, label: Any) -> tuple[dict[str, float], float]:
        try:
            components = _components(self._reward(verdict, label))
            total = math.fsum(components.values())
        except RewardFailed:
            raise
        except (Exception, SystemExit) as error:  # it is somebody else's code
            raise RewardFailed(f"raised {type(error).__name__}: {reason(error)}") from error
        if not math.isfinite(total):
            raise RewardFailed(f"returned numbers that are not finite: {components}")
        names = frozenset(components)
        if self._names is not None and names != self._names:
            raise RewardFailed(f"returned the components {_list(names)}, but {_list(self._names)} before")
        self._names = names
        return components, total


def _components(found: Any) -> dict[str, float]:
    """What a reward returned, as numbers by name.

    Raises:
        RewardFailed: it is something else.
    """
    if not isinstance(found, Mapping):
        raise RewardFailed(f"returned {_short(found)}, not numbers by name")
    components = {}
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Real):
            raise RewardFailed(f"returned {_short(value)} as component {_short(name)}, not a number")
        components[name] = float(value)
    return components


def _short(value: Any) -> str:
    return f"{type(value).__name__} {reprlib.repr(value)}"


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"

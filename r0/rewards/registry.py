"""Rewards by name: registered in this package, or by an installed package's entry point in the group ``r0.rewards``.

A configuration can only name installed rewards, never an import path. A package adds a reward with::

    [project.entry-points."r0.rewards"]
    my_reward = "my_package.rewards:make"      # make(section: RewardBase) -> Reward
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from r0.config.sections import RewardBase
from r0.errors import UserError
from r0.records import Verdict

GROUP = "r0.rewards"


class Reward(Protocol):
    """A reward: a pure function that returns the same names in every call, so that metrics have stable columns."""

    def __call__(self, verdict: Verdict, label: Any) -> Mapping[str, float]:
        """Named finite components of one completion; their sum is its reward. ``label`` is the task's label: 1 or 0 for one
        document, a ``ListLabel`` for a list.
        """


RewardFactory = Callable[[Any], Reward]  # called with the configuration section
_REGISTERED: dict[str, tuple[RewardFactory, type[RewardBase]]] = {}


def register(name: str, section: type[RewardBase] = RewardBase) -> Callable[[RewardFactory], RewardFactory]:
    """Decorator that registers ``name`` as a reward of this process, built from a section of type ``section``.

    Raises:
        ValueError: the name is taken.
    """

    def add(factory: RewardFactory) -> RewardFactory:
        if _REGISTERED.get(name, (factory, section))[0] is not factory:
            raise ValueError(f"reward {name!r} is already registered")
        _REGISTERED[name] = factory, section
        return factory

    return add


def reward_names() -> list[str]:
    """The valid values of ``reward.name`` on this machine."""
    return sorted({*_REGISTERED, *(point.name for point in entry_points(group=GROUP))})


def check_reward(section: RewardBase) -> None:
    """Refuse an unknown name, or the reward of another stage; loads and runs nothing.

    Raises:
        UserError: there is no such reward (the message suggests the nearest), or the reward needs another type of section.
    """
    name, names = section.name, reward_names()
    _, wanted = _REGISTERED.get(name, (None, RewardBase))
    if not isinstance(section, wanted):
        own = type(section).model_fields["name"].default
        raise UserError(f"reward.name: {name!r} is the reward of another stage and cannot judge these answers; use {own}")
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known rewards: {', '.join(names)}"
    raise UserError(
        f"reward.name: there is no reward {name!r}; {hint} "
        f"(other rewards come from installed packages with an entry point in the group {GROUP}, not from an import path)"
    )


def make_reward(section: RewardBase) -> Reward:
    """Build the reward ``section.name`` from its section. r0's own names take precedence over entry points.

    Raises:
        UserError: the name is unknown, belongs to another stage, is claimed by several packages, or its entry point cannot be
            loaded, or what it builds cannot be called.
    """
    check_reward(section)
    factory, _ = _REGISTERED.get(section.name, (None, None))
    reward = (factory or _load(section.name))(section)
    if not callable(reward):
        raise UserError(
            f"reward.name: the factory of {section.name!r} returned {reward!r}, which is not a reward; fix its package"
        )
    return reward


def _load(name: str) -> RewardFactory:
    points: list[EntryPoint] = list({point.value: point for point in entry_points(group=GROUP, name=name)}.values())
    if len(points) > 1:
        claims = ", ".join(sorted(point.value for point in points))
        raise UserError(f"reward.name: {name!r} is claimed by several installed packages ({claims}); uninstall all but one")
    what = f"reward.name: {name!r} ({points[0].value})"
    try:
        factory = points[0].load()
    except Exception as error:  # importing a package can raise anything
        raise UserError(f"{what} cannot be loaded: {error!r}; fix or update its package") from error
    if not callable(factory):
        raise UserError(f"{what} is not callable, so it cannot build a reward; fix its package")
    return factory

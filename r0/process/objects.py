"""Values that stay where they were made until a process needs them.

On Ray an address is the reference of an object in the store of the node that made it. Without Ray a value is its own address, so
the same code runs in one process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from r0.errors import RunFailed

FETCH_S = 600.0  # seconds in which values arrive from another node


class ObjectsLost(RunFailed):
    """Values are gone with the node that held them."""


def put(value: Any) -> Any:
    """Give ``value`` an address."""
    ray: Any = sys.modules.get("ray")
    return ray.put(value) if ray is not None and ray.is_initialized() else value


def fetch(addresses: Sequence[Any]) -> list[Any]:
    """The values at some addresses, in order.

    Raises:
        ObjectsLost: a node that held one is gone, or has not sent it within ``FETCH_S``.
    """
    if not any(map(_is_elsewhere, addresses)):
        return list(addresses)
    import ray

    try:
        found = iter(ray.get([address for address in addresses if _is_elsewhere(address)], timeout=FETCH_S))
    except (ray.exceptions.ObjectLostError, ray.exceptions.GetTimeoutError) as error:
        raise lost(error) from error
    return [next(found) if _is_elsewhere(address) else address for address in addresses]


def lost(error: Exception) -> ObjectsLost:
    """Ray's error as one of r0."""
    return ObjectsLost(f"rollouts are lost with the machine that held them ({type(error).__name__})")


def _is_elsewhere(address: Any) -> bool:
    return type(address).__module__.partition(".")[0] == "ray"  # does not import Ray

"""The Ray of a run: one that is already there, or one that is started here, for this machine and this user alone."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence

from r0.actors.found_ray import JOB, CannotUse, FoundRay, find_ray, listens, look_at, use_token
from r0.actors.placement import Bundle, available_cores, check, check_engines, cluster_gpus, phases, warn_about_unused_gpus
from r0.config import RankingKeys, TrainingKeys
from r0.errors import UserError, reason
from r0.process.folders import remove_leftovers, temp_root
from r0.process.gpus import local_gpus, torch_for_cpus

logger = logging.getLogger(__name__)

# Of a Ray that r0 starts. With the second Ray and all its servers use the loopback interface, as they do by themselves where Ray
# supports no clusters (macOS, Windows).
OWN_VARIABLES = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def start_ray(config: TrainingKeys | RankingKeys) -> list[Bundle]:
    """Join the Ray that is there for this run, or start one here; returns what the run needs of it.

    ``ray.address`` and the cluster of a Ray job are joined or refused. One that RAY_ADDRESS names, or that ``ray start`` started
    on this machine, is joined if it answers and has room; else that is said, and one is started here.

    Raises:
        UserError: the declared resources cannot hold the need; the named cluster cannot be reached; Ray cannot be started.
    """
    loaded = sys.modules.get("ray")
    if loaded is None or not loaded.is_initialized():
        address = config.ray.address
        if address is None and JOB in os.environ:
            address = os.environ.get("RAY_ADDRESS") or "auto"
        if address is None:
            address = _usable(config)
        if address is None or address == "local":
            _start_here(max(phases(config, has_gpus=local_gpus() > 0), key=lambda need: sum(bundle.cpus for bundle in need)))
        else:
            _join(address)
    import ray

    warn_about_unused_gpus()
    needs = phases(config, has_gpus=cluster_gpus() > 0)
    for need in needs:
        check(need, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    check_engines(config, needs)  # after the GPUs that there are: vLLM's build is judged by them
    return needs[-1]


def _join(address: str) -> None:
    """Join a cluster.

    Raises:
        UserError: nothing answers there, or not as a Ray of this version.
    """
    fault = "" if listens(address) else "nothing answers there"
    if not fault:
        use_token()
        import ray

        try:
            with _same_handlers():
                ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING, namespace="r0")
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            cause = error.__cause__ if isinstance(error, ConnectionError) and error.__cause__ else error
            fault = " ".join(str(cause).split()) or type(cause).__name__
    if fault:
        raise UserError(f"ray.address: no Ray cluster answers at {address}: {fault}")


def _usable(config: TrainingKeys | RankingKeys) -> str | None:
    """The address of a Ray that is there and can hold this run; None: there is none, which is said if it is of interest."""
    found = find_ray()
    if found is None or (not found.named and not listens(found.address)):  # what a killed head left
        return None
    try:
        _check_room(config, found)
    except CannotUse as fault:
        logger.warning("the Ray at %s (%s) is not used: %s; one is started here", found.address, found.source, fault)
        return None
    if not found.named:
        logger.warning("using the Ray at %s (%s); ray.address=local starts another one", found.address, found.source)
    return found.address


def _check_room(config: TrainingKeys | RankingKeys, found: FoundRay) -> None:
    """Look at a Ray.

    Raises:
        CannotUse: it does not answer, runs something else, or has no room.
    """
    look = look_at(found.address)
    here = os.path.realpath(look.prefix) == os.path.realpath(sys.prefix)  # a link to an environment is as good
    if not look.has_r0 or (found.source != "RAY_ADDRESS" and not here):
        raise CannotUse(f"it runs another Python environment ({look.prefix})")
    gpus = 0.0 if torch_for_cpus() else sum(node.get("GPU", 0.0) for node in look.nodes)
    for need in phases(config, has_gpus=gpus > 0):
        for kind in ("CPU", "GPU"):
            wanted = sum(bundle.resources.get(kind, 0.0) for bundle in need)
            if wanted > look.free.get(kind, 0.0) + 1e-9:
                raise CannotUse(f"the run needs {wanted:g} {kind} and {look.free.get(kind, 0.0):g} are free")
        try:
            check(need, look.nodes)
        except UserError as error:
            raise CannotUse(str(error)) from None


def _start_here(need: Sequence[Bundle]) -> None:
    """Start a Ray for this run: on the loopback interface, with a token of its own, in a folder with a short path.

    Raises:
        UserError: there is no folder for it, or its processes did not start.
    """
    cores = available_cores()
    cpus = sum(bundle.cpus for bundle in need)
    if cpus > cores:
        logger.warning("the roles declare %g CPU cores and this machine has %d: they will take turns", cpus, cores)
    folder = temp_root()
    remove_leftovers()
    atexit.register(remove_leftovers)  # before Ray registers its own: it runs after Ray has ended the workers
    os.environ.update(OWN_VARIABLES, RAY_AUTH_TOKEN=secrets.token_hex(32))
    os.environ.pop("RAY_ADDRESS", None)  # of a Ray that was not used: workers and later commands of this process use this one
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it says on every start that tokens are on
    import ray

    _read_variables_again()
    try:
        with _same_handlers():
            ray.init(
                address="local",
                num_cpus=max(cores, int(-(-cpus // 1))),
                include_dashboard=False,
                object_store_memory=2**30,
                log_to_driver=True,
                logging_level=logging.WARNING,
                namespace="r0",
                _temp_dir=str(folder),
            )
    except Exception as error:  # Ray's own faults of starting are of no class
        ray.shutdown()
        raise UserError(
            f"Ray did not start on this machine ({reason(error)}); look into {folder}/session_latest/logs, "
            "or use ray.inline=true, which needs no Ray"
        ) from error


@contextlib.contextmanager
def _same_handlers() -> Iterator[None]:
    """Let ``ray.init`` leave a handler of SIGTERM that there is: with its own a signal would end the start without a word."""
    from ray._private import utils

    before = utils.set_sigterm_handler
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


def _read_variables_again() -> None:
    """Let a Ray that was imported before read the variables."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    ray_constants.ENABLE_RAY_CLUSTER = False
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()

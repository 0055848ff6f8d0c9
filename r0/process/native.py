"""DeepSpeed's native part for CPU ranks (the shared-memory all-reduce beside gloo): built before a process loads it.

Torch builds and loads under a file named ``lock``. It waits for that file without end and without a word, and a build that was
killed leaves it behind. Here the file is removed when nobody holds it, and the compilers run in a process group that ends with
the process that wants them. Imports neither torch nor DeepSpeed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from r0.errors import UserError
from r0.process.folders import environment_name, use_writable_folders

logger = logging.getLogger(__name__)

NAME = "deepspeed_shm_comm"
BUILDER = (sys.executable, "-W", "ignore", "-m", "r0.tools.native")
STALE_S = 20.0  # age of a lock that no process of this machine holds; a load under it, by another machine, takes about a second
POLL_S = 0.2
SAY_S = 1.0
PR_SET_PDEATHSIG = 1  # of prctl(2)


def ready() -> None:
    """Build the native part where this environment has not built it, and see to it that it can be loaded at once.

    Raises:
        UserError: it cannot be built.
    """
    if not sys.platform.startswith("linux"):
        return
    use_environment_tools()
    use_writable_folders()
    with build_lock():
        if not _stamp().exists():
            logger.warning("building DeepSpeed's native part in %s (once, about 30 s)", _folder())
            _build()


def use_environment_tools() -> None:
    """Put the environment's own programs (ninja) on PATH, so that an environment that was not activated can load native parts."""
    tools = str(Path(sys.executable).parent)
    places = os.environ.get("PATH", "").split(os.pathsep)
    if tools not in places:
        os.environ["PATH"] = os.pathsep.join([tools, *places])


def _folder() -> Path:
    """Where torch builds it."""
    return Path(os.environ["TORCH_EXTENSIONS_DIR"]) / NAME


def _stamp() -> Path:
    """A file that says that this environment has built it there; torch's own would be built again by others."""
    return _folder() / f"built-{environment_name()}"


def mark() -> None:
    """Note that it is built."""
    for other in _folder().glob("built-*"):
        other.unlink()
    _stamp().touch()


@contextlib.contextmanager
def build_lock() -> Iterator[None]:
    """One process of this machine at a time, and no stale lock of torch's. The kernel gives this one back when its process ends,
    however it does."""
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / "r0.lock").open("w") as file:
        began, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said and time.monotonic() - began > SAY_S:
                    logger.warning("waiting for another process that builds DeepSpeed's native part in %s", _folder())
                    said = True
                time.sleep(POLL_S)
            except OSError:  # a file system without locks
                break
        _remove_stale_lock()
        yield


def _remove_stale_lock() -> None:
    """Remove torch's lock if no process holds it. One that another machine may hold is given ``STALE_S`` first."""
    lock, said = _folder() / "lock", False
    with contextlib.suppress(FileNotFoundError):  # it was given back meanwhile
        while True:
            found = lock.stat()
            if _is_open(found):
                return  # torch waits for it, and it will be given back
            if time.time() - found.st_mtime >= STALE_S or not _shared(lock):
                break
            if not said:
                logger.warning("waiting for %s, which another machine may hold", lock)
                said = True
            time.sleep(POLL_S)
        if lock.stat().st_ino == found.st_ino:
            lock.unlink()
            logger.warning("removed %s, which a killed build had left", lock)


def _is_open(found: os.stat_result) -> bool:
    """Whether a process of this user has the file open, as the maker of the lock has."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            held = link.stat()
            if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino):
                return True
    return False


def _shared(path: Path) -> bool:
    """Whether the file system of ``path`` is one that other machines may write to."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, place, name, *_ = line.split(" ")
        if len(place) > len(best) and (str(path) + "/").startswith(place.rstrip("/") + "/"):
            best, kind = place, name
    return kind not in ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay")


def _build() -> None:
    """Run the builder in a process group of its own, which ends with this process.

    Raises:
        UserError: what it says.
    """
    line = [*BUILDER, "--for", str(os.getpid())]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True) as child:
        try:
            said, _ = child.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise
    if child.returncode:
        lines = said.strip().splitlines() or [f"exit code {child.returncode}"]
        raise UserError(lines[-1].partition(": ")[2] or lines[-1])


def end_with(parent: int) -> None:
    """End this process and its group when the process ``parent``, which started it, ends in any way."""

    def end(*_: object) -> None:
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        end()

"""Folders that r0 writes to besides a run's own: temporary files, caches, native builds. Where the usual one cannot be used, r0
takes another one and says so.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import pwd
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from r0.errors import UserError

logger = logging.getLogger(__name__)

# A socket's path has at most 107 bytes, and Ray appends /session_<date>_<time>_<pid>/sockets/plasma_store: 64 bytes.
MOST_BYTES = 40
LEAST_FREE = 64 * 2**20
KEPT_SESSIONS = 3


def use_writable_folders() -> None:
    """Set the variables that name folders, where they are not set or name a folder that cannot be used. Call it before torch, Ray
    or Hugging Face's libraries are imported; child processes inherit the variables.

    Raises:
        UserError: no folder for temporary files can be used; TORCH_EXTENSIONS_DIR cannot be written.
    """
    _use_temp()
    _use_home()
    _use_extensions()


def temp_root() -> Path:
    """r0's folder for temporary files of this user: private, and with a path that is short enough for Ray's sockets.

    Raises:
        UserError: there is no place for one.
    """
    tried: dict[str, str] = {}
    for base in filter(None, (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm")):
        folder = Path(base).absolute() / f"r0-{os.getuid()}"
        if base in tried:
            continue
        if base == os.environ.get("RAY_TMPDIR"):  # Ray makes it, too
            with contextlib.suppress(OSError):
                Path(base).mkdir(parents=True, exist_ok=True)
        tried[base] = _fault(folder, private=True)
        if not tried[base] and len(os.fsencode(folder)) > MOST_BYTES:
            tried[base] = "its path is too long for sockets"
        if not tried[base]:
            return folder
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is empty
    found = "; ".join(f"{base}: {fault}" for base, fault in tried.items())
    raise UserError(
        f"there is no folder for temporary files ({found}); set TMPDIR to a folder that can be written, has "
        f"{LEAST_FREE >> 20} MiB free and a path of at most {MOST_BYTES - 12} characters"
    )


def remove_leftovers() -> None:
    """Delete what r0's killed processes of this machine left: temporary files, shared memory, and Ray's sessions but the last
    ``KEPT_SESSIONS``."""
    root = temp_root()
    for path in (*root.glob("scratch-*"), *Path("/dev/shm").glob("r0-*")):
        if is_abandoned(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # another user's
                    path.unlink()
    sessions = [path for path in root.glob("session_*") if path.is_dir() and not path.is_symlink()]
    ended = [path for path in sessions if not _runs(path.name.rpartition("_")[2])]
    for path in sorted(ended, key=lambda path: path.name)[:-KEPT_SESSIONS]:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """In the block, temporary files that libraries make in this process go to a folder of their own, with a short path. It is
    deleted when the process ends, or by ``remove_leftovers`` after it was killed."""
    folder = Path(tempfile.mkdtemp(prefix=f"scratch-{process_name()}-", dir=temp_root()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before


def process_name() -> str:
    """This process, in the name of a file that may outlive it: the namespace of its id, and the id."""
    return f"{_namespace()}-{os.getpid()}"


def is_abandoned(name: str) -> bool:
    """Whether a file with a ``process_name`` belongs to a process that has ended."""
    found = re.search(r"-(\d+)-(\d+)-[^-]*$", name)
    return found is not None and found[1] == str(_namespace()) and not _runs(found[2])


def _namespace() -> int:
    """Process ids of a container mean nothing in another one that shares its folders."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _runs(pid: str) -> bool:
    """Whether a process has this id."""
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fault(folder: Path, private: bool = False) -> str:
    """Why nothing can be written into ``folder``, which is made if it is not there; empty: something can.

    ``private``: nobody else may have made it, or may look into it.
    """
    try:
        folder.mkdir(mode=0o700, parents=not private, exist_ok=True)
        if private:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                return f"{folder.name} there belongs to another user"
            folder.chmod(0o700)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "" if free >= LEAST_FREE else f"only {free >> 20} MiB are free"


def _use_temp() -> None:
    """Take another folder for temporary files where TMPDIR cannot be used: compilers take it as it is."""
    named = os.environ.get("TMPDIR")
    if not named:
        return
    # A folder that is not there is nobody's wish: every program takes the next one in silence.
    fault = _fault(Path(named)) if os.path.isdir(named) else "there is no such folder"
    if not fault:
        return
    other = next((base for base in ("/tmp", "/var/tmp", "/dev/shm") if os.path.isdir(base) and not _fault(Path(base))), None)
    if other is None:
        raise UserError(f"TMPDIR={named} cannot be used ({fault}), nor can /tmp; set TMPDIR to a folder that can be written")
    logger.warning("TMPDIR=%s cannot be used (%s): temporary files go to %s", named, fault, other)
    os.environ["TMPDIR"] = other
    tempfile.tempdir = None  # as it was found before


def user_cache() -> Path:
    """The folder of this user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _use_home() -> None:
    """Take other folders for caches and settings where those in the home folder cannot be written."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # a container's user without a name; torch asks for one
        os.environ.setdefault("USER", f"uid-{os.getuid()}")
        os.environ.setdefault("HOME", str(temp_root()))
    cache = user_cache()
    if not (fault := _fault(cache / "r0")):
        return
    other = temp_root() / "cache"
    logger.warning("%s cannot be written (%s): caches go to %s", cache, fault, other)
    hub = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    for name, folder in (("HF_HUB_CACHE", hub / "hub"), ("HF_TOKEN_PATH", hub / "token")):
        if folder.exists():  # models that were fetched before stay where they are
            os.environ.setdefault(name, str(folder))
    os.environ["XDG_CACHE_HOME"] = str(other)  # vLLM, torch, Hugging Face
    os.environ.setdefault("HF_HOME", str(other / "huggingface"))
    os.environ.setdefault("XDG_CONFIG_HOME", str(other / "config"))
    os.environ.setdefault("TRITON_HOME", str(other))
    os.environ.setdefault("FLASHINFER_WORKSPACE_BASE", str(other))
    os.environ.setdefault("MPLCONFIGDIR", str(other / "matplotlib"))
    other.mkdir(parents=True, exist_ok=True)


def _use_extensions() -> None:
    """Give each environment its own folder for native parts: torch has one for all, and what one environment has built there is
    built again by the next.

    Raises:
        UserError: TORCH_EXTENSIONS_DIR is set to a folder that cannot be written.
    """
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    if named:
        if fault := _fault(Path(named)):
            raise UserError(f"TORCH_EXTENSIONS_DIR={named} cannot be written ({fault}); unset it, or name another folder")
        return
    os.environ["TORCH_EXTENSIONS_DIR"] = str(user_cache() / "r0" / "torch_extensions" / environment_name())


def environment_name() -> str:
    """This Python environment with its torch and DeepSpeed, as a name for a folder."""
    versions = []
    for package in ("torch", "deepspeed"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(metadata.version(package))
    key = "\n".join([sys.prefix, sys.version, *versions])
    return f"{Path(sys.prefix).name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

"""Where r0 writes beside a run: a folder that cannot be used is replaced, and what killed processes left is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from r0.errors import UserError
from r0.process import folders

VARIABLES = (
    "TMPDIR", "RAY_TMPDIR", "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH",
    "TRITON_HOME", "FLASHINFER_WORKSPACE_BASE", "MPLCONFIGDIR", "TORCH_EXTENSIONS_DIR", "USER",
)  # fmt: skip


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch):
    """The variables as they were; short temporary folders for Ray's sockets."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "kept")  # restores it afterwards, whoever sets it
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        monkeypatch.setenv("HOME", f"{short}/home")
        yield Path(short)


def test_the_folder_of_a_user_is_private_and_short(variables: Path) -> None:
    folder = folders.temp_root()
    assert folder == variables / f"r0-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_long_temporary_folder_is_left_for_one_whose_sockets_have_room(monkeypatch, tmp_path: Path) -> None:
    long = tmp_path / ("slurm-job-" + "x" * 100)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    monkeypatch.setenv("TMPDIR", str(long))
    session = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
    assert len(f"{folders.temp_root()}/{session}") <= 107
    assert not list(long.iterdir())


def test_a_folder_that_another_user_could_have_planted_is_not_used(variables: Path, tmp_path: Path) -> None:
    (variables / f"r0-{os.getuid()}").symlink_to(tmp_path)
    assert folders.temp_root().parent != variables


def test_no_folder_for_temporary_files_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(folders, "LEAST_FREE", 2**70)
    with pytest.raises(UserError, match=r"there is no folder for temporary files \(.*MiB are free.*set TMPDIR to a folder"):
        folders.temp_root()


def test_a_temporary_folder_that_cannot_be_written_is_replaced_and_that_is_said(monkeypatch, caplog) -> None:
    monkeypatch.setenv("TMPDIR", "/proc/self")
    folders.use_writable_folders()
    assert os.environ["TMPDIR"] == "/tmp" == tempfile.gettempdir()
    assert "TMPDIR=/proc/self cannot be used" in caplog.text
    assert "temporary files go to /tmp" in caplog.text


def test_a_home_that_cannot_be_written_gets_other_caches_and_keeps_its_models(monkeypatch, caplog, tmp_path: Path) -> None:
    (tmp_path / "huggingface" / "hub").mkdir(parents=True)
    monkeypatch.setenv("HOME", "/proc")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    folders.use_writable_folders()
    cache = Path(os.environ["XDG_CACHE_HOME"])
    assert os.access(cache, os.W_OK)
    assert Path(os.environ["TORCH_EXTENSIONS_DIR"]).is_relative_to(cache)
    assert os.environ["HF_HUB_CACHE"] == str(tmp_path / "huggingface" / "hub")
    assert "/proc/.cache cannot be written" in caplog.text
    caplog.clear()
    folders.use_writable_folders()  # a child process inherits them, and has nothing to say
    assert not caplog.text


def test_what_can_be_written_stays_as_it_is(variables: Path, caplog) -> None:
    folders.use_writable_folders()
    assert {"XDG_CACHE_HOME", "HF_HOME", "TRITON_HOME", "TMPDIR"}.isdisjoint(os.environ)
    assert Path(os.environ["TORCH_EXTENSIONS_DIR"]).is_relative_to(variables / "home" / ".cache" / "r0")
    assert not caplog.text


def test_each_environment_has_its_own_folder_for_native_parts(monkeypatch) -> None:
    here = folders.environment_name()
    monkeypatch.setattr(sys, "prefix", "/another/checkout/.venv")
    assert folders.environment_name() != here
    assert folders.environment_name().startswith(".venv-")


def test_a_set_folder_for_native_parts_is_used_or_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "mine"))
    folders.use_writable_folders()
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(tmp_path / "mine")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/proc/none")
    with pytest.raises(UserError, match="TORCH_EXTENSIONS_DIR=/proc/none cannot be written"):
        folders.use_writable_folders()


def test_what_killed_processes_left_is_removed_and_what_live_ones_use_is_not() -> None:
    root = folders.temp_root()
    code = (
        "import os, signal; from r0.process.folders import process_name, scratch\n"
        "with scratch() as folder:\n"
        "    (folder / 'vllm_dist_1').touch()\n"
        "    open(f'/dev/shm/r0-{process_name()}-ab12', 'w').close()\n"
        "    print(os.getpid(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    mine = Path("/dev/shm") / f"r0-{folders.process_name()}-cd34"
    mine.touch()
    try:
        with folders.scratch() as kept:
            (kept / "vllm_dist_2").touch()
            assert tempfile.gettempdir() == str(kept)
            assert [path for path in root.glob("scratch-*") if f"-{killed}-" in path.name]
            folders.remove_leftovers()
            assert list(root.glob("scratch-*")) == [kept]
            assert (kept / "vllm_dist_2").exists()
            assert not list(Path("/dev/shm").glob(f"r0-*-{killed}-*"))
            assert mine.exists()
    finally:
        mine.unlink()


def test_the_last_three_sessions_of_ray_are_kept_and_those_of_live_drivers() -> None:
    root = folders.temp_root()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, text=True, check=True)
    names = [f"session_2026-01-0{day}_00-00-00_000000_{ended.stdout.strip()}" for day in range(1, 6)]
    live = f"session_2025-01-01_00-00-00_000000_{os.getpid()}"
    for name in [*names, live]:
        (root / name / "logs").mkdir(parents=True)
    folders.remove_leftovers()
    assert sorted(path.name for path in root.glob("session_*")) == [live, *names[2:]]

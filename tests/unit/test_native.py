"""Locks around DeepSpeed's native build: one that a killed build left delays nothing, one that is held is respected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r0.process import native

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the native part is for Linux")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / native.NAME).mkdir()
    return tmp_path / native.NAME


def test_a_lock_of_a_killed_build_is_removed_and_that_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "lock").touch()
    with native.build_lock():
        assert not (folder / "lock").exists()
    assert f"removed {folder / 'lock'}, which a killed build had left" in caplog.text


def test_a_lock_that_torch_holds_stays(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from torch.utils.file_baton import FileBaton

    baton = FileBaton(str(folder / "lock"))
    assert baton.try_acquire()
    with native.build_lock():
        assert (folder / "lock").exists()
    baton.release()
    assert not caplog.text


def test_a_lock_that_another_machine_may_hold_is_waited_for_in_words(folder: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(native, "_shared", lambda _path: True)
    monkeypatch.setattr(native, "STALE_S", 1.0)
    (folder / "lock").touch()
    with native.build_lock():
        assert not (folder / "lock").exists()
    assert "which another machine may hold" in caplog.text


def test_builders_take_turns_and_the_one_who_waits_says_so(folder: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(native, "SAY_S", 0.0)
    code = (
        "import sys, time; from r0.process import native\n"
        "with native.build_lock():\n"
        "    print('has it', flush=True); sys.stdin.read(); open(sys.argv[1], 'w').close()\n"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "first")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "has it\n"
    monkeypatch.setattr(native.time, "sleep", lambda _s: first.stdin.closed or first.stdin.close())  # it ends while this waits
    with native.build_lock():
        assert (folder / "first").exists()
    assert "waiting for another process that builds DeepSpeed's native part" in caplog.text
    assert first.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_compilers_end_with_the_process_that_wants_them(tmp_path: Path, number: signal.Signals) -> None:
    """The builder's own child stands for a compiler."""
    builder = (
        "import subprocess, sys; from r0.process import native\n"
        "native.end_with(int(sys.argv[2]))\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(f'{{child.pid}}\\n')\n"
        "child.wait()\n"
    )
    code = (
        "import signal, sys; from r0.process import native\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which tests in the background ignore
        f"native.BUILDER = (sys.executable, '-c', {builder!r})\nnative._build()\n"
    )
    wants = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        assert wants.poll() is None
        time.sleep(0.05)
    wants.send_signal(number)
    wants.wait()
    compiler = int((tmp_path / "pid").read_text())
    for _ in range(600):
        if not Path(f"/proc/{compiler}").exists() or " Z " in Path(f"/proc/{compiler}/stat").read_text():
            return
        time.sleep(0.05)
    os.kill(compiler, signal.SIGKILL)
    pytest.fail("the compiler runs on")

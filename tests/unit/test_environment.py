"""The environment script: pip's settings become uv's, and constraints name no hosts."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from r0.process import native
from r0.tools import environment

ROOT = Path(environment.__file__).parents[2]


def test_pips_settings_become_uvs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    settings = environment.uv_settings(
        {"index-url": "one", "extra-index-url": "two\nthree", "find-links": "/a /b", "cert": "/c", "no-index": "true"}
    )
    assert settings["UV_DEFAULT_INDEX"] == "one"
    assert settings["UV_INDEX"] == "two three"
    assert settings["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert settings["UV_FIND_LINKS"] == "/a,/b"
    assert settings["UV_NO_INDEX"] == "1"
    assert environment.uv_settings({}) == {}


def test_uvs_own_variables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", "/mine")
    assert "UV_FIND_LINKS" not in environment.uv_settings({"find-links": "/theirs"})


def test_pips_environment_variables_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "pip.conf").write_text("[global]\nfind-links = /from-file\nindex-url = /kept\n")
    monkeypatch.setenv("PIP_FIND_LINKS", "/from-variable")
    settings = environment.pip_settings(Path(sys.executable))
    if not settings:
        pytest.fail("this environment has no pip; `make setup` makes one that has")
    assert settings["find-links"] == "/from-variable"
    assert settings["index-url"] == "/kept"


def test_constraints_name_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)  # no host, no path, no +cpu
    assert "torch==2.13.0" in lines


def test_what_a_step_prints_goes_to_the_log_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / environment.LOG
    environment.run([sys.executable, "-c", "print('Resolved 200 packages')"], log, "never shown")
    assert capfd.readouterr() == ("", "")
    assert "Resolved 200 packages" in log.read_text()


def test_a_step_that_fails_shows_its_last_lines_and_the_remedy(tmp_path: Path) -> None:
    log = tmp_path / environment.LOG
    environment.run([sys.executable, "-c", "print('an earlier step')"], log, "never shown")
    code = "import sys; print(*range(100), sep=chr(10), flush=True); sys.exit('no such index')"
    with pytest.raises(environment.SetupError) as failed:
        environment.run([sys.executable, "-c", code], log, "check the network")
    lines = str(failed.value).splitlines()
    assert len(lines) == environment.SHOWN + 1
    assert lines[-2] == "no such index"
    assert lines[-1] == f"make setup: check the network (all of it: {log})"
    assert "an earlier step" not in str(failed.value)


def test_the_environments_programs_are_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    native.use_environment_tools()
    assert os.environ["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/nowhere"]

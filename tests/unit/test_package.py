"""What is shipped: wheel and sdist hold all that the program needs, and run from a folder that has nothing else of r0."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without network or isolation from a copy of the sources."""
    source, out = tmp_path_factory.mktemp("source") / "r0", tmp_path_factory.mktemp("dist")
    source.mkdir()
    for name in ("r0", "docs", "launch", "tests", "benchmarks", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=LEFT)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, source / path.name)
    code = "from setuptools import build_meta as b; import sys; out = sys.argv[1]; b.build_wheel(out); b.build_sdist(out)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module", params=["*.whl", pytest.param("*.tar.gz", marks=pytest.mark.slow)])
def installed(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed r0 and nothing else, from the wheel or from the sdist; the program is in its bin/."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder)]
    done = subprocess.run([*pip, str(next(built.glob(request.param)))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def r0(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program in a folder without the sources; libraries are this environment's."""
    settings = {**os.environ, "PYTHONPATH": str(installed)}
    program = str(installed / "bin" / "r0")
    return subprocess.run([program, *arguments], cwd=installed.parent, env=settings, capture_output=True, text=True)


def test_what_is_installed_runs_help_and_the_demos_dry_run(installed: Path) -> None:
    shown = r0(installed, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "usage: r0 COMMAND" in shown.stdout
    assert str(installed) in r0(installed, "demo", "--help").stdout  # the shipped configuration that it names
    plan = r0(installed, "demo", "--dry-run")
    assert (plan.returncode, plan.stderr) == (0, "")
    assert plan.stdout.endswith("nothing is missing\n")  # so the embedded model is there


def test_what_is_installed_has_configurations_model_types_and_licence(installed: Path) -> None:
    for folder in ("configs", "assets"):
        shipped = {path.relative_to(ROOT) for path in (ROOT / "r0" / folder).rglob("*") if path.is_file()}
        assert shipped
        assert {path for path in shipped if not (installed / path).is_file()} == set()
    assert (installed / "r0" / "py.typed").is_file()
    info = next(installed.glob("*.dist-info"))
    metadata = Parser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert (info / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "r0 = r0.launch:main" in (info / "entry_points.txt").read_text()
    assert {"cpu", "gpu", "docs"} <= set(metadata.get_all("Provides-Extra"))
    assert not (installed / "tests").exists()


def test_the_sdist_has_what_building_and_reading_it_takes(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = (
        "LICENSE",
        "CHANGELOG.md",
        "constraints.txt",
        "overrides.txt",
        "Makefile",
        "docs/index.md",
        "launch/Dockerfile",
        "r0/py.typed",
    )
    assert {name for name in files if name not in names} == set()

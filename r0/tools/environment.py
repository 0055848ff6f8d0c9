"""Make the virtual environment: ``PYTHON r0/tools/environment.py VENV EXTRA…``. Standard library only: it runs first.

``PYTHON r0/tools/environment.py VENV --requirements FILE --over R0VENV`` makes one with the packages of FILE over those of an
environment that has r0: for the programs that use r0. Packages of both have r0's versions.

The packages come from the indexes in this machine's pip settings, with the versions of constraints.txt. uv does not read pip's
settings, so they are passed to it at run time and stored nowhere. torch is the CPU build, from these indexes if they have it,
else from PyTorch's index.

The terminal shows a few lines. The output of pip and uv goes to setup.log in the environment; if a step fails, its last lines are
shown.
"""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

UV = "uv==0.13.8"
TORCH = "torch==2.13.0"
SUPPORTED = ((3, 11), (3, 12))
LOG = "setup.log"  # in the environment
SHOWN = 15  # lines of a failed step that are shown
ROOT = Path(__file__).resolve().parents[2]


class SetupError(Exception):
    """A one-sentence error with the remedy."""


def main(arguments: list[str]) -> int:
    """Create or complete the environment; returns the exit code."""
    venv, extras = Path(arguments[0]), arguments[1:]
    try:
        if sys.version_info[:2] not in SUPPORTED:
            raise SetupError(f"Python {platform.python_version()} is not supported; r0 needs 3.11 or 3.12 (make setup PYTHON=…)")
        python = make_venv(venv)
        if extras[:1] == ["--requirements"]:
            install_listed(python, Path(extras[1]))
            put_over(python, Path(extras[3]))
        else:
            install(python, extras)
    except SetupError as error:
        print(error if "\n" in str(error) else f"make setup: {error}", file=sys.stderr)
        return 2
    return 0


def make_venv(venv: Path) -> Path:
    """The environment's Python, with pip and uv installed; an environment of another Python is recreated."""
    python = venv / "bin" / "python"
    if not _same_python(python):
        shutil.rmtree(venv, ignore_errors=True)
        say(f"virtual environment {venv}, Python {platform.python_version()}")
        venv.mkdir(parents=True, exist_ok=True)
        remedy = f"{sys.executable} -m venv failed; install the venv package of this Python (Debian: python3-venv)"
        run([sys.executable, "-m", "venv", str(venv)], venv / LOG, remedy)
    remedy = f"pip could not install {UV}; check the network, or pip's index settings (pip config list)"
    run([str(python), "-m", "pip", "install", UV], venv / LOG, remedy)
    return python


def install(python: Path, extras: list[str]) -> None:
    """Install r0 (editable) with ``extras`` and the versions of constraints.txt."""
    venv = python.parent.parent
    environment = {**os.environ, **uv_settings(pip_settings(python)), "VIRTUAL_ENV": str(venv.resolve())}
    uv = [str(python.parent / "uv"), "pip"]
    backend = [] if has_cpu_torch(uv, environment) else ["--torch-backend", "cpu"]
    say(f"packages{', torch from the CPU index of PyTorch' if backend else ''} (what is done is written to {venv / LOG})")
    wanted = [f"{ROOT}[{','.join(extras)}]"] if extras else [str(ROOT)]
    limits = ["--constraints", str(ROOT / "constraints.txt"), "--overrides", str(ROOT / "overrides.txt")]
    # Compiled now: every worker process imports these, and some machines do not let Python keep what it compiles.
    command = [*uv, "install", "--python", str(python), "--compile-bytecode", *backend, *limits, "--editable", *wanted]
    remedy = "the packages could not be installed, for the reason above; check the network or pip's index settings"
    run(command, venv / LOG, remedy, environment)
    say("packages are installed")


def install_listed(python: Path, requirements: Path) -> None:
    """Install the packages that a file lists, in the versions of constraints.txt."""
    venv = python.parent.parent
    environment = {**os.environ, **uv_settings(pip_settings(python)), "VIRTUAL_ENV": str(venv.resolve())}
    say(f"packages of {requirements} (what is done is written to {venv / LOG})")
    limits = ["--constraints", str(ROOT / "constraints.txt")]
    command = [str(python.parent / "uv"), "pip", "install", "--python", str(python), *limits, "--requirements", str(requirements)]
    remedy = "the packages could not be installed, for the reason above; check the network or pip's index settings"
    run(command, venv / LOG, remedy, environment)
    say("packages are installed")


def put_over(python: Path, below: Path) -> None:
    """Let an environment import the packages of the environment ``below`` too, behind its own."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own, other = (
        subprocess.run([one, "-c", code], text=True, capture_output=True, check=True).stdout.strip()
        for one in (python, below / "bin" / "python")
    )
    (Path(own) / "r0.pth").write_text(f"import site; site.addsitedir({other!r})\n", encoding="utf-8")


def run(command: list[str], log: Path, remedy: str, environment: Mapping[str, str] | None = None) -> None:
    """Run one step; its output is appended to ``log``.

    Raises:
        SetupError: the last lines that it printed, and ``remedy``.
    """
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        began = file.tell()
        failed = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if failed:
        printed = log.read_bytes()[began:].decode("utf-8", "replace").splitlines()
        raise SetupError("\n".join([*printed[-SHOWN:], f"make setup: {remedy} (all of it: {log})"]))


def has_cpu_torch(uv: list[str], environment: Mapping[str, str]) -> bool:
    """Whether the configured indexes have torch's CPU build for this Python (a separate build exists only for Linux)."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return True
    command = [*uv, "compile", "-", "--no-deps", "--quiet", "--python-version", "{}.{}".format(*sys.version_info[:2])]
    probe = subprocess.run(command, input=f"{TORCH}+cpu\n", text=True, env=environment, capture_output=True, check=False)
    return probe.returncode == 0


def pip_settings(python: Path) -> dict[str, str]:
    """pip's settings in force, by name (``index-url``, ``find-links``, …): its files, with PIP_* variables over them."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], text=True, capture_output=True, check=False).stdout
    found: dict[str, dict[str, str]] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        try:
            found.setdefault(section, {})[key] = str(ast.literal_eval(value))
        except (SyntaxError, ValueError):
            continue
    return {**found.get("global", {}), **found.get("install", {}), **found.get(":env:", {})}


def uv_settings(pip: Mapping[str, str]) -> dict[str, str]:
    """The same settings as uv's environment variables; UV_* variables that are already set stay."""
    settings = {}
    if pip.get("index-url"):
        settings["UV_DEFAULT_INDEX"] = pip["index-url"].strip()
    if pip.get("extra-index-url"):  # pip takes the best version of all indexes, uv would stop at the first
        settings.update(UV_INDEX=" ".join(pip["extra-index-url"].split()), UV_INDEX_STRATEGY="unsafe-best-match")
    if pip.get("find-links"):
        settings["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        settings["UV_NO_INDEX"] = "1"
    if pip.get("cert"):
        settings["SSL_CERT_FILE"] = pip["cert"].strip()
    if pip.get("trusted-host"):
        settings["UV_INSECURE_HOST"] = " ".join(pip["trusted-host"].split())
    if pip.get("proxy"):
        settings.update(HTTP_PROXY=pip["proxy"].strip(), HTTPS_PROXY=pip["proxy"].strip())
    return {name: value for name, value in settings.items() if name not in os.environ}


def say(what: str) -> None:
    """Print a line of progress."""
    print(f"make setup: {what}", flush=True)


def _same_python(python: Path) -> bool:
    code = "import sys, pip; print(sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return answer.stdout.strip() == str(tuple(sys.version_info[:2]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

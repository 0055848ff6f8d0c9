"""Shell completion: what bash offers, and what all three scripts are made of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from r0.commands.completion import bash, fish, words, zsh
from r0.launch import COMMANDS, main


def offered(tmp_path: Path, *typed: str) -> list[str]:
    """What bash offers for the last of the words typed; ``=`` is a word of its own there."""
    (tmp_path / "r0.bash").write_text(bash())
    script = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _r0; printf "%s\\n" "${COMPREPLY[@]}"'
    line = ["bash", "-c", script, str(tmp_path / "r0.bash"), *typed]
    return subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (("r0", "st"), ["stage_a", "stage_b", "stage_c"]),
        (("r0", "distill", "sc"), ["score"]),
        (("r0", "distill", "score", "model_p"), ["model_preset="]),
        (("r0", "stage_a", "reward.acc"), ["reward.acc_weight="]),
        (("r0", "stage_a", "algo", "="), ["ppo", "grpo"]),
        (("r0", "stage_a", "algo", "=", "g"), ["grpo"]),
        (("r0", "stage_a", "algo=g"), ["algo=grpo"]),  # as zsh has it
        (("r0", "eval", "--dry"), ["--dry-run"]),
        (("r0", "completion", "f"), ["fish"]),
        (("r0", "eval", "runs", "=", "r0."), ["r0.bash"]),  # a file
    ],
)
def test_bash_completes_commands_keys_and_values(tmp_path, typed, found):
    assert offered(tmp_path, *typed) == found


def test_every_command_can_be_completed():
    assert {name.split()[0] for name in COMMANDS} == set(words()[""])
    assert set(COMMANDS) < set(words())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_door_prints_each_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == {"bash": bash, "zsh": zsh, "fish": fish}[shell]()


@pytest.mark.parametrize(("shell", "script"), [("bash", bash), ("zsh", zsh), ("fish", fish)])
def test_the_shell_can_read_its_script(shell, script, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    (tmp_path / "script").write_text(script())
    assert subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True).stderr == ""


def test_a_shell_that_r0_does_not_know_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "'bash', 'zsh' or 'fish'" in capsys.readouterr().err

"""The launcher: help without torch, exit codes, positionals and the --some-key form."""

import subprocess
import sys
from pathlib import Path

import pytest

from r0.errors import UserError
from r0.launch import COMMANDS, main, parse
from r0.overview import EXAMPLES, GROUPS


def test_help_imports_neither_torch_nor_vllm_nor_ray():
    code = (
        "import sys; from r0.launch import main; main(['--help']); main(['stage_a', '--help']);"
        "print([name for name in ('torch', 'vllm', 'ray', 'transformers', 'deepspeed') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("[]")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_key(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for key, field in COMMANDS[name].config.model_fields.items():
        assert f"  {key}" in shown
        assert field.description


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stage_aa"], "unknown command stage_aa; did you mean stage_a?"),
        (["distil", "score"], "unknown command distil; did you mean distill score?"),
        (["esci", "evl"], "unknown command esci evl; did you mean esci eval?"),
        (["stage_a", "learning_rat=1"], "did you mean learning_rate?"),
        (["stage_a", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["stage_a", "--learning-rate"], "a value is missing"),
        (["stage_a", "a.yaml", "b.yaml"], "takes one configuration file"),
        (["convert", "a", "b", "c"], "not also c"),
        (["convert", "a"], "output is missing"),
        (["rollouts"], "run is missing"),
    ],
)
def test_bad_input_gives_a_one_sentence_error_and_exit_code_2(arguments, words, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_dashes_are_the_same_as_key_value():
    one, _ = parse("stage_a", ["--learning-rate", "1e-4", "--skip-bad", "--rollout.workers=2", "--dry-run"])
    two, _ = parse("stage_a", ["learning_rate=1e-4", "skip_bad=true", "rollout.workers=2"])
    assert one == two
    assert parse("stage_a", ["--dry-run"])[1] is True


def test_positionals_become_keys():
    config, _ = parse("convert", ["raw.jsonl", "rows.jsonl", "--max-think-chars", "1200000"])
    assert (config.input, config.output, config.max_think_chars) == ("raw.jsonl", "rows.jsonl", 1_200_000)


def test_unexpected_faults_keep_their_traceback(monkeypatch, tmp_path):
    def broken(config, dry_run):
        raise ZeroDivisionError

    monkeypatch.setattr("r0.commands.rollouts.run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["rollouts", str(tmp_path)])


def test_without_arguments_the_commands_are_shown_in_groups_with_examples(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert {command.group for command in COMMANDS.values()} == set(GROUPS)
    assert [line.split(":")[0] for line in shown.splitlines() if line.split(":")[0] in GROUPS] == list(GROUPS)
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert shown.count("\n  r0 ") == len(EXAMPLES) == 3


@pytest.mark.parametrize("example", [line for line, _ in EXAMPLES])
def test_the_examples_are_commands_that_the_door_takes(example, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    arguments = example.split()[1:]
    parse(arguments[0], arguments[1:])


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)


def test_a_warm_start_on_lists_does_not_get_the_prompt_of_pairs(capsys):
    pairs, lists = parse("sft", [])[0], parse("sft", ["--answer", "scores"])[0]
    assert "yes or no" in pairs.system_prompt or "exactly yes" in pairs.system_prompt
    assert (lists.answer, lists.system_prompt, lists.max_prompt_tokens) == (
        "scores",
        "",
        parse("stage_b", [])[0].max_prompt_tokens,
    )
    assert parse("sft", ["answer=yes_no"])[0].system_prompt == pairs.system_prompt
    main(["sft", "--help"])
    assert "(lists: sft_lists.yaml)" in capsys.readouterr().out

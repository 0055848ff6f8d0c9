"""The launcher: help without torch, exit codes, positionals and the --some-key form."""

import subprocess
import sys
from pathlib import Path

import pytest

from r0.config.describe import keys
from r0.config.types import names_files
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
        (["stageA"], "unknown command stageA; did you mean stage_a?"),
        (["Stage-B", "seed=1"], "did you mean stage_b?"),
        (["help", "stage_aa"], "did you mean stage_a?"),
        (["stage_a", "learning_rat=1"], "did you mean learning_rate?"),
        (["stage_a", "-n"], "-n: unknown option; did you mean --dry-run?"),
        (["stage_a", "--dryrun"], "--dryrun: unknown option; did you mean --dry-run?"),
        (["stage_a", "-x"], "-x: unknown option; the options are --dry-run, --gpu-memory, --help"),
        (["stage_a", "model", "=", "r0-tiny"], "without blanks around the equals sign: model=r0-tiny"),
        (["stage_a", "model=", "r0-tiny"], "without blanks around the equals sign: model=r0-tiny"),
        (["stage_a", "model", "=r0-tiny"], "without blanks around the equals sign: model=r0-tiny"),
        (["stage_a", f"seed={2**70}"], "seed: input should be less than or equal to 2147483647"),
        (["stage_a", f"batch_size={2**31}"], "batch_size: input should be less than or equal to 2147483647"),
        (["stage_a", f"max_steps={10**30}"], "max_steps: input should be less than or equal to 2147483647"),
        (["stage_a", "epochs=1e300"], "epochs: input should be less than or equal to 1000000"),
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


@pytest.mark.parametrize("line", ["stage_a help", "help stage_a", "-h stage_a", "stage_a -h"])
def test_help_may_stand_before_or_behind_the_command(line, capsys):
    assert main(line.split()) == 0
    assert capsys.readouterr().out.startswith("usage: r0 stage_a ")


def test_an_interruption_without_a_reason_is_said(monkeypatch, capsys, tmp_path):
    def interrupted(config, dry_run):
        raise KeyboardInterrupt

    monkeypatch.setattr("r0.commands.rollouts.run", interrupted)
    assert main(["rollouts", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "r0: interrupted\n"


@pytest.mark.parametrize(
    ("command", "override", "found"),
    [
        ("stage_a", "data=~/rows.jsonl", lambda config: config.data),
        ("stage_a", "run=~/rows.jsonl", lambda config: config.run),
        ("mine", "data=~/rows.jsonl", lambda config: config.data),
        ("finetune", "validation=~/rows.jsonl", lambda config: config.validation),
        ("distill score", "data=~/rows.jsonl", lambda config: config.data),
    ],
)
def test_the_home_directory_is_meant_by_a_tilde(command, override, found, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert found(parse(command, [override])[0]) == "/home/someone/rows.jsonl"


def test_the_home_directory_is_meant_by_a_tilde_in_a_file_and_in_a_list(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/someone")
    (tmp_path / "run.yaml").write_text("qrels: [~/a.tsv]\nruns: [~/b.trec, c.trec]\noutput: ~/table.txt\n")
    config = parse("eval", [str(tmp_path / "run.yaml"), "per_query=~/d.jsonl"])[0]
    assert (config.runs, config.output, config.per_query) == (
        ("/home/someone/b.trec", "c.trec"),
        "/home/someone/table.txt",
        "/home/someone/d.jsonl",
    )
    assert parse("eval", ["qrels=~/a.tsv,~/b.tsv", "runs=x"])[0].qrels == ("/home/someone/a.tsv", "/home/someone/b.tsv")


def test_every_key_that_names_a_file_takes_a_tilde():
    """Keys whose meaning speaks of a file or a folder, with those that the text of a model or a mirror names."""
    for name, command in COMMANDS.items():
        for path, field in keys(command.config):
            meaning = (field.description or "").lower()
            if not path.startswith(("ray.", "rollout.")) and meaning.startswith(
                ("file", "folder", "model: a folder", "run dir", "trec run")
            ):
                assert names_files(field) is not None or "str" not in str(field.annotation), (name, path)


def test_positionals_become_keys():
    config, _ = parse("convert", ["raw.jsonl", "rows.jsonl", "--max-think-chars", "1200000"])
    assert (config.input, config.output, config.max_think_chars) == ("raw.jsonl", "rows.jsonl", 1_200_000)


@pytest.mark.parametrize("name", ["sft😀", "läufe", "a, b", '"', "\udcff", "\x7f", "010"])
def test_the_names_of_several_words_are_taken_as_they_are_written(name):
    assert parse("report", [name])[0].runs == (name,)
    assert parse("report", ["other", name])[0].runs == ("other", name)


def test_a_file_or_a_folder_whose_name_has_an_equals_sign_is_no_key(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/lr=1", "lr=1", "seed=1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lr=1.yaml").write_text("seed: 7\n")
    assert parse("rollouts", ["runs/lr=1", "step=000012"])[0].run == "runs/lr=1"
    assert parse("report", ["lr=1", "runs/lr=1", "samples=2"])[0].runs == ("lr=1", "runs/lr=1")
    assert parse("stage_a", ["lr=1.yaml"])[0].seed == 7
    assert parse("stage_a", ["seed=1", "output=seed=1"])[0].seed == 1  # the folder of the run before
    assert parse("rollouts", ["./seed=1"])[0].run == "./seed=1"


@pytest.mark.parametrize("command", ["stage_a", "esci"])
def test_a_value_may_be_longer_than_a_files_name_can_be(command):
    words = "think " * 1000
    assert parse(command, [f"system_prompt={words}", "data=rows.jsonl"])[0].system_prompt == words


def test_a_key_that_can_be_true_takes_the_value_behind_it_and_no_other_word(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 7\n")
    for words, meant in ((["5-7"], "5-7"), (["5"], "5"), (["true"], True), (["false"], False), ([], True)):
        config, dry_run = parse("stage_a", [str(path), "--profile", *words, "--dry-run"])
        assert (config.profile, config.seed, dry_run) == (meant, 7, True)
    config, _ = parse("stage_a", ["--profile", str(path)])
    assert (config.profile, config.seed) == (True, 7)


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

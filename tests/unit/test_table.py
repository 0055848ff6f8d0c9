"""The table of held-out figures before and after a run."""

from __future__ import annotations

import json

import pytest

from r0.commands import demo, stage_b, stage_c
from r0.commands.table import before_and_after
from r0.launch import parse

NO_QUERY = "no held-out evaluation was made (no query is held out; raise heldout_share)\n"


def test_the_first_and_the_last_evaluation_are_compared_and_what_one_lacks_is_left_out(tmp_path):
    lines = [
        {"step": 0, "heldout/reward": 0.25, "heldout/new": None},
        {"step": 1, "heldout/reward": 9.0},
        {"step": 2, "heldout/reward": 0.75, "heldout/new": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    head, row = before_and_after(tmp_path, [("reward", "reward"), ("new", "new")]).splitlines()
    assert head.split()[-4:] == ["before", "after", "RL", "change"]
    assert row.split() == ["reward", "0.250", "0.750", "+0.500"]


@pytest.mark.parametrize(
    ("command", "name", "settings", "said"),
    [
        (stage_b, "stage_b", ["eval.every=0"], "no held-out evaluation was made (eval.every=0)\n"),
        (stage_b, "stage_b", ["heldout_share=0"], NO_QUERY),
        (demo, "demo", ["eval.every=0"], "no held-out evaluation was made (eval.every=0)\n"),
        (demo, "demo", ["heldout_share=0"], NO_QUERY),
        (stage_c, "stage_c", ["heldout_share=0"], NO_QUERY),  # which has no eval.every
    ],
)
def test_a_run_without_evaluations_says_which_key_is_the_reason(tmp_path, monkeypatch, capsys, command, name, settings, said):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    monkeypatch.setattr("r0.supervised.stage_c.run.run", lambda config: tmp_path)
    if command is not stage_c:
        monkeypatch.setattr(command, "train", lambda *arguments, **more: 0)
    config, _ = parse(name, [*settings, f"output={tmp_path}"])
    assert command.run(config, dry_run=False) == 0
    assert capsys.readouterr().out == said

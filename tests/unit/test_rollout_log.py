from __future__ import annotations

import gzip
import json
import math
import os
import random
import subprocess
import sys
import time
import zlib
from dataclasses import replace

import pytest

from r0.commands.rollouts import run
from r0.config import RewardSection, RolloutsConfig, StageAConfig
from r0.errors import UserError
from r0.launch import main
from r0.records import (
    Finish,
    Form,
    ListLabel,
    ListwiseTask,
    PointwiseTask,
    Prompt,
    Rollout,
    Sampled,
    Scored,
    Verdict,
    Violation,
)
from r0.rewards import make_reward
from r0.runs.metrics import rollout_metrics
from r0.runs.rollout_log import RolloutLog, steps_text
from r0.runs.rollout_view import safe
from r0.sampling import grouped
from r0.storage.rollout_lines import read_rollouts

HOSTILE = "a\x1b[2J\x07b\u202ec [red]d[/red] \ud800"


def scored(group=0, sample=0, label=1, answer="yes", total=1.2, violations=(), finish=Finish.STOP, **more) -> Scored:
    task = PointwiseTask(10 + group, more.get("query", "query?"), more.get("document", "a document"), label, kind="plain")
    prompt = Prompt((1, 2, 3 + group), "<think>", cut_tokens=more.get("cut_tokens", 0))
    sampled = Sampled((7, 8, 9), (-0.125, -1.2345678806304932, -3.000000026176508e-09), finish, 4)
    verdict = Verdict(answer, more.get("think_tokens", 80), True, frozenset(violations))
    text = more.get("text", f"<think>because</think><answer>{answer}</answer>")
    return Scored(Rollout(task, group, sample, prompt, sampled), text, verdict, {"format": 0.4, "accuracy": total - 0.4}, total)


BATCH = [
    scored(0, 0),
    scored(0, 1, answer="no", total=0.7),
    scored(1, 0, label=0, answer=None, total=-0.8, violations=[Violation.NO_ANSWER, Violation.CUT], finish=Finish.LENGTH),
    scored(1, 1, label=0, answer=None, total=-0.8, violations=[Violation.NO_ANSWER]),
]


def listed(group, form, answer=None, ranking=None, scores=None, violations=(), documents=("a [b]", "c", "d")) -> Scored:
    task = ListwiseTask(10 + group, "query?", documents, ListLabel((0.0, 2.0, 0.5), (0, 2, 1), 0.5), form, kind="list")
    verdict = Verdict(answer, 80, True, frozenset(violations), ranking, scores)
    sampled = Sampled((7, 8, 9), (-0.125, -1.25, -3.000000026176508e-09), Finish.STOP, 4)
    text = f"<think>because</think><answer>{answer}</answer>"
    rollout = Rollout(task, group, 0, Prompt((1, 2, 3), "<think>", cut_tokens=5), sampled)
    return Scored(rollout, text, verdict, {"tags": 0.1, "ndcg": 0.8}, 0.9)


LISTS = [
    listed(0, Form.PERMUTATION, "[2] > [1] = [3]", ((1,), (0, 2))),
    listed(1, Form.PICK, "[2]", ((1,),)),
    listed(2, Form.SCORES, '{"1": 3, "2": 9.5, "3": 3}', ((1,), (0, 2)), (3.0, 9.5, 3.0)),
    listed(3, Form.PERMUTATION, violations=[Violation.MISSING_ID]),
]


@pytest.fixture
def log(tmp_path):
    (tmp_path / "rollouts").mkdir()
    return RolloutLog(tmp_path / "rollouts", decode=lambda ids: f"prompt of {len(ids)}")


def write(log: RolloutLog, step: int, scored: list[Scored]):
    return log.write(step, grouped(scored))


def metrics_of(scored: list[Scored]) -> dict[str, float]:
    return rollout_metrics(grouped(scored))


# --- metrics


def test_metrics_are_what_a_person_would_count():
    metrics = metrics_of(BATCH)
    assert metrics["reward"] == pytest.approx((1.2 + 0.7 - 1.6) / 4)
    assert metrics["reward/format"] == pytest.approx(0.4)
    assert metrics["accuracy"] == 0.25
    assert metrics["accuracy_answered"] == metrics["accuracy_well_formed"] == 0.5
    assert metrics["format_rate"] == metrics["well_formed_rate"] == 0.5
    assert metrics["yes_share"] == metrics["constant_answer"] == metrics["zero_spread_share"] == 0.5
    assert metrics["cut_share"] == 0.25
    assert metrics["tokens"] == 12
    assert metrics["think_tokens"] == 80


def test_metrics_of_nothing_and_of_nothing_right_are_total():
    assert metrics_of([]) == {}
    metrics = metrics_of(BATCH[2:3])
    assert math.isnan(metrics["accuracy_well_formed"])
    assert "zero_spread_share" not in metrics  # one sample has no spread to miss


def test_an_answer_with_extra_text_is_answered_but_not_well_formed():
    metrics = metrics_of([scored(violations=[Violation.EXTRA_TEXT]), scored(answer="no")])
    assert (metrics["accuracy_answered"], metrics["accuracy_well_formed"]) == (0.5, 0.0)


# --- writing and reading


def test_rollouts_are_read_as_they_were_written(log):
    odd = scored(2, text=HOSTILE, query="запрос\u2028", document='{"a": 1}\n')
    odd = replace(odd, rollout=replace(odd.rollout, sampled=replace(odd.rollout.sampled, logprobs=(-0.5, -(2.0**-30), -20.0))))
    path = write(log, 12, [*BATCH, odd])
    assert path.name == "step-000012.jsonl.gz"
    logged = list(read_rollouts(path))
    assert [one.scored for one in logged] == [*BATCH, odd]
    assert {(one.step, one.prompt_text) for one in logged} == {(12, "prompt of 3")}


def test_lists_are_read_as_they_were_written(log):
    odd = listed(4, Form.PERMUTATION, documents=(HOSTILE, "\u2028", "[1]"))
    assert [one.scored for one in read_rollouts(write(log, 12, [*LISTS, odd]))] == [*LISTS, odd]


def test_logs_of_before_there_were_lists_are_read(log):
    path = write(log, 1, BATCH)
    records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert {record.pop("form") for record in records} == {"yes_no"}
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    assert [one.scored for one in read_rollouts(path)] == BATCH


def test_equal_rollouts_give_equal_bytes(log):
    first = write(log, 1, BATCH).read_bytes()
    time.sleep(1.1)  # gzip would keep the second it was written in
    assert write(log, 1, BATCH).read_bytes() == first


def test_a_logged_rollout_can_be_scored_again(log):
    reward = make_reward(StageAConfig().reward)
    right = scored()
    components = reward(right.verdict, 1)
    write(log, 1, [replace(right, components=components, total=sum(components.values()))])
    (one,) = read_rollouts(log.files()[1])
    assert reward(one.scored.verdict, one.scored.rollout.task.label) == one.scored.components
    assert make_reward(RewardSection(max_think_tokens=70, missing_eos_penalty=0.0))(one.scored.verdict, 1) != components


def test_non_finite_logprobs_are_valid_json(log):
    sampled = replace(BATCH[0].rollout.sampled, logprobs=(math.nan, -math.inf), token_ids=(7, 8))
    odd = replace(BATCH[0], rollout=replace(BATCH[0].rollout, sampled=sampled))
    path = write(log, 1, [odd])
    assert json.loads(gzip.decompress(path.read_bytes()), parse_constant=pytest.fail)["logprobs"] == [None, None]
    (one,) = read_rollouts(path)
    assert all(math.isnan(value) for value in one.scored.rollout.sampled.logprobs)


def test_resuming_drops_the_rollouts_of_later_steps(log):
    for step in (1, 2, 3):
        write(log, step, BATCH)
    (log.folder / "notes.txt").touch()
    log.resume(1)
    assert sorted(path.name for path in log.folder.iterdir()) == ["notes.txt", "step-000001.jsonl.gz"]


def test_a_large_batch_decodes_each_prompt_once_and_compresses_each_group_once_at_the_fastest_level(log, monkeypatch):
    decoded, levels, packer = [], [], zlib.compressobj
    monkeypatch.setattr(log, "_decode", lambda ids: decoded.append(ids) or f"prompt of {len(ids)}")
    monkeypatch.setattr(zlib, "compressobj", lambda level, **rest: levels.append(level) or packer(level, **rest))
    draw = random.Random(0)
    ids = [tuple(draw.randrange(150_000) for _ in range(2048)) for _ in range(16)]
    batch = []
    for i in range(128):
        one = scored(i // 8, i % 8, document="word " * 1600)
        logprobs = tuple(-draw.random() for _ in range(256))
        sampled = replace(one.rollout.sampled, token_ids=ids[i // 8][:256], logprobs=logprobs)
        prompt = replace(one.rollout.prompt, token_ids=ids[i // 8])
        batch.append(replace(one, rollout=replace(one.rollout, prompt=prompt, sampled=sampled)))
    path = write(log, 1, batch)
    assert sorted(decoded) == sorted(set(ids))
    assert levels == [1] * 16
    assert path.stat().st_size < 2e6
    assert len(list(read_rollouts(path))) == 128


# --- the command


def test_show_prints_the_newest_step(tmp_path, log, capsys):
    write(log, 3, BATCH[:1])
    write(log, 20, BATCH)
    assert main(["rollouts", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("step 20 (")
    assert "mean reward" in out
    assert "  accuracy " in out
    assert "share cut by the token limit" in out
    assert out.count("--- group") == 4
    assert "group 0 sample 1 · task 10 · label yes · answer no · reward 0.700 = format +0.40 accuracy +0.30" in out
    assert "violations: cut, no_answer" in out
    assert "completion: <think>because</think><answer>yes</answer>" in out
    assert "ids" not in out


def test_show_prints_lists_with_their_grades(tmp_path, log, capsys):
    write(log, 2, LISTS)
    assert main(["rollouts", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "nDCG@10 (no answer: the given order)" in out
    assert "  of the given order                         0.568" in out
    assert "  missing_id                                 0.250" in out
    assert "among well-formed completions 0.981" in " ".join(out.split())  # two with a tie of 0 and 0.5, one with 0 before 0.5
    assert "accuracy" not in out
    assert "group 1 sample 0 · task 11 · nDCG@10 0.972 (given order 0.568) · answer [2] · reward 0.900" in out
    assert "group 3 sample 0 · task 13 · nDCG@10 0.568 (given order 0.568) · answer none" in out
    assert "query: query?\n[1] grade 0: a [b]\n[2] grade 2: c\n[3] grade 0.5: d\ngiven order: [1] > [3] > [2]\n" in out
    assert "documents cut by 5 tokens" in out
    assert 'answer {"1": 3, "2": 9.5, "3": 3}' in out


def test_a_figure_over_nothing_is_none(tmp_path, log, capsys):
    write(log, 2, LISTS[3:])
    assert main(["rollouts", str(tmp_path)]) == 0
    assert "among well-formed completions none" in " ".join(capsys.readouterr().out.split())


def test_show_prints_the_worst_and_ids(tmp_path, log, capsys):
    write(log, 3, BATCH)
    assert main(["rollouts", str(tmp_path), "--step", "3", "--worst", "2", "--ids"]) == 0
    out = capsys.readouterr().out
    assert out.count("--- group 1") == out.count("--- group") == 2
    assert "rollouts                                         4" in out  # the summary is of the whole step
    assert "prompt ids: 1 2 4" in out
    assert "completion ids: 7 8 9" in out


def test_show_names_the_steps_that_are_there(tmp_path, log, capsys):
    for step in (10, 20, 30, 40):
        write(log, step, BATCH)
    assert main(["rollouts", str(tmp_path), "--step", "11"]) == 2
    assert "has no rollouts of step 11; choose one of steps 10, 20, … 40" in capsys.readouterr().err


def test_step_ranges_are_abbreviated():
    assert steps_text([7]) == "step 7"
    assert steps_text([1, 2, 9]) == "steps 1, 2, 9"
    assert steps_text([*range(1, 41)]) == "steps 1 to 40"
    assert steps_text([*range(1, 41), 45]) == "steps 1 to 40, 45"


def test_a_missing_run_or_one_without_rollouts_gives_a_one_sentence_error(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        run(RolloutsConfig(run=str(tmp_path / "nowhere")), False)
    with pytest.raises(UserError, match="contains no rollouts"):
        run(RolloutsConfig(run=str(tmp_path)), False)


def with_less(good: bytes) -> bytes:
    """The second rollout without its last log-probability."""
    lines = gzip.decompress(good).splitlines()
    row = json.loads(lines[1])
    lines[1] = json.dumps({**row, "logprobs": row["logprobs"][:-1]}).encode()
    return b"\n".join(lines)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda good: good[: len(good) // 2], "cannot be read"),
        (lambda good: b"no gzip", "cannot be read"),
        (lambda good: gzip.compress(gzip.decompress(good) + b"{}\n"), r"gz:5: is not a rollout"),
        (lambda good: gzip.compress(gzip.decompress(good) + b"\xff\n"), r"gz:5: is not a rollout"),
        (lambda good: gzip.compress(b"[1]\n"), r"gz:1: is not a rollout"),
        (lambda good: gzip.compress(with_less(good)), r"gz:2: is not a rollout of r0 .* tokens, but \d+ log-probabilities"),
    ],
)
def test_a_damaged_file_gives_a_one_sentence_error(tmp_path, log, damage, said):
    path = write(log, 1, BATCH)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=said):
        run(RolloutsConfig(run=str(tmp_path)), False)


def test_what_a_model_wrote_cannot_steer_the_terminal(tmp_path, log, capsys):
    assert safe("tab\tand\nline") == "tab\tand\nline"
    write(log, 1, [scored(text=HOSTILE, query=HOSTILE, document=HOSTILE)])
    run(RolloutsConfig(run=str(tmp_path)), False)
    out = capsys.readouterr().out
    assert "a\\x1b[2J\\x07b\\u202ec [red]d[/red] \\ud800" in out
    assert not set(out) & set("\x1b\x07\u202e\ud800")


@pytest.mark.parametrize("batch", [[scored(text=HOSTILE)], [replace(LISTS[0], text=HOSTILE), *LISTS[1:]]], ids=["pair", "lists"])
def test_on_a_terminal_there_are_frames_and_the_text_is_not_a_markup(tmp_path, log, batch):
    import pty

    write(log, 1, batch)
    code = "import sys\nfrom r0.launch import main\nsys.exit(main(['rollouts', sys.argv[1]]))\n"
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=slave, stderr=slave, env=environment)
    out = b""
    os.close(slave)
    while True:
        try:
            out += os.read(master, 65536)
        except OSError:  # the child has closed its end
            break
    os.close(master)
    assert child.wait(60) == 0, out.decode()
    assert "╭" in out.decode()
    assert "[red]d[/red]" in out.decode()
    assert "\x1b[2J" not in out.decode()


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path, log):
    write(log, 1, [scored(i // 8, i % 8, document="word " * 2000) for i in range(64)])
    code = "import sys\nfrom r0.launch import main\nsys.exit(main(['rollouts', sys.argv[1]]))\n"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline().startswith(b"step 1")
    child.stdout.close()
    errors = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(60) == 0
    assert errors == ""

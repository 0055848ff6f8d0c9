"""What annotation keeps, counts, writes and refuses."""

import json
from dataclasses import replace

import pytest

from r0 import launch
from r0.config import AnnotateConfig, ConvertConfig, DataKeys, RaySection, RolloutSection
from r0.config.load import load
from r0.data.convert import convert
from r0.data.formats import open_rows
from r0.data.source import open_source
from r0.errors import UserError
from r0.records import Answer, Form, Violation
from r0.rerank.job import Outcome
from r0.rerank.protocol import Question, Ranking, Reply
from r0.rerank.session import ask
from r0.storage.files import write_atomic
from r0.teacher.annotate import LABELLING_PROMPT, pairs_to_annotate, teacher_keys
from r0.teacher.annotate_output import write_raw_log, write_rows
from r0.teacher.annotate_pairs import Pairs
from r0.teacher.annotate_store import Annotations
from r0.teacher.annotate_totals import Totals
from r0.text.messages import SYSTEM_PROMPTS
from r0.text.prompt_file import save_prompt
from tests.architectures import build

YES, NO = Answer.YES, Answer.NO
ROWS = [("q", "a", 1), ("q", "b", 0), ("r", "a", 0), ("q", "c", 1), ("q", "d", 0), ("s", "a", None)]
# What the teacher says of each, sample by sample.
SAID = [["yes"], ["yes", "no"], ["no"], ["no", "", "yes"], ["yes", "yes", "yes"], ["", "no"]]


def data(folder, rows=ROWS):
    path = folder / "data.jsonl"
    made = [{"query": query, "document": text, **({} if label is None else {"label": label})} for query, text, label in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return Pairs(open_rows(AnnotateConfig(data=str(path)), 1, unlabelled=True))


def outcome(said, thought="because"):
    replies = []
    for number, word in enumerate(said):
        failures = frozenset() if word else frozenset({Violation.NO_ANSWER})
        reply = Reply(((0,),), None, None, failures, f"{thought} {number}", 30, Answer(word) if word else None, 10 * (number + 1))
        replies.append((Question((0,), Form.YES_NO, number), reply))
    return Outcome(0, Ranking.of_order((0,)), tuple(replies), 100, 30 * len(replies), 1.0)


def fill(path, pairs, totals, which=(0, 1, 2, 3, 4, 5)):
    done = Annotations(path, pairs, totals.add)
    for number, key in enumerate(pairs):
        if number in which and key not in done:
            done.add(key, pairs.known(pairs.row(key)), outcome(SAID[number], f"of {number}:"))
    return done


def test_the_table_counts_first_verdicts_agreement_lengths_and_rejected_samples(tmp_path):
    totals = Totals()
    fill(tmp_path / "annotations.jsonl", data(tmp_path), totals).close()
    assert totals.report().splitlines() == [
        "first verdict of a pair          yes          no  unreadable    agrees",
        "known label yes                    1           1           0     0.500",
        "known label no                     2           1           0     0.333",
        "no known label                     0           0           1",
        "agreement with the known label: 0.400 (0.400 of the readable verdicts)",
        "kept thoughts, in tokens: median 20, 10 % quantile 10, 90 % quantile 26",
        "samples: 12, 7 rejected (5 against the label, 2 unreadable)",
        "unreadable: no_answer 2",
        "5 of 6 pairs kept; 1 dropped: no sample was acceptable",
    ]
    figures = totals.summary()
    assert figures["first_verdicts"]["no/yes"] == 2
    assert (figures["agreement"], figures["new_tokens"], figures["kept"]) == (0.4, 360, {"no": 3, "yes": 2})
    json.dumps(figures)


def test_rows_are_what_sft_reads_in_the_order_of_the_data(tmp_path):
    pairs = data(tmp_path)
    done = fill(tmp_path / "annotations.jsonl", pairs, Totals())
    assert write_rows(tmp_path / "rows.jsonl", pairs, done) == f"{tmp_path / 'rows.jsonl'}: 5 rows (2 yes, 3 no)"
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[1] == {"query": "q", "document": "b", "think": "of 1: 1", "answer": "no", "label": 0}
    assert [(row["query"], row["document"], row["label"]) for row in rows] == [
        ("q", "a", 1), ("q", "b", 0), ("r", "a", 0), ("q", "c", 1), ("s", "a", 0)
    ]  # fmt: skip
    source = open_source(DataKeys(data=str(tmp_path / "rows.jsonl"), heldout_share=0.0), 1, with_thought=True)
    assert [task.think for task in source.tasks(with_thought=True)] == [row["think"] for row in rows]


def test_a_raw_log_converts_to_every_pair_once_and_counts_queries_without_a_place(tmp_path):
    pairs = data(tmp_path)
    done = fill(tmp_path / "annotations.jsonl", pairs, Totals())
    said = write_raw_log(tmp_path / "log.jsonl", pairs, done)
    assert said.endswith("log.jsonl: 2 lines; 2 queries (2 pairs) have no relevant document, and no place in a raw log")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["response"] for line in lines] == ["a", "c"]
    assert lines[0]["rejected_response"] == [{"document": "b", "thinking": "of 1: 1"}]
    assert lines[1]["rejected_response"] == []
    done = convert(ConvertConfig(input=str(tmp_path / "log.jsonl"), output=str(tmp_path / "rows.jsonl")))
    assert (done.yes, done.no, done.thoughts_empty) == (2, 1, 0)


def test_a_resumed_run_ends_in_the_same_bytes(tmp_path):
    pairs, totals = data(tmp_path), Totals()
    whole = fill(tmp_path / "whole.jsonl", pairs, Totals())
    write_rows(tmp_path / "whole", pairs, whole)
    fill(tmp_path / "cut.jsonl", pairs, Totals(), which=(4, 1)).close()
    with (tmp_path / "cut.jsonl").open("ab") as file:
        file.write(b'{"pair": "00')  # as a kill at a write leaves it
    again = fill(tmp_path / "cut.jsonl", pairs, totals)
    assert (totals.pairs, len(again)) == (6, 6)
    write_rows(tmp_path / "cut", pairs, again)
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("q", "other", 1), *ROWS[1:]], "the pair is no longer in the data"),
        ([("q", "a", 0), *ROWS[1:]], "the pair now has another label"),
        ([("q", "a", None), *ROWS[1:]], "the pair now has another label"),
    ],
)
def test_annotations_of_other_data_are_refused(tmp_path, rows, words):
    fill(tmp_path / "annotations.jsonl", data(tmp_path), Totals()).close()
    with pytest.raises(UserError, match=rf"annotations.jsonl:1: {words}; start over with fresh=true"):
        Annotations(tmp_path / "annotations.jsonl", data(tmp_path, rows), lambda row: None)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "annotations.jsonl"
    fill(path, data(tmp_path), Totals()).close()
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], '{"pair": 7}\n', *lines[2:]]))
    with pytest.raises(UserError, match=r"annotations.jsonl:2: is damaged"):
        Annotations(path, data(tmp_path), lambda row: None)


def test_a_file_written_in_parts_is_complete_or_missing(tmp_path):
    def parts():
        yield b"one\n"
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        write_atomic(tmp_path / "file", parts())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"samples": 2, "temperature": 0.0}, "set temperature=0.6, or samples=1"),
        ({"rollout": RolloutSection(workers=2), "ray": RaySection(inline=True)}, "set rollout.workers=1"),
        ({"samples": 0}, "samples"),
        ({"format": "csv"}, "format"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        AnnotateConfig(**keys)


def test_the_prompt_is_the_configured_one_or_the_models_or_the_labelling_prompt(tmp_path):
    config = AnnotateConfig(model="r0-tiny")
    assert teacher_keys(config, tmp_path).system_prompt == LABELLING_PROMPT != SYSTEM_PROMPTS[Form.YES_NO]
    save_prompt(tmp_path, Form.YES_NO, "As trained.", {})
    assert teacher_keys(config, tmp_path).system_prompt == "As trained."
    assert teacher_keys(AnnotateConfig(system_prompt="Mine."), tmp_path).system_prompt == "Mine."


def test_a_preset_brings_its_model():
    assert load(AnnotateConfig, None, ["model_preset=qwen3-0.6b"]).model == "Qwen/Qwen3-0.6B"
    with pytest.raises(UserError, match="but not annotate"):
        launch.parse("annotate", ["model_preset=bge-reranker-v2-m3"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model=/nowhere/model"], "there is no folder /nowhere/model"),
        (["data=/nowhere.jsonl"], "/nowhere.jsonl: no such file or folder"),
        (["run=/nowhere.trec"], "remove run"),
        (["max_new_tokens=4096"], "leaves no room for a prompt"),
        (["samples=2", "temperature=0"], "samples: with temperature=0"),
        (["sample=2"], "did you mean samples?"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, capsys, settings, words):
    assert launch.main(["annotate", "model=r0-tiny", "builtin_rows=4", f"output={tmp_path / 'run'}", *settings]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_model_that_only_scores_is_refused(tmp_path, capsys):
    model = build("bert-base-uncased", tmp_path / "model", head="score")
    assert launch.main(["annotate", f"model={model}", f"output={tmp_path / 'run'}"]) == 2
    assert "has a score head and generates no text" in capsys.readouterr().err


def test_a_dry_run_shows_the_placement_and_missing_input_and_writes_nothing(tmp_path, capsys):
    settings = ["model=r0-tiny", "rollout.workers=2", f"output={tmp_path / 'run'}", "--dry-run"]
    assert launch.main(["annotate", *settings]) == 0
    said = capsys.readouterr().out
    assert "2 × rollout: 1 CPU, 0 GPU each" in said
    assert said.endswith("nothing is missing\n")
    assert launch.main(["annotate", *settings, "data=/nowhere"]) == 0
    assert "data: there is no /nowhere" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


class Shy:
    """A reranker that cannot show the pairs of query r, and says no to all others."""

    def run(self, jobs, stop):
        for job in jobs:
            if stop():
                return
            done = replace(outcome(["no"]), key=job.key)
            refused = f"query {job.query_id}: max_prompt_tokens: too long; raise it"
            yield replace(done, replies=(), new_tokens=0, refused=refused) if job.query == "r" else done


def test_a_pair_that_cannot_be_shown_is_named_or_skipped_and_counted(tmp_path):
    pairs, totals = data(tmp_path), Totals()
    with (
        Annotations(tmp_path / "one.jsonl", pairs, lambda row: None) as done,
        pytest.raises(UserError, match=r'data.jsonl: query "r": max_prompt_tokens: too long; raise it; with skip_bad=true such'),
    ):
        ask(Shy(), pairs_to_annotate(1, pairs, done))
    with Annotations(tmp_path / "two.jsonl", pairs, totals.add) as done:
        session = ask(Shy(), pairs_to_annotate(1, pairs, done, skip_bad=True))
    assert (session.jobs, session.new_tokens) == (6, 5 * 30)
    shown = 'pairs that do not fit the prompt: 1\n  query "r": max_prompt_tokens: too long; raise it'
    assert totals.report().endswith(shown)
    assert "3 of 6 pairs kept; 2 dropped" in totals.report()
    with Annotations(tmp_path / "two.jsonl", pairs, lambda row: None) as again:
        assert len(again) == 6


def test_a_stopped_run_keeps_finished_pairs(tmp_path):
    pairs, asked = data(tmp_path), iter([False, False, True])
    with Annotations(tmp_path / "a.jsonl", pairs, lambda row: None) as done:
        assert ask(Shy(), pairs_to_annotate(1, pairs, done), lambda: next(asked)).jobs == 2
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 2


class Agreeing(Shy):
    """A reranker that says of each pair what its label says."""

    def run(self, jobs, stop):
        for job in jobs:
            yield replace(outcome([job.known or "no"]), key=job.key)


def test_a_finished_run_called_with_the_other_format_writes_it_from_its_annotations(tmp_path, monkeypatch, capsys):
    data(tmp_path)
    run = tmp_path / "run"
    arguments = ["annotate", "model=r0-tiny", f"data={tmp_path / 'data.jsonl'}", f"output={run}"]
    monkeypatch.setattr("r0.commands.annotate.finish", lambda keys, work, done, total, stop: ask(Agreeing(), work))
    assert launch.main([*arguments, "format=rows"]) == 0
    monkeypatch.setattr("r0.commands.annotate.finish", None)  # from here on nothing may be annotated
    annotations = (run / "annotations.jsonl").read_bytes()
    capsys.readouterr()
    assert launch.main([*arguments, "format=raw_log"]) == 0
    assert f"{run / 'raw_log.jsonl'}: 2 lines; 2 queries (2 pairs) have no relevant document" in capsys.readouterr().out
    assert [json.loads(line)["response"] for line in (run / "raw_log.jsonl").read_text().splitlines()] == ["a", "c"]
    for name, layout in (("raw_log.jsonl", "raw_log"), ("rows.jsonl", "rows")):
        assert launch.main([*arguments, f"format={layout}"]) == 0
        assert f"{run / name}: finished before" in capsys.readouterr().out
        assert (run / name).is_file()
    assert (run / "annotations.jsonl").read_bytes() == annotations
    (run / "rows.jsonl").unlink()
    (run / "annotations.jsonl").unlink()
    assert launch.main([*arguments, "format=rows"]) == 2
    assert "annotations.jsonl: lacks 6 pairs of the finished run; start over with fresh=true" in capsys.readouterr().err
    assert not (run / "rows.jsonl").exists()

"""benchmarks/real.py: the split keeps test queries out of training, a finished step is not made again, and the table has what was
measured. Steps that need no engine run for real, in this process; all of them, with models, in tests/ray/test_real.py."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import real
from benchmarks.real_parts.split import FOLDS, PARTS, divided
from benchmarks.real_parts.steps import Setting, plan
from benchmarks.real_parts.thoughts import thought
from r0.launch import COMMANDS, parse, take_command
from tests.real_data import here, real_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return real_data(tmp_path / "beir")


def arguments(data: Path, output: Path, *steps: str) -> list[str]:
    models = data.parent / "models"
    models.mkdir(exist_ok=True)
    return ["--data", str(data), "--model", str(models), "--encoder", str(models), "--output", str(output), "--steps", *steps]


def test_no_test_query_is_in_any_training_file(data: Path, tmp_path: Path) -> None:
    assert real.main(arguments(data, tmp_path / "out", "rows"), here) == 0
    made = tmp_path / "out" / "data"
    parts = {
        part: {line.split()[0] for line in (made / f"{part}.trec").read_text().splitlines()}
        for part in ("train", "validation", "test")
    }
    assert [len(queries) for queries in parts.values()] == [6, 2, 2]
    assert len(set.union(*parts.values())) == 10
    texts = {row["_id"]: row["text"] for row in map(json.loads, (made / "queries.jsonl").read_text().splitlines())}
    held = {texts[query] for query in parts["test"] | parts["validation"]}
    for name in ("train.jsonl", "raw_log.jsonl", "../rows.jsonl"):
        asked = {json.loads(line)["query"] for line in (made / name).read_text().splitlines()}
        assert asked >= {texts[query] for query in parts["train"]}, name
        assert not asked & held, name
    for part, queries in parts.items():
        assert {line.split()[0] for line in (made / "qrels" / f"{part}.tsv").read_text().splitlines()[1:]} == queries


def test_questions_are_made_of_documents_that_only_training_queries_have(data: Path, tmp_path: Path) -> None:
    assert real.main(arguments(data, tmp_path / "out", "bm25"), here) == 0
    made = tmp_path / "out" / "data"

    def rows(path: Path) -> dict[str, str]:
        return {row["_id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}

    candidates = {part: {line.split()[2] for line in (made / f"{part}.trec").read_text().splitlines()} for part in PARTS}
    whole, left, asked = (rows(made / name) for name in ("corpus.jsonl", "questions/corpus.jsonl", "questions/queries.jsonl"))
    assert set(left) == candidates["train"]
    assert not set(left) & (candidates["validation"] | candidates["test"])
    judged = [line.split("\t") for line in (made / "questions" / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    assert {query for query, _, _ in judged} == set(asked)
    for query, document, _ in judged:
        assert asked[query] in whole[document]
        assert asked[query] not in left[document]
        assert whole[document].startswith(left[document].split(". ")[0])  # the first sentence stays


def test_the_folds_split_by_ids_alone_and_each_query_is_a_test_query_once() -> None:
    queries = [f"q{number}" for number in range(43)]
    folds = [divided(queries, fold) for fold in range(FOLDS)]
    assert folds == [divided(reversed(queries), fold) for fold in range(FOLDS)]
    assert sorted(query for parts in folds for query in parts["test"]) == sorted(queries)
    for parts in folds:
        assert sorted(query for part in PARTS for query in parts[part]) == sorted(queries)
        assert len(parts["validation"]) == 6


def test_a_thought_says_what_a_document_is_about() -> None:
    assert thought("Bremen. It is a town. It has a quay.") == "The document is about Bremen."
    assert thought("Bremen.") == "The document is about Bremen."
    assert thought("The town of Bremen has a quay that is old.") == "The document is about The town of Bremen has a quay that."


def test_the_log_has_training_queries_and_as_many_made_questions(data: Path, tmp_path: Path) -> None:
    assert real.main(arguments(data, tmp_path / "out", "rows"), here) == 0
    made = tmp_path / "out" / "data"
    log = [json.loads(line) for line in (made / "raw_log.jsonl").read_text().splitlines()]
    training = {json.loads(line)["query"] for line in (made / "train.jsonl").read_text().splitlines()}
    real_ones = [row for row in log if row["query"] in training]
    assert {row["query"] for row in real_ones} == training
    assert len(log) == 2 * len(real_ones)
    for row in log:
        assert row["response"] not in [one["document"] for one in row["rejected_response"]]


def test_folds_are_pooled_over_all_their_queries(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [tmp_path / f"fold{fold}" for fold in range(FOLDS)]
    for fold, folder in enumerate(folders):
        assert real.main([*arguments(data, folder, "bm25", "whole_bm25"), "--fold", str(fold)], here) == 0
    own = [_figures((folder / "table.txt").read_text())["BM25"] for folder in folders]
    capsys.readouterr()
    assert real.main(["--pool", *map(str, folders)], here) == 0
    said = capsys.readouterr().out
    assert "10 test queries, their own candidates" in said
    assert _figures(said)["BM25"] == pytest.approx(sum(own) / FOLDS, abs=0.001)
    assert real.main(["--pool", str(folders[1]), str(folders[1])], here) == 2
    assert "two folders have the same fold (1, 1); their queries are the same" in capsys.readouterr().err
    assert real.main(["--pool", str(tmp_path / "none")], here) == 2
    assert "has no source.json; give the --output of a finished run" in capsys.readouterr().err
    changed = json.loads((folders[2] / "source.json").read_text()) | {"seed": "7"}
    (folders[2] / "source.json").write_text(json.dumps(changed))
    assert real.main(["--pool", *map(str, folders)], here) == 2
    assert f"{folders[2]} was made with another seed than {folders[0]}" in capsys.readouterr().err


def _figures(table: str) -> dict[str, float]:
    """The first figure of each row about the queries' own candidates."""
    rows = [re.split(" {2,}", line) for line in table.partition("the same queries")[0].splitlines()[1:]]
    return {row[0]: float(row[1].split()[0]) for row in rows if len(row) > 1}


def test_a_finished_step_is_not_made_again_and_a_failed_one_ends_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    asked: list[str] = []
    codes = {"whole_bm25": 3}

    def runner(words: Sequence[str], log: Path) -> int:
        asked.append(log.stem)
        return codes.get(log.stem, 0) or here(words, log)

    words = arguments(data, tmp_path / "out", "bm25", "whole_bm25", "rows")
    assert real.main(words, runner) == 3
    printed = capsys.readouterr()
    assert "whole_bm25.log" in printed.err
    assert "BM25" in printed.out
    codes.clear()
    assert real.main(words, runner) == 0
    assert asked == ["bm25", "whole_bm25", "whole_bm25", "rows"]
    assert " yes, " in (tmp_path / "out" / "logs" / "rows.log").read_text()


def test_the_table_has_the_constant_the_given_order_and_bm25(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert real.main(arguments(data, tmp_path / "out", "bm25", "whole_bm25"), here) == 0
    said = capsys.readouterr().out
    own, whole = said.partition("2 test queries, their own candidates")[2].split("the same queries, the whole corpus")
    assert [re.split(" {2,}", line)[0] for line in own.splitlines()[1:4]] == ["constant answer", "given order", "BM25"]
    assert whole.count("BM25") >= 1
    assert (tmp_path / "out" / "table.txt").read_text() in said


def test_without_bm25_the_table_has_what_was_measured(data: Path, tmp_path: Path) -> None:
    def ranker(words: Sequence[str], log: Path) -> int:
        """Ranks in the given order, in place of a model."""
        values = dict(word.partition("=")[::2] for word in words if "=" in word)
        Path(values["output"]).mkdir(parents=True)
        shutil.copy(values["run"], Path(values["output"]) / "run.trec")
        return 0

    assert real.main(arguments(data, tmp_path / "out", "zero_shot"), ranker) == 0
    figures = _figures((tmp_path / "out" / "table.txt").read_text())
    assert figures["models, untrained"] == figures["given order"] > 0
    assert "BM25" not in figures


def test_bad_arguments_give_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def refused(*words: str) -> str:
        assert real.main(list(words), here) == 2
        return capsys.readouterr().err

    assert "there is no BEIR folder" in refused("--data", str(tmp_path / "none"))
    assert "there is no step grpo; the steps are bm25" in refused(*arguments(data, tmp_path / "out", "grpo"))
    assert real.main(arguments(data, tmp_path / "out", "bm25"), here) == 0
    said = refused(*arguments(data, tmp_path / "out", "bm25"), "--seed", "7")
    assert f"{tmp_path / 'out'} was made with another seed; give another --output" in said
    (data / "second.trec").write_text("")
    assert "has 2 files *.trec; name the run of the candidates with --run" in refused("--data", str(data))


def test_every_step_has_a_command_and_a_configuration_that_loads(tmp_path: Path) -> None:
    at = Setting(tmp_path, real.ROOT / "configs" / "real", tmp_path / "model", tmp_path / "encoder", 1, gguf=tmp_path / "x.gguf")
    steps = plan(at)
    assert len({step.name for step in steps}) == len(steps)
    for step in steps:
        words = list(step.words)
        parse(take_command(words, COMMANDS), words)
    used = {Path(word).name for step in steps for word in step.words if word.endswith(".yaml")}
    assert used == {path.name for path in at.configs.glob("*.yaml")}

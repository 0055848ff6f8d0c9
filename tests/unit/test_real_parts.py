"""benchmarks/real.py: the split keeps test queries out of training, a finished step is not made again, and the table has what was
measured. Steps that need no engine run for real, in this process; all of them, with models, in tests/ray/test_real.py."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import real
from benchmarks.real_parts.split import PARTS, divided
from benchmarks.real_parts.steps import Setting, plan
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
        assert len(asked) == 6, name
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


def test_the_split_depends_on_ids_and_seed_alone() -> None:
    queries = [f"q{number}" for number in range(40)]
    assert divided(queries, 1) == divided(reversed(queries), 1)
    assert divided(queries, 1) != divided(queries, 2)


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
    assert "rows (6 yes, 6 no)" in (tmp_path / "out" / "logs" / "rows.log").read_text()


def test_the_table_has_the_constant_the_given_order_and_bm25(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert real.main(arguments(data, tmp_path / "out", "bm25", "whole_bm25"), here) == 0
    said = capsys.readouterr().out
    own, whole = said.partition("2 test queries, their own candidates")[2].split("the same queries, the whole corpus")
    assert [re.split(" {2,}", line)[0] for line in own.splitlines()[1:4]] == ["constant answer", "given order", "BM25"]
    assert whole.count("BM25") >= 1
    assert (tmp_path / "out" / "table.txt").read_text() in said


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

"""The columns of runs and judgements, grades, and the formats of judgements."""

from __future__ import annotations

import json

import pytest

from r0.data.grades import as_number, grade_of
from r0.data.jsonl import BadLine, BadLines
from r0.data.runfile import read_judgements, read_run
from r0.data.trec import Run
from r0.data.trec import read_qrels as hashed
from r0.errors import UserError
from r0.evaluation.judgements import open_judgements

NB, WIDE = "\u00a0", "\u3000"


def run_of(tmp_path, text):
    (tmp_path / "run").write_text(text, encoding="utf-8")
    found = read_run(tmp_path / "run", BadLines())
    assert len(Run(tmp_path / "run", BadLines())) == sum(map(len, found.values()))
    return found


def judged(tmp_path, text, name="qrels"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_judgements(tmp_path / name, BadLines())
    assert len(hashed(tmp_path / name, BadLines()).pairs) == sum(map(len, found.values()))
    assert open_judgements([tmp_path / name], [], BadLines()).grades == found
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"q1 Q0 doc{NB}{WIDE}one 1 2 t", {"q1": {f"doc{NB}{WIDE}one": 2.0}}),
        (f"q1\tQ0\t{NB}doc\t1\t2\tt", {"q1": {f"{NB}doc": 2.0}}),
        (f"q{NB}1   Q0 \t d 1 2 t{WIDE}u ", {f"q{NB}1": {"d": 2.0}}),
        ("q Q0 torch/Memory  Management_2_0.txt 7 0.6 t", {"q": {"torch/Memory  Management_2_0.txt": 0.6}}),
        ("q Q0 Iron Man 2 1 0.5 t", {"q": {"Iron Man 2": 0.5}}),
        ("q\tQ0\tIron Man 2\t1\t0.5\tmy tag", {"q": {"Iron Man 2": 0.5}}),
        ("q Q0 d1 1 3.0 my tag", {"q": {"d1": 3.0}}),
        ("q Q0 d e 1 3e-1 my tag", {"q": {"d e": 0.3}}),
        ("a query Q0 a document 1 3 t", {"a query": {"a document": 3.0}}),
        ("q Q0 Q0 1 3 t", {"q": {"Q0": 3.0}}),
        ("q Q0 d 1 -1.5 t\r", {"q": {"d": -1.5}}),
        ("#q Q0 #d 1 2 t", {"#q": {"#d": 2.0}}),
        ("# q Q0 e 1 2 t\n# six words that are a comment\n#\n#made by x\n\n  \nq Q0 d 1 2 t\n\n", {"q": {"d": 2.0}}),
        ("\ufeffq Q0 d 1 2 t\n", {"q": {"d": 2.0}}),
    ],
)
def test_only_blank_and_tab_separate_the_columns_of_a_run(tmp_path, line, expected):
    assert run_of(tmp_path, line) == expected


@pytest.mark.parametrize(
    "line", ["q Q0 d 1 2", "q x d e 1 2 t", "q Q0 a 1 2 b 1 2 my tag", "q Q0 d one 2.0 my tag", f"q{NB}Q0 d 1 2 t"]
)
def test_a_line_of_a_run_whose_columns_are_open_is_refused(tmp_path, line):
    with pytest.raises(UserError, match=r"run:1: \d+ columns where a run has 6"):
        run_of(tmp_path, line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"q1 doc{NB}one 1\n", {"q1": {f"doc{NB}one": 1.0}}),
        (f"q1 0 doc{WIDE}one 1\n", {"q1": {f"doc{WIDE}one": 1.0}}),
        ("q1 0 doc one two 1\n", {"q1": {"doc one two": 1.0}}),
        ("q1\tdoc one\t1\n", {"q1": {"doc one": 1.0}}),
        ("q1\tQ0\t26569#0\t1\n", {"q1": {"26569#0": 1.0}}),
        ("query-id\tcorpus-id\tscore\nq\td\t0.5\n", {"q": {"d": 0.5}}),
        ("# from TREC\nqid\titer\tdocid\trel\nq\t0\td\t-2\n", {"q": {"d": -2.0}}),
        ("query_id corpus_id score\r\nq d 1e-1\r\n\r\n", {"q": {"d": 0.1}}),
        ("q d true\nq e False\n", {"q": {"d": 1.0, "e": 0.0}}),
    ],
)
def test_judgements_in_columns(tmp_path, text, expected):
    assert judged(tmp_path, text) == expected


def test_four_columns_with_a_word_for_the_iteration_are_refused(tmp_path):
    with pytest.raises(
        UserError, match='qrels:1: the second of four columns is "doc", where judgements have 0; separate columns'
    ):
        judged(tmp_path, "q1 doc one 1\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"query-id": "q", "corpus-id": "d", "score": 2}\n{"query-id": "q", "corpus-id": 7, "score": 0.5}\n'),
        ("a.json", '[{"query_id": "q", "docid": "d", "relevance": 2}, {"query_id": "q", "docid": 7, "relevance": "0.5"}]'),
        ("a.csv", "query-id,corpus-id,score\nq,d,2\nq,7,0.5\n"),
    ],
)
def test_judgements_in_a_table(tmp_path, name, text):
    assert judged(tmp_path, text, name) == {"q": {"d": 2.0, "7": 0.5}}


def test_gold_ids_of_queries_are_judgements_of_grade_1_for_every_reader(tmp_path):
    rows = [{"id": "q", "query": "x", "gold_ids": ["a", "b"], "excluded_ids": ["N/A"]}]
    assert judged(tmp_path, json.dumps(rows[0]) + "\n", "a.jsonl") == {"q": {"a": 1.0, "b": 1.0}}


@pytest.mark.parametrize(
    ("value", "grade"),
    [(1, 1.0), (0.5, 0.5), (-1, -1.0), (True, 1.0), (False, 0.0), ("1", 1.0), (" 5e-1 ", 0.5), ("-.5", -0.5), ("True", 1.0)],
)
def test_a_grade_is_a_number_its_text_or_a_truth_value(value, grade):
    assert grade_of({"label": value}, "label") == grade


@pytest.mark.parametrize("value", [None, [], {}, "", "high", "1_0", "٣", "nan", "-inf", "1e999", 1 << 60, "0x1"])
def test_what_is_no_grade_is_refused(value):
    with pytest.raises(BadLine, match='"label"'):
        grade_of({"label": value}, "label")


def test_the_name_of_a_number_is_in_its_message():
    with pytest.raises(BadLine, match='the score "x" is not a number'):
        as_number("x", "the score")

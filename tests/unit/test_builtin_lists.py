"""The built-in task on lists: documents, thoughts, the first stage, the warm-start log, and the BEIR folder made of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from r0.config import ConvertConfig
from r0.data.builtin.convert import convert_builtin
from r0.data.builtin.lists import (
    LIST_FAULTS,
    MOST_CANDIDATES,
    ListFaults,
    builtin_list_task,
    checks_right,
    claimed_grades,
    honest_list_completion,
    linked_answer,
    named,
    warm_start_list_completion,
)
from r0.data.builtin.pairs import CONNECTED, concepts_of, kind_of
from r0.data.builtin.rows import BuiltinListRows
from r0.data.candidates import open_candidates
from r0.data.index import RELEVANT, THOUGHT
from r0.data.jsonl import BadLines
from r0.data.runfile import read_judgements
from r0.errors import UserError
from r0.launch import main
from r0.ranking import groups_of_order, ndcg
from r0.records import Form, ListLabel
from r0.text.answers import best_answer, read_strict

FORMS = (Form.PERMUTATION, Form.PICK, Form.SCORES)
TASKS = [builtin_list_task(row, 1, Form.PERMUTATION, 6) for row in range(1500)]
NO_FAULTS = ListFaults(0.0, 0.0, 0.0, 0.0)


def answer_of(completion: str) -> str:
    return completion.partition("<answer>")[2].partition("</answer>")[0]


def test_a_list_needs_no_list_before_it_and_is_the_same_in_every_form():
    assert builtin_list_task(1234, 1, Form.PERMUTATION, 6) == TASKS[1234]
    assert builtin_list_task(1234, 2, Form.PERMUTATION, 6) != TASKS[1234]
    for form in FORMS:
        task = builtin_list_task(7, 1, form, 6)
        assert (task.query, task.documents, task.label) == (TASKS[7].query, TASKS[7].documents, TASKS[7].label)
        assert task.form == form


@pytest.mark.parametrize("candidates", [2, 3, 6, 20, MOST_CANDIDATES])
def test_the_grades_follow_from_the_text_alone(candidates):
    for row in range(40):
        task = builtin_list_task(row, 3, Form.PERMUTATION, candidates)
        concepts = concepts_of(task.query)
        assert len(concepts) == 2
        assert len(set(task.documents)) == task.size == candidates
        assert tuple(float(len(named(concepts, document))) for document in task.documents) == task.label.grades
        assert sorted(task.label.given) == list(range(candidates))
        assert 2.0 in task.label.grades
        for document, grade in zip(task.documents, task.label.grades, strict=True):  # as the pointwise task judges it
            assert (kind_of(concepts, document) == CONNECTED) == (grade == 2.0)


def test_the_first_stage_is_noisy_and_the_shown_order_is_uninformative():
    given = fmean(ndcg(task.label.grades, groups_of_order(task.label.given), 10) for task in TASKS)
    shown = fmean(ndcg(task.label.grades, groups_of_order(range(6)), 10) for task in TASKS)
    tied = fmean(ndcg(task.label.grades, (tuple(range(6)),), 10) for task in TASKS)
    assert given == pytest.approx(0.86, abs=0.02)
    assert shown == pytest.approx(tied, abs=0.01)  # what any order is worth on average
    assert tied < 0.80


@pytest.mark.parametrize("form", FORMS)
def test_honest_completions_check_every_document_and_conclude(form):
    for row in range(300):
        task = builtin_list_task(row, 1, form, 2 + row % 9)
        completion = honest_list_completion(task)
        assert completion == f"<think>{task.think}</think><answer>{linked_answer(form, task.label)}</answer>"
        assert all(checks_right(task, task.think))
        assert claimed_grades(task.think, task.size) == tuple(map(int, task.label.grades))
        read = read_strict(answer_of(completion), form, task.size)
        assert read.ranking == read_strict(best_answer(form, task.label), form, task.size).ranking
        assert task.label.grades[read.ranking[0][0]] == 2.0


def test_the_answer_follows_the_links_of_the_thought():
    for task in TASKS[:300]:
        before = {int(here): int(linked) for here, linked in re.findall(r" ([0-9]+) (?:no|one|both) as ([0-9]+)\.", task.think)}
        for group in answer_of(honest_list_completion(task)).split(" > "):
            numbers = [int(label.strip("[]")) for label in group.split(" = ")]
            assert numbers[1:] == [before[number] for number in numbers[:-1]]
            assert numbers[-1] not in before


def test_other_thoughts_claim_nothing():
    task = TASKS[0]
    first, *rest = task.think.split(" [")
    others = "".join(f" [{check}" for check in rest)
    assert claimed_grades("", 6) is None
    assert claimed_grades(others.strip(), 6) is None  # a document is not checked
    assert claimed_grades(f"{task.think} {first}", 6) is None  # one is checked twice
    assert claimed_grades(task.think, 7) is None
    wrong_quote = task.think.replace(first, f"[1] the not{first[first.index(':') :]}")
    assert claimed_grades(wrong_quote, 6) == claimed_grades(task.think, 6)
    assert checks_right(task, wrong_quote) == [False, *[True] * 5]
    assert checks_right(task, "") == [False] * 6


def test_reading_a_thought_takes_linear_time():
    assert claimed_grades("[1] " + "a: " * 200_000, 6) is None
    assert claimed_grades("[1] " * 200_000, 6) is None


def test_warm_start_log_has_its_declared_faults():
    texts = [warm_start_list_completion(task, 3) for task in TASKS]
    assert texts == [warm_start_list_completion(task, 3) for task in TASKS]
    assert texts != [warm_start_list_completion(task, 4) for task in TASKS]
    short = [task for task, text in zip(TASKS, texts, strict=True) if text.count("[") - 6 < 6]
    shares = {
        "extra_text": sum("</answer> " in text for text in texts),
        "no_answer": sum(not text.endswith("</answer>") and "</answer>" not in text for text in texts),
        "left_out": len(short),
    }
    for name, count in shares.items():
        assert count / len(TASKS) == pytest.approx(getattr(LIST_FAULTS, name), abs=0.02), name
    assert sum(shares.values()) <= 0.25 * len(TASKS)
    mentions = ahead = 0
    for task, text in zip(TASKS, texts, strict=True):
        assert text.startswith(f"<think>{task.think}</think><answer>")  # the thoughts are honest
        read = read_strict(answer_of(text), Form.PERMUTATION, 6)
        if read.ranking is None:
            continue
        place = {document: rank for rank, group in enumerate(read.ranking) for document in group}
        best = min(place[i] for i in range(6) if task.label.grades[i] == 2.0)
        worst = max(place[i] for i in range(6) if task.label.grades[i] > 0)
        ones = [place[i] for i in range(6) if task.label.grades[i] == 1.0]
        mentions, ahead = mentions + len(ones), ahead + sum(rank < best for rank in ones)
        assert all(place[i] > worst for i in range(6) if task.label.grades[i] == 0.0)
    assert ahead / mentions == pytest.approx(LIST_FAULTS.mention_first, abs=0.04)


def test_the_log_leaves_room_above_its_own_order():
    answers = [(task.label.grades, answer_of(warm_start_list_completion(task, 3))) for task in TASKS]
    read = [(grades, read_strict(answer, Form.PERMUTATION, 6).ranking) for grades, answer in answers]
    careless = fmean(ndcg(grades, ranking, 10) for grades, ranking in read if ranking)
    assert careless < 0.91


@pytest.mark.parametrize("form", FORMS)
def test_a_faulty_answer_of_any_form(form):
    tasks = [builtin_list_task(row, 5, form, 6) for row in range(200)]
    assert all(warm_start_list_completion(task, 3, NO_FAULTS) == honest_list_completion(task) for task in tasks)
    left_out = ListFaults(0.0, 0.0, 1.0, 0.0)
    for task in tasks:
        read = read_strict(answer_of(warm_start_list_completion(task, 3, left_out)), form, 6)
        assert read.answer is None
    promoted = ListFaults(1.0, 0.0, 0.0, 0.0)
    for task in tasks:
        read = read_strict(answer_of(warm_start_list_completion(task, 3, promoted)), form, 6)
        seen = ListLabel(tuple(3.0 if grade == 1 else grade for grade in task.label.grades), task.label.given)
        assert read.answer == linked_answer(form, seen)


def test_rows_of_lists():
    rows = BuiltinListRows(50, 1, Form.PICK, 6)
    assert len(rows) == len(rows.query_hashes()) == 50
    assert set(rows.flags_N.tolist()) == {RELEVANT | THOUGHT}
    assert rows.task(7) == builtin_list_task(7, 1, Form.PICK, 6)
    for candidates in (1, MOST_CANDIDATES + 1):
        with pytest.raises(UserError, match="candidates="):
            BuiltinListRows(1, 1, Form.PICK, candidates)


def test_needs_no_torch():
    code = "import sys, r0.data.builtin.lists; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def folder_config(output: Path, **keys: int) -> ConvertConfig:
    return ConvertConfig(input="builtin", output=str(output), **keys)


def test_the_lists_as_a_beir_folder(tmp_path):
    folder = tmp_path / "new" / "lists"
    said = convert_builtin(folder_config(folder, rows=30, seed=9, candidates=5))
    assert "30 queries" in said
    lists = open_candidates(folder, folder / "given.trec", False)
    judged = read_judgements(folder / "qrels" / "test.tsv", BadLines())
    assert len(lists) == len(judged) == 30
    for i in range(30):
        task = builtin_list_task(i, 9, Form.PERMUTATION, 5)
        assert lists.query(i) == task.query
        shown = [lists.document(i, j) for j in range(5)]
        assert shown == [task.documents[place] for place in task.label.given]
        grades = [judged[lists.query_id(i)][document] for document in lists.document_ids(i)]
        assert grades == [task.label.grades[place] for place in task.label.given]


def test_an_existing_folder_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "mine").write_text("x")
    for output, what in ((tmp_path, "is not empty"), (tmp_path / "mine", "is a file")):
        with pytest.raises(UserError, match=what):
            convert_builtin(folder_config(output))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(UserError, match="candidates=61"):
        convert_builtin(folder_config(tmp_path / "new", candidates=61))
    assert main(["convert", "builtin", str(tmp_path / "lists"), "rows=3", "--dry-run"]) == 0
    assert not (tmp_path / "lists").exists()
    assert main(["convert", "builtin", str(tmp_path / "lists"), "rows=3"]) == 0
    assert "3 queries" in capsys.readouterr().out

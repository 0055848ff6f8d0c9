"""Rows of labelled documents as other tools write them: every key is used or named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r0.config import FinetuneConfig
from r0.config.distill_train import DistillTrainConfig
from r0.data.jsonl import BadLines
from r0.data.labelled import LabelBounds, Labelled, LabelledKind
from r0.data.labelled_rows import kind_of_labelled, read_labelled
from r0.data.scored import read_scored
from r0.errors import UserError
from r0.supervised.finetune.data import Preparation, check_loss
from r0.teacher.labelled_lists import LabelledLists

BOUNDS = LabelBounds()


def write(tmp_path: Path, *rows: object, name: str = "x.jsonl") -> Path:
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / name


def read(path: Path, hits: LabelledKind = LabelledKind.GROUPED) -> tuple[LabelledKind, list[Labelled], str]:
    """The kind of a file, its rows, and what is noted of them."""
    kind, bad = kind_of_labelled(path, False, hits), BadLines()
    found = list(read_labelled(path, kind, BOUNDS, bad))
    return kind, found, bad.summary().replace(str(path), "x")


POINTWISE, GROUPED, POSITIVES, TRIPLETS, SCORED = LabelledKind


@pytest.mark.parametrize(
    ("row", "kind", "documents", "labels"),
    [
        # r0, RAG-Retrieval
        ({"query": "q", "content": "a", "label": 1}, POINTWISE, ("a",), (1.0,)),
        ({"query": "q", "document": "a", "label": True, "think": "t", "answer": "yes"}, POINTWISE, ("a",), (1.0,)),
        (
            {"query": "q", "hits": [{"content": "a", "label": 2}, {"document": "b", "label": "0"}]},
            GROUPED,
            ("a", "b"),
            (2.0, 0.0),
        ),
        ({"query": "q", "pos": ["a"], "neg": ["b", "c"]}, POSITIVES, ("a", "b", "c"), (1.0, 0.0, 0.0)),
        # sentence-transformers
        ({"sentence1": "q", "sentence2": "a", "score": 0.25}, POINTWISE, ("a",), (0.25,)),
        ({"anchor": "q", "positive": "a", "label": 0}, POINTWISE, ("a",), (0.0,)),
        ({"anchor": "q", "positive": "a", "negative": "b"}, POSITIVES, ("a", "b"), (1.0, 0.0)),
        ({"anchor": "q", "positive": "a", "negative_2": "c", "negative_1": "b"}, POSITIVES, ("a", "b", "c"), (1.0, 0.0, 0.0)),
        ({"query": "q", "positive": "a", "negative": "b", "label": -1.5}, TRIPLETS, ("a", "b"), (-1.5, 0.0)),
        ({"query": "q", "positive": "a", "negative": "b", "label": [3, 1]}, TRIPLETS, ("a", "b"), (2.0, 0.0)),
        ({"query": "q", "docs": ["a", "b"], "labels": [0, 0.5]}, GROUPED, ("a", "b"), (0.0, 0.5)),
        ({"question": "q", "passages": ["a", "b"], "scores": [3, -1]}, GROUPED, ("a", "b"), (3.0, -1.0)),
        # MTEB, CrossEncoderRerankingEvaluator
        ({"query": "q", "positive": ["a"], "negative": ["b"]}, POSITIVES, ("a", "b"), (1.0, 0.0)),
        ({"query": "q", "positive": ["a"], "documents": ["b", "a", "c"]}, POSITIVES, ("a", "b", "c"), (1.0, 0.0, 0.0)),
        ({"query": "q", "positive": ["a"], "candidates": ["c", "b"]}, POSITIVES, ("a", "c", "b"), (1.0, 0.0, 0.0)),
        (
            {"query": "q", "positive": ["a"], "negative": ["b"], "documents": ["a", "b", "c"]},
            POSITIVES,
            ("a", "b", "c"),
            (1, 0, 0),
        ),
        # null is as good as missing
        ({"query": "q", "positive": ["a"], "negative": ["b"], "label": None, "documents": None}, POSITIVES, ("a", "b"), (1, 0)),
        # r0's triplets
        ({"query": "q", "positive": "a", "negative": "b", "score_diff": 2}, TRIPLETS, ("a", "b"), (2.0, 0.0)),
    ],
)
def test_rows_of_other_tools_are_read_with_all_their_keys(
    tmp_path: Path, row: dict, kind: LabelledKind, documents: tuple, labels: tuple
) -> None:
    found, (one,), notes = read(write(tmp_path, row))
    assert (found, one.query, one.documents, one.labels, notes) == (kind, "q", documents, labels, "")
    if kind == GROUPED:  # where values of one column have several types
        return
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    found, (one,), notes = read(tmp_path / "x.parquet")
    assert (found, one.documents, one.labels) == (kind, documents, labels)


def test_passages_with_ids_and_titles_are_read_as_miracl_and_tevatron_write_them(tmp_path: Path) -> None:
    passages = [{"docid": "1#0", "title": "T", "text": "a"}], [{"docid": "2#0", "title": None, "text": "b"}]
    row = {"query_id": "7", "query": "q", "positive_passages": passages[0], "negative_passages": passages[1]}
    kind, (one,), notes = read(write(tmp_path, row))
    assert (kind, one.documents, one.labels) == (POSITIVES, ("T. a", "b"), (1.0, 0.0))
    assert notes == 'x: the key "query_id" is not read (rows: 1)'


def test_triples_of_ms_marco_are_read(tmp_path: Path) -> None:
    (tmp_path / "triples.tsv").write_text("q\ta\tb\nr\tc\td\n")
    kind, found, _ = read(tmp_path / "triples.tsv")
    assert kind == POSITIVES
    assert [(one.query, one.documents, one.labels) for one in found] == [("q", ("a", "b"), (1, 0)), ("r", ("c", "d"), (1, 0))]


FLAG = {"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": [1.0], "neg_scores": [0.1, 0.2], "prompt": "p", "type": "t"}


def test_keys_that_are_not_read_are_named_once_with_their_count(tmp_path: Path) -> None:
    *_, notes = read(write(tmp_path, FLAG, FLAG, {"query": "q", "pos": ["a"], "neg": ["b"], "meta": {}}))
    assert set(notes.splitlines()) == {
        *(f'x: the key "{key}" is not read (rows: 2)' for key in ("prompt", "type")),
        *(
            f'x: the key "{side}_scores" is not read; data_type=scored of finetune learns from it (rows: 2)'
            for side in ("pos", "neg")
        ),
        'x: the key "meta" is not read (rows: 1)',
    }
    *_, notes = read(write(tmp_path, {"query": "q", "hits": [{"content": "a", "label": 1, "rank": 3}], "id": 1}))
    assert set(notes.splitlines()) == {f'x: the key "{key}" is not read (rows: 1)' for key in ("hits.rank", "id")}


def test_scores_of_positives_and_negatives_are_for_distillation(tmp_path: Path) -> None:
    path = write(tmp_path, FLAG)
    kind, (one,), notes = read(path, SCORED)
    assert (kind, one.documents, one.labels, one.grades) == (SCORED, ("a", "b", "c"), (1.0, 0.1, 0.2), (1.0, 0.0, 0.0))
    assert set(notes.splitlines()) == {f'x: the key "{key}" is not read (rows: 1)' for key in ("prompt", "type")}
    (scored,) = read_scored(path, BadLines())
    assert (scored.documents, scored.labels, scored.scores) == (("a", "b", "c"), (1.0, 0.0, 0.0), (1.0, 0.1, 0.2))
    for config in (
        DistillTrainConfig(data=str(path), batch_size=1),
        FinetuneConfig(data=str(path), data_type="scored", batch_size=1),
    ):
        made, kind = check_loss(config)
        assert (made.loss_type, kind) == ("listwise_ce", SCORED)
        assert Preparation(made, kind).check().examples == 1
    many = {"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c", "score": [2, 1, None]}
    _, (one,), notes = read(write(tmp_path, many), SCORED)
    assert (one.documents, one.labels, one.unscored, notes) == (("a", "b"), (2.0, 1.0), 1, "")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**FLAG, "neg_scores": [0.1]}, '"neg_scores" has 1 numbers for 2 texts'),
        ({**FLAG, "neg_scores": ["x", 1]}, '"neg_scores" must be a list of numbers'),
        ({key: FLAG[key] for key in FLAG if key != "neg_scores"}, "the scores are missing"),
    ],
)
def test_scores_that_do_not_fit_are_refused(tmp_path: Path, row: dict, reason: str) -> None:
    with pytest.raises(UserError, match=f"x.jsonl:2: {reason}"):
        read(write(tmp_path, FLAG, row), SCORED)


CONTRADICTION = "x: a text is both positive and negative of its query; it is kept as a positive (rows: 1)"


def test_a_text_on_both_sides_is_said_and_kept_as_a_positive(tmp_path: Path) -> None:
    _, found, notes = read(write(tmp_path, {"query": "q", "pos": ["a", "a", "b"], "neg": ["a ", "c", "c"]}))
    assert [(one.documents, one.labels) for one in found] == [(("a", "b", "c"), (1.0, 1.0, 0.0))]
    assert notes == CONTRADICTION
    flag = {**FLAG, "neg": ["b", "a"]}
    _, (one,), notes = read(write(tmp_path, flag), SCORED)
    assert (one.documents, one.labels) == (("a", "b"), (1.0, 0.1))
    assert CONTRADICTION in notes
    hits = [{"content": "a", "label": 0}, {"content": "a", "label": 1}, {"content": "b", "label": 0}]
    _, (one,), notes = read(write(tmp_path, {"query": "q", "hits": hits}))
    assert (one.documents, one.labels) == (("a", "b"), (1.0, 0.0))
    assert notes == "x: a document has two labels for its query; the higher one is taken (rows: 1)"


def test_a_row_whose_only_negative_is_its_positive_is_dropped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, {"query": "q", "pos": ["a", "a"], "neg": ["a"]}, {"query": "r", "pos": ["a"], "neg": ["b"]})
    notes = Preparation(*check_loss(FinetuneConfig(data=str(path), batch_size=1))).check().notes
    assert notes[0].startswith("1 queries dropped: no two of their documents differ in label; ")
    assert notes[1].replace(str(path), "x") == CONTRADICTION
    path = write(tmp_path, {"query": "q", "pos": ["a", "a"], "neg": ["a"]})
    with pytest.raises(UserError, match="a text is both positive and negative of its query"):
        Preparation(*check_loss(FinetuneConfig(data=str(path), batch_size=1))).check()


def test_queries_without_positives_or_negatives_are_dropped_and_counted_for_a_teacher(tmp_path: Path) -> None:
    rows = [{"query": "q", "positive": [], "negative": ["a"]}, {"query": "r", "positive": ["a"], "negative": []}]
    rows += [{"query": "s", "hits": []}, {"query": "t", "positive": ["a"], "documents": ["a", "b"]}]
    lists = LabelledLists(str(write(tmp_path, *rows[:2], rows[3])), 1, 0, False)
    assert [one.query for one in lists] == ["t"]
    assert "2 queries dropped: no two of their documents differ in label" in lists.summary()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": "q", "pos": [" "], "neg": ["b"]}, '"pos" must be a list of non-blank strings'),
        ({"query": "q", "pos": ["a"], "neg": [3]}, '"neg" must be a list of non-blank strings'),
        ({"query": "q", "pos": [{"text": "a"}], "neg": [{"title": "b"}]}, 'neg: the field "text" is missing'),
        ({"query": "q", "pos": [], "neg": []}, "there is neither a positive nor a negative"),
        ({"pos": ["a"], "neg": ["b"]}, 'the field "query" is missing'),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_line(tmp_path: Path, row: dict, reason: str) -> None:
    with pytest.raises(UserError, match=f"x.jsonl:2: {reason}"):
        read(write(tmp_path, {"query": "q", "pos": ["a"], "neg": ["b"]}, row))

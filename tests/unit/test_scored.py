"""Files of a teacher's scores: written files are read back, and invalid ones are refused with their location."""

import json

import pytest

from r0.data.jsonl import BadLines
from r0.data.labelled import LabelBounds, LabelledKind
from r0.data.labelled_rows import kind_of_labelled, read_labelled
from r0.data.scored import ScoredList, read_scored, scored_row
from r0.errors import UserError

LISTS = [
    ScoredList("why?", ("a", "b </s>", "ç 日"), (1.0, 0.0, 0.0), (7.25, None, -3.0000001)),
    ScoredList("who?", ("d", "e"), (1.0, 0.0), (0.0, 1e-7)),
]


def write_rows(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_what_is_written_is_read_again(tmp_path):
    path = write_rows(tmp_path / "scores.jsonl", *map(scored_row, LISTS))
    found = list(read_scored(path, BadLines()))
    assert [one.place for one in found] == [f"{path}:1", f"{path}:2"]
    assert [(one.query, one.documents, one.labels, one.scores) for one in found] == [
        (one.query, one.documents, one.labels, one.scores) for one in LISTS
    ]


def test_a_file_of_scores_is_a_grouped_file_too(tmp_path):
    path = write_rows(tmp_path / "scores.jsonl", *map(scored_row, LISTS))
    assert kind_of_labelled(path, skip_bad=False) == LabelledKind.GROUPED
    (first, second) = read_labelled(path, LabelledKind.GROUPED, LabelBounds(), BadLines())
    assert (first.documents, first.labels) == (LISTS[0].documents, LISTS[0].labels)
    assert second.query == "who?"


HIT = {"content": "a", "label": 1, "score": 2.0}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": "q", "hits": []}, '"hits" is empty'),
        ({"query": " ", "hits": [HIT]}, '"query" is empty'),
        ({"hits": [HIT]}, 'the field "query" is missing'),
        ({"query": "q", "hits": [HIT, {"content": "a", "label": 1}]}, r'hits\[1\]: the field "score" is missing'),
        ({"query": "q", "hits": [{**HIT, "score": "2"}]}, r'hits\[0\]: "score" must be a number'),
        ({"query": "q", "hits": [{**HIT, "score": True}]}, r'hits\[0\]: "score" must be a number'),
        ({"query": "q", "hits": [{**HIT, "label": None}]}, r'hits\[0\]: "label" must be a number'),
        ({"query": "q", "hits": [{**HIT, "content": 3}]}, r'hits\[0\]: "content" must be a string'),
        ('{"query": "q", "hits": [{"content": "a", "label": 1, "score": NaN}]}', "NaN is not a JSON number"),
    ],
)
def test_a_bad_line_is_refused_with_its_place_or_skipped_and_counted(tmp_path, row, reason):
    path = write_rows(tmp_path / "scores.jsonl", scored_row(LISTS[0]), row)
    with pytest.raises(UserError, match=rf"scores.jsonl:2: {reason}"):
        list(read_scored(path, BadLines()))
    bad = BadLines(skip=True)
    assert len(list(read_scored(path, bad))) == 1
    assert bad.count == 1


def test_a_file_without_a_query_is_refused(tmp_path):
    for text in ("", "\n\n"):
        (tmp_path / "scores.jsonl").write_text(text)
        with pytest.raises(UserError, match="distill score"):
            list(read_scored(tmp_path / "scores.jsonl", BadLines()))
    with pytest.raises(UserError, match="no such file"):
        list(read_scored(tmp_path / "none.jsonl", BadLines()))

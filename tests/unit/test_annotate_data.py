"""The pairs to annotate, read from every format, each once, with its label."""

import json

import pytest

from r0.config import AnnotateConfig, StageAConfig
from r0.data.formats import open_rows
from r0.errors import UserError
from r0.records import Answer
from r0.teacher.annotate_pairs import Pairs

YES, NO = Answer.YES, Answer.NO


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs_of(data, **keys):
    return Pairs(open_rows(AnnotateConfig(data=str(data), **keys), 1, unlabelled=True))


def listed(pairs):
    """(query, document, known label) in the order of the data."""
    rows = [pairs.row(key) for key in pairs]
    return [(pairs.task(row).query, pairs.task(row).document, pairs.known(row)) for row in rows]


def test_a_raw_log_needs_no_thoughts(tmp_path):
    log = write(
        tmp_path / "raw.jsonl",
        [
            {"query": "q", "response": "a", "rejected_response": [{"document": "b"}, {"document": "c", "thinking": "old"}]},
            {"query": "r", "response": "b", "response_thinking": "old", "rejected_response": []},
        ],
    )
    pairs = pairs_of(log)
    assert listed(pairs) == [("q", "a", YES), ("q", "b", NO), ("q", "c", NO), ("r", "b", YES)]
    assert pairs.summary() == f"{log}: 4 pairs, 2 labelled yes, 2 no"
    with pytest.raises(UserError, match="this is a raw log; first run `convert"):
        open_rows(StageAConfig(data=str(log)), 1)


def test_pointwise_rows_may_lack_a_label_here_and_nowhere_else(tmp_path):
    rows = write(
        tmp_path / "rows.jsonl",
        [
            {"query": "q", "document": "a", "label": 2},
            {"query": "q", "document": "b"},
            {"query": "q", "document": "c", "label": 1, "think": "old", "answer": "no"},
            {"query": "q", "document": "a", "label": 0},
        ],
    )
    pairs = pairs_of(rows, max_label=2.0, relevance_threshold=2.0)
    assert listed(pairs) == [("q", "a", YES), ("q", "b", None), ("q", "c", NO)]
    assert pairs.summary().endswith("3 pairs, 1 labelled yes, 1 no; 1 without a label; 1 repeated pairs dropped")
    with pytest.raises(UserError, match=r'rows.jsonl:2: the field "label" is missing'):
        open_rows(StageAConfig(data=str(rows), max_label=2.0), 1)


def test_grouped_rows_may_lack_labels_too(tmp_path):
    hits = [{"content": "a", "label": 1}, {"content": "b"}]
    assert listed(pairs_of(write(tmp_path / "g.jsonl", [{"query": "q", "hits": hits}]))) == [("q", "a", YES), ("q", "b", None)]


def test_an_unjudged_candidate_of_a_run_has_no_label(tmp_path):
    write(tmp_path / "corpus.jsonl", [{"_id": name, "title": "t", "text": name} for name in "abc"])
    write(tmp_path / "queries.jsonl", [{"_id": "q", "text": "query"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\nq\tb\t0\n")
    (tmp_path / "bm25.trec").write_text("".join(f"q Q0 {name} 1 {9 - rank} x\n" for rank, name in enumerate("cab")))
    pairs = pairs_of(tmp_path, run=str(tmp_path / "bm25.trec"))
    assert listed(pairs) == [("query", "t. c", None), ("query", "t. a", YES), ("query", "t. b", NO)]


def test_candidates_of_requests_are_labelled_by_judgements(tmp_path):
    candidates = [{"docid": name, "score": 1.0, "doc": {"contents": name}} for name in "ab"]
    data = write(tmp_path / "requests.jsonl", [{"query": {"text": "query", "qid": "q"}, "candidates": candidates}])
    (tmp_path / "qrels.tsv").write_text("q\ta\t1\n")
    assert set(listed(pairs_of(data, qrels=str(tmp_path / "qrels.tsv")))) == {("query", "a", YES), ("query", "b", None)}


def test_a_bad_line_of_a_log_is_named(tmp_path):
    log = tmp_path / "raw.jsonl"
    write(log, [{"query": "q", "response": "a", "rejected_response": rejected} for rejected in ([], 1)])
    with pytest.raises(UserError, match=r'raw.jsonl:2: "rejected_response" must be a list, not a number'):
        pairs_of(log)
    pairs = pairs_of(log, skip_bad=True)
    assert len(pairs) == 1
    assert "1 bad lines skipped" in pairs.summary()

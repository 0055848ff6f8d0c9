"""Runs and judgements with their ids, and the candidates of a first stage."""

from __future__ import annotations

import json
import math
import pickle
from array import array
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from r0.data import requests
from r0.data.candidates import open_candidates
from r0.data.jsonl import BadLine, BadLines
from r0.data.runfile import given_order, read_judgements, read_run, write_run
from r0.data.trec import Run
from r0.errors import UserError

MUSIQUE = Path(__file__).parents[2].parent / "shared" / "data" / "musique100"
RUN = ["q1 Q0 d2 1 9.5 x", "q1\tQ0\td1\t2\t9\tx", "q2   Q0 d/3'  1 3 x", "q2 Q0 d1 2 3 x", "q1 Q0 d4 3 1e-3 x"]
SCORE = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-1e38, 1e38), st.sampled_from([0.1, 0.1 + 1e-9, 1e-300, -1e-44, 1e300])
)
# No outer white space, no tab, no line break.
ID = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=6).filter(
    lambda text: text == text.strip()
)


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def beir(folder, run_lines):
    corpus = [{"_id": "d1", "title": "One", "text": "first"}, {"_id": "d2", "title": "", "text": "second"}]
    write(folder / "corpus.jsonl", [*corpus, {"_id": "d/3'", "title": "Why?", "text": "third"}, {"_id": "d4", "text": ""}])
    write(folder / "queries.jsonl", [{"_id": "q2", "text": "query two"}, {"_id": "q1", "text": "query one"}])
    return folder, write(folder / "a.run", run_lines)


def request(query_id, candidates):
    return {"query": {"text": f"query {query_id}", "qid": query_id}, "candidates": candidates}


def candidate(docid, score=None, **doc):
    return {"docid": docid, "score": score, "doc": doc or {"contents": f"text of {docid}"}}


def test_a_run_keeps_ids_scores_and_order(tmp_path):
    run = read_run(write(tmp_path / "a.run", RUN), BadLines())
    assert run == {"q1": {"d2": 9.5, "d1": 9.0, "d4": 0.001}, "q2": {"d/3'": 3.0, "d1": 3.0}}
    assert [list(documents) for documents in run.values()] == [["d2", "d1", "d4"], ["d/3'", "d1"]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1 Q0 d9 1 1", "5 columns where a run has 6"),
        ("q1 Q0 d9 1 nan x", 'the score "nan" is not finite'),
        ("q1 Q0 d9 1 high x", 'the score "high" is not a number'),
        ("q1 Q0 d1 1 7 x", r"this candidate \(query and document\) occurs twice"),
        ("q1\tQ0\t\t1\t7\tx", "an id is empty"),
    ],
)
def test_bad_lines_of_a_run_are_named(tmp_path, line, reason):
    path = write(tmp_path / "a.run", [*RUN, line])
    with pytest.raises(UserError, match=f"a.run:6: {reason}"):
        read_run(path, BadLines())
    bad = BadLines(skip=True)
    assert (sum(map(len, read_run(path, bad).values())), bad.count) == (5, 1)


def test_files_without_a_line_are_refused(tmp_path):
    with pytest.raises(UserError, match="contains no candidates"):
        read_run(write(tmp_path / "blank.run", [" "]), BadLines())
    with pytest.raises(UserError, match="contains no judgements"):
        read_judgements(write(tmp_path / "head.tsv", ["query-id\tcorpus-id\tscore"]), BadLines())
    with pytest.raises(UserError, match="no such file"):
        read_run(tmp_path / "none.run", BadLines())


@pytest.mark.parametrize(
    "lines",
    [
        ["query-id\tcorpus-id\tscore", "q 1\td/1'\t2", "q 1\té\t-1", "q2\td1\t0"],
        ["q 1\td/1'\t2", "q 1\té\t-1.0", "q2 d1 0"],
        ["q 1\t0\td/1'\t2", "q 1\t0\té\t-1", "q2 0 d1 0"],
    ],
)
def test_judgements_of_every_layout(tmp_path, lines):
    judged = read_judgements(write(tmp_path / "qrels.tsv", lines), BadLines())
    assert judged == {"q 1": {"d/1'": 2, "é": -1}, "q2": {"d1": 0}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\td1\t0", r"this judgement \(query and document\) occurs twice"),
        ("q1\td2\tinf", 'the grade "inf" is not finite'),
        ("q1\td2\tyes", 'the grade "yes" is not a number'),
        ("q1 d2", "2 columns where judgements have 3"),
        ("query-id\tcorpus-id\tscore", 'the grade "score" is not a number'),
    ],
)
def test_bad_judgements_are_named(tmp_path, line, reason):
    path = write(tmp_path / "qrels.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1", line])
    with pytest.raises(UserError, match=f"qrels.tsv:3: {reason}"):
        read_judgements(path, BadLines())
    bad = BadLines(skip=True)
    assert (read_judgements(path, bad), bad.count) == ({"q1": {"d1": 1}}, 1)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(ID, SCORE, min_size=1, max_size=8))
def test_the_given_order_is_that_of_trec_eval(scores):
    order = given_order(scores)
    for place, document in enumerate(order, 1):
        found = pytrec_eval.RelevanceEvaluator({"q": {document: 1}}, {"recip_rank"}).evaluate({"q": scores})
        assert found["q"]["recip_rank"] == pytest.approx(1 / place)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(ID, st.dictionaries(ID, SCORE, min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_index_of_a_run_has_the_same_order(tmp_path_factory, run):
    lines = [f"{query}\tQ0\t{document}\t1\t{score!r}\tx" for query, scores in run.items() for document, score in scores.items()]
    path = write(tmp_path_factory.mktemp("run") / "a.run", sorted(lines, key=len))
    read, indexed = read_run(path, BadLines()), Run(path, BadLines(), ordered=True)
    plain = Run(path, BadLines())
    place = {line: row for row, line in enumerate(plain.lines_N.tolist())}
    texts = [line.split("\t") for line in path.read_text().split("\n") if line]
    found = [(texts[place[line]][0], texts[place[line]][2]) for line in indexed.lines_N.tolist()]
    assert found == [(query, document) for query, scores in read.items() for document in given_order(scores)]


@settings(max_examples=150, deadline=None)
@given(st.lists(SCORE, min_size=1, max_size=12), st.booleans())
def test_a_written_run_is_read_in_its_order(tmp_path_factory, scores, spaced):
    path = tmp_path_factory.mktemp("run") / "deep" / "a.run"
    documents = [(f"d {i}" if spaced else f"d{i}", score) for i, score in enumerate(sorted(scores, reverse=True))]
    write_run(path, [("q/é'1", documents), ("q2", [("d", 1.0)])], "mine")
    read = read_run(path, BadLines())
    assert given_order(read["q/é'1"]) == [document for document, _ in documents]
    single = np.array(list(read["q/é'1"].values()), np.float32)
    assert (np.diff(single) < 0).all()
    assert np.isfinite(single).all()
    for (_, score), written in zip(documents, single.tolist(), strict=True):
        assert abs(score) > 1e38 or math.isclose(score, written, rel_tol=2e-6, abs_tol=2e-37)
    columns = [line.split("\t" if spaced and "q2" not in line else " ") for line in path.read_text().splitlines()]
    assert [column[3] for column in columns] == [*(str(rank) for rank in range(1, len(scores) + 1)), "1"]
    assert {(column[1], column[5]) for column in columns} == {("Q0", "mine")}


def test_the_given_order_can_be_written_again(tmp_path):
    scores = {"a": 0.1 + 1e-10, "b": 0.1, "c": 0.1 + 1e-11}  # equal in single precision: c, b, a
    order = given_order(scores)
    write_run(tmp_path / "a.run", [("q", [(document, scores[document]) for document in order])], "x")
    assert given_order(read_run(tmp_path / "a.run", BadLines())["q"]) == order == ["c", "b", "a"]


def test_what_is_not_allowed_in_a_run_is_refused(tmp_path):
    path = tmp_path / "a.run"
    for lists in ([("q\t1", [("d", 1.0)])], [("q", [("d\n", 1.0)])], [("q", [("", 1.0)])], [("q", [(" d", 1.0)])]):
        with pytest.raises(UserError, match="is not allowed in a TREC run"):
            write_run(path, lists, "x")
    with pytest.raises(UserError, match="give one word"):
        write_run(path, [("q", [("d", 1.0)])], "two words")
    for scores in ([1.0, 2.0], [math.nan], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="finite and best first"):
            write_run(path, [("q", [(f"d{i}", score) for i, score in enumerate(scores)])], "x")
    assert not path.exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"output: .*file"):
        write_run(tmp_path / "file" / "a.run", [("q", [("d", 1.0)])], "x")


def test_candidates_of_a_beir_folder(tmp_path):
    lists = open_candidates(*beir(tmp_path, RUN))
    assert [(lists.query_id(i), lists.query(i)) for i in range(len(lists))] == [("q1", "query one"), ("q2", "query two")]
    assert lists.document_ids(0) == ("d2", "d1", "d4")
    assert lists.document_ids(1) == ("d1", "d/3'")  # equal scores: the last id first
    assert (lists.scores(0), lists.scores(1)) == ((9.5, 9.0, 0.001), (3.0, 3.0))
    assert [lists.document(0, j) for j in range(3)] == ["second", "One. first", ""]
    again = pickle.loads(pickle.dumps(lists))
    assert (again.document(1, 1), again.bad.count) == ("Why?. third", 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q3 Q0 d1 1 1 x", r'the query "q3" is not in .*queries.jsonl'),
        ("q1 Q0 d9 1 1 x", r'the document "d9" is not in .*corpus.jsonl'),
        ("q2 Q0 d9 1 inf x", 'the score "inf" is not finite'),
    ],
)
def test_missing_candidates_are_named(tmp_path, line, reason):
    folder, run = beir(tmp_path, [*RUN, line])
    with pytest.raises(UserError, match=f"a.run:6: {reason}"):
        open_candidates(folder, run)
    lists = open_candidates(folder, run, skip_bad=True)
    assert ([lists.document_ids(i) for i in range(2)], lists.bad.count) == ([("d2", "d1", "d4"), ("d1", "d/3'")], 1)


def test_a_run_of_another_folder_is_refused(tmp_path):
    folder, run = beir(tmp_path, ["q7 Q0 d1 1 1 x", "q1 Q0 d9 1 1 x"])
    with pytest.raises(UserError, match="none of its candidates is in"):
        open_candidates(folder, run, skip_bad=True)
    with pytest.raises(UserError, match="give run=FILE"):
        open_candidates(folder)
    with pytest.raises(UserError, match="no such file or folder"):
        open_candidates(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"without corpus\.jsonl"):
        open_candidates(tmp_path / "empty")


def test_candidates_of_requests(tmp_path):
    rows = [
        request(7, [candidate("a", 1.5), candidate("b/'1", 2), candidate(12, 1.5, title="T", text="body")]),
        request("q é", [candidate("only", None, segment="one", title="")]),
        request("q3", [candidate("a", 1), candidate("b", None), candidate("c", 5)]),
    ]
    lists = open_candidates(write(tmp_path / "requests.jsonl", rows))
    assert [(lists.query_id(i), lists.query(i)) for i in (0, 1)] == [("7", "query 7"), ("q é", "query q é")]
    assert (lists.document_ids(0), lists.scores(0)) == (("b/'1", "a", "12"), (2.0, 1.5, 1.5))
    assert [lists.document(0, j) for j in range(3)] == ["text of b/'1", "text of a", "T. body"]
    assert (lists.document(1, 0), lists.scores(1)) == ("one", (1.0,))
    assert (lists.document_ids(2), lists.scores(2)) == (("a", "b", "c"), (3.0, 2.0, 1.0))  # not every one has a score
    assert lists.bad.summary() == ""
    extra = {**request("q", [{**candidate("a"), "rank": 1}]), "invocations_history": []}
    noted = open_candidates(write(tmp_path / "extra.jsonl", [extra])).bad.summary()
    assert all(f'the key "{key}" is not read (rows: 1)' in noted for key in ("candidates.rank", "invocations_history"))
    tied = open_candidates(write(tmp_path / "tied.jsonl", [request("q", [candidate(name, 0.0) for name in "bca"])]))
    assert tied.document_ids(0) == ("b", "c", "a")  # in the order of the list
    write(tmp_path / "array.json", [json.dumps(rows, indent=1)])
    array = open_candidates(tmp_path / "array.json")
    assert [array.document(index, 0) for index in (2, 0)] == ["text of a", "text of b/'1"]
    assert pickle.loads(pickle.dumps(lists)).document(0, 2) == "T. body"
    write(tmp_path / "requests.jsonl", rows[:1])
    with pytest.raises(UserError, match="was changed or removed"):
        pickle.loads(pickle.dumps(lists)).document(1, 0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (request("q2", []), r'the query "q2" has no "candidates"'),
        (request("q2", [candidate("a"), candidate("a")]), r'candidates\[1\]: the document "a" occurs twice'),
        (request("q1", [candidate("a")]), 'the query "q1" occurs twice'),
        (request(True, [candidate("a")]), 'query: "qid" must be a string'),
        ({"query": "text", "candidates": []}, '"query" must be an object'),
        (request("q2", [{"docid": "a", "doc": {"url": "u"}}]), r'candidates\[0\]: no text in "doc"; it must have'),
        (request("q2", [{"docid": "a", "doc": "text"}]), r'candidates\[0\]: "doc" must be an object'),
        (request("q2", [candidate("a", "high")]), r'candidates\[0\]: "score" must be a number'),
        (request("q2", [{"doc": {"text": "t"}}]), r'candidates\[0\]: the field "docid" is missing'),
        ('{"query": {"text": "t", "qid": "q2"}, "candidates": [{"docid": "a", "score": NaN}]}', "NaN is not a JSON number"),
    ],
)
def test_bad_requests_are_named(tmp_path, bad, reason):
    path = write(tmp_path / "requests.jsonl", [request("q1", [candidate("a", 1.0)]), bad])
    with pytest.raises(UserError, match=f"requests.jsonl:2: {reason}"):
        open_candidates(path)
    lists = open_candidates(path, skip_bad=True)
    assert (len(lists), lists.bad.count) == (1, 1)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
CANDIDATE = st.fixed_dictionaries({}, optional={"docid": ANY, "score": ANY, "doc": ANY | st.fixed_dictionaries({"text": ANY})})
QUERY = ANY | st.fixed_dictionaries({}, optional={"qid": ANY, "text": ANY})


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({}, optional={"query": QUERY, "candidates": ANY | st.lists(CANDIDATE, max_size=4)}))
def test_any_row_is_a_request_or_has_a_reason(row):
    try:
        found = requests.request(row)
    except BadLine as error:
        reason = str(error)
        assert reason
    else:
        assert len(found.document_ids) == len(set(found.document_ids)) == len(found.texts) == len(found.scores) > 0
        single = array("f", found.scores)
        assert list(single) == sorted(single, reverse=True)


def test_invalid_requests(tmp_path):
    with pytest.raises(UserError, match="remove run"):
        open_candidates(write(tmp_path / "requests.jsonl", [request("q", [candidate("a")])]), tmp_path / "a.run")
    with pytest.raises(UserError, match="contains no requests"):
        open_candidates(write(tmp_path / "blank.jsonl", [" "]))


@pytest.mark.skipif(not MUSIQUE.is_dir(), reason="needs shared/data/musique100 beside the project")
def test_real_candidates(tmp_path):
    lists = open_candidates(MUSIQUE, MUSIQUE / "given_order.trec")
    assert (len(lists), {len(lists.document_ids(i)) for i in range(100)}) == (100, {20})
    assert lists.document_ids(0)[:2] == ("2hop__150763_14904#0", "2hop__150763_14904#1")
    assert lists.document(0, 0).startswith("Journal of Mathematical Physics. The Journal")
    write_run(tmp_path / "again.trec", [_list(lists, i) for i in range(len(lists))], "given")
    assert read_run(tmp_path / "again.trec", BadLines()) == read_run(MUSIQUE / "given_order.trec", BadLines())
    assert sum(sum(grades.values()) for grades in read_judgements(MUSIQUE / "qrels" / "test.tsv", BadLines()).values()) == 237


def _list(lists, index):
    return lists.query_id(index), list(zip(lists.document_ids(index), lists.scores(index), strict=True))

"""Finished queries survive an interruption; unfinished ones are not counted as finished."""

import itertools
import json

import pytest

from r0.data.candidates import open_candidates
from r0.errors import UserError
from r0.records import Form, Violation
from r0.rerank.job import Outcome
from r0.rerank.protocol import Question, Ranking, Reply
from r0.rerank.store import Store

IDS = ("d/1's", "déjà", "d3", "d4")


def lists(folder, order=IDS):
    folder.mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": i, "text": f"text {i}"}) + "\n" for i in IDS))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": q, "text": f"query {q}"}) + "\n" for q in ("q2", "q1")))
    run = [f"{query} Q0 {document} 1 {9 - rank} x" for query in ("q1", "q2") for rank, document in enumerate(order)]
    (folder / "a.trec").write_text("\n".join(run) + "\n")
    return open_candidates(folder, folder / "a.trec")


def outcome(order, n=3):
    ask = Question(tuple(range(n)), Form.PERMUTATION)
    good = Reply((tuple(range(n)),), thought="because “é”")
    bad = Reply((tuple(range(n)),), failures=frozenset({Violation.NO_ANSWER, Violation.CUT}))
    return Outcome(0, Ranking.of_order(order), ((ask, good), (ask, bad)), 300, 20, 1.25)


def test_finished_queries_are_read_back_in_the_order_of_the_run(tmp_path):
    given = lists(tmp_path / "data")
    with Store(tmp_path / "queries.jsonl", given) as store:
        store.add(1, outcome([2, 0, 1]))
        assert 1 in store
        assert 0 not in store
    with Store(tmp_path / "queries.jsonl", given) as store:
        assert (len(store), 1 in store) == (1, True)
        store.add(0, outcome([1, 0, 2]))
        written = list(store.rankings())
        assert [(query, [document for document, _ in ranking]) for query, ranking in written] == [
            ("q1", ["déjà", "d/1's", "d3", "d4"]),  # what was not reranked follows
            ("q2", ["d3", "d/1's", "déjà", "d4"]),
        ]
        assert all(a > b for _, ranking in written for (_, a), (_, b) in itertools.pairwise(ranking))
        totals = store.totals
    assert (totals.queries, totals.candidates, totals.asks, totals.failed) == (2, 8, 4, 2)
    assert totals.failures == {"no_answer": 2, "cut": 2}
    assert (totals.prompt_tokens, totals.new_tokens, totals.seconds) == (600, 40, 2.5)
    row = json.loads((tmp_path / "queries.jsonl").read_text().splitlines()[0])
    assert row["replies"][0] == {"documents": ["d/1's", "déjà", "d3"], "thought": "because “é”", "failures": []}
    assert row["replies"][1]["failures"] == ["cut", "no_answer"]


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_cut_off_and_its_query_done_again(tmp_path, kept):
    path, given = tmp_path / "queries.jsonl", lists(tmp_path / "data")
    with Store(path, given) as store:
        store.add(0, outcome([2, 0, 1]))
        store.add(1, outcome([2, 1, 0]))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    with Store(path, given) as store:
        assert [index in store for index in (0, 1)] == [True, False]
        store.add(1, outcome([0, 1, 2]))
    assert path.read_bytes().splitlines(keepends=True)[0] == first
    with Store(path, given) as store:
        assert [query for query, _ in store.rankings()] == ["q1", "q2"]


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"query_id": "q1", "documents": ["d3"]}', '"q1"'])
def test_a_damaged_line_is_refused_with_its_number(tmp_path, line):
    path, given = tmp_path / "queries.jsonl", lists(tmp_path / "data")
    with Store(path, given) as store:
        store.add(1, outcome([2, 0, 1]))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"queries.jsonl:2: .*fresh=true"):
        Store(path, given)


def test_other_candidates_than_before_are_refused(tmp_path):
    path = tmp_path / "queries.jsonl"
    with Store(path, lists(tmp_path / "data")) as store:
        store.add(1, outcome([2, 0, 1]))
    for others in (IDS[:3], IDS[::-1]):
        with pytest.raises(UserError, match=r"jsonl:1: query q2 had other candidates, or another order"):
            Store(path, lists(tmp_path / "data", others))

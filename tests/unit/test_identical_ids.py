"""``ignore_identical_ids``: in ArguAna a query is one of the documents, and no answer to itself."""

import json
from pathlib import Path

import pytest

from r0.commands.mine import run as mine
from r0.config import MineConfig, RerankConfig, RetrieveConfig
from r0.data.candidates import open_candidates
from r0.data.jsonl import BadLines
from r0.data.runfile import read_run
from r0.errors import UserError
from r0.evaluation.first_stage import retrieve
from r0.launch import main
from r0.rerank.identical_candidates import without_identical

TEXTS = {
    "a1": "blue sky one",
    "a2": "counter blue sky two",
    "b1": "green grass one",
    "b2": "counter green grass",
    "x": "grass, sky",
}
QRELS = {("a1", "a2"): 1, ("b1", "b2"): 1}


def folder(path, texts=TEXTS, queries=("a1", "b1"), qrels=QRELS, split="test"):
    """A collection whose queries are documents, and a run that finds each query first."""
    (path / "qrels").mkdir(parents=True)
    rows = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in texts.items()]
    (path / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    rows = [json.dumps({"_id": name, "text": texts[name]}) for name in queries]
    (path / "queries.jsonl").write_text("\n".join(rows) + "\n")
    judged = "".join(f"{query}\t{document}\t{grade}\n" for (query, document), grade in qrels.items())
    (path / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    lists = {query: [query, *(name for name in texts if name != query)] for query in queries}
    lines = [f"{query} Q0 {name} 0 {9 - at} t\n" for query, names in lists.items() for at, name in enumerate(names)]
    (path / "run.trec").write_text("".join(lines))
    return path


def numbered(names):
    """The same collection with numbers as ids."""
    ids = {name: str(number) for number, name in enumerate(TEXTS, 1)}
    return {"texts": {ids[name]: text for name, text in TEXTS.items()}, "queries": [ids[name] for name in names], "qrels": {}}


# Collections in which a document with the id of the query may be the answer.
KEPT = {"numbers": numbered(["a1", "b1"]), "judged relevant": {"qrels": {**QRELS, ("b1", "b1"): 1}}}


def retrieved(path, **keys):
    written = retrieve(RetrieveConfig(data=str(path), output=str(path / "bm25.trec"), **keys))
    return written.identical, read_run(written.path, BadLines())


def test_retrieve_drops_the_query_itself_and_fills_the_depth(tmp_path, capsys):
    dropped, run = retrieved(folder(tmp_path), depth=2)
    assert dropped == 2
    assert all(query not in documents and len(documents) == 2 for query, documents in run.items())
    assert main(["retrieve", f"data={tmp_path}", f"output={tmp_path / 'again.trec'}"]) == 0
    said = "2 candidates with the id of their query were dropped (ignore_identical_ids=false keeps them)"
    assert said in capsys.readouterr().out
    assert retrieved(tmp_path, ignore_identical_ids=False)[1]["a1"].keys() >= {"a1", "a2"}
    dropped, run = retrieved(tmp_path, candidates=str(tmp_path / "run.trec"))
    assert (dropped, "a1" in run["a1"]) == (2, False)


@pytest.mark.parametrize("name", ["numbers", "judged relevant"])
def test_retrieve_keeps_what_may_be_the_answer(tmp_path, name):
    path = folder(tmp_path, **KEPT[name])
    dropped, run = retrieved(path)
    assert dropped == 0
    assert all(query in documents for query, documents in run.items())
    assert retrieved(path, ignore_identical_ids=True)[0] == 2


def test_retrieve_keeps_documents_where_one_query_is_none(tmp_path):
    path = folder(tmp_path)
    with (path / "queries.jsonl").open("a") as file:
        file.write('{"_id": "other", "text": "blue grass"}\n')
    dropped, run = retrieved(path)
    assert (dropped, "a1" in run["a1"]) == (0, True)


def figures(capsys, path, *arguments):
    assert main(["eval", f"qrels={path / 'qrels' / 'test.tsv'}", f"runs={path / 'run.trec'}", "format=json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)["datasets"][0]["runs"][0]


def test_eval_does_not_count_the_query_itself(tmp_path, capsys):
    lists = {"a1": ["a1", "a2", "x"], "b1": ["b1", "b2", "a1"]}
    path = folder(tmp_path)
    lines = [f"{query} Q0 {name} 1 {9 - at} t\n" for query, names in lists.items() for at, name in enumerate(names)]
    (path / "run.trec").write_text("".join(lines))
    found = figures(capsys, path)
    assert (found["measures"]["nDCG@10"], found["identical"]) == (1.0, 2)
    assert figures(capsys, path, "ignore_identical_ids=false")["measures"]["nDCG@10"] == pytest.approx(0.6309, abs=1e-4)
    assert main(["eval", f"qrels={path / 'qrels' / 'test.tsv'}", f"runs={path / 'run.trec'}"]) == 0
    assert "run: 2 candidates with the id of their query were dropped" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["numbers", "judged relevant"])
def test_eval_keeps_what_may_be_the_answer(tmp_path, capsys, name):
    options = KEPT[name] if name != "numbers" else {**KEPT[name], "qrels": {("1", "2"): 1, ("3", "4"): 1}}
    assert figures(capsys, folder(tmp_path, **options))["identical"] == 0


def reranked(path, data=None, **keys):
    config = RerankConfig(data=str(data or path), run=None if data else str(path / "run.trec"), **keys)
    lists, dropped = without_identical(config, open_candidates(Path(config.data), Path(config.run) if config.run else None))
    for index in range(len(lists)):
        texts = [lists.document(index, place) for place in range(len(lists.document_ids(index)))]
        assert texts == [TEXTS[name] for name in lists.document_ids(index)]
        assert len(lists.scores(index)) == len(texts)
    return dropped, {lists.query_id(index): lists.document_ids(index) for index in range(len(lists))}


def test_rerank_leaves_the_query_itself_out(tmp_path):
    path = folder(tmp_path)
    dropped, lists = reranked(path)
    assert (dropped, lists["a1"]) == (2, ("a2", "b1", "b2", "x"))
    assert reranked(path, ignore_identical_ids=False) == (0, {"a1": ("a1", *lists["a1"]), "b1": ("b1", "a1", "a2", "b2", "x")})
    run = (path / "run.trec").read_text().splitlines(keepends=True)
    (path / "run.trec").write_text("".join(line for line in run if line.startswith("a1") or " b1 0" in line or " a2 0" in line))
    (path / "run.trec").write_text("".join(line for line in run if not line.startswith("b1 Q0") or line.startswith("b1 Q0 b1")))
    assert list(reranked(path)[1]) == ["a1"]  # b1 had no other candidate


def test_rerank_reads_requests_alike(tmp_path):
    def requests(ids):
        rows = [
            {"query": {"text": "q", "qid": ids[query]}, "candidates": [{"docid": ids[n], "doc": {"text": TEXTS[n]}} for n in ids]}
            for query in ("a1", "b1")
        ]
        (tmp_path / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "requests.jsonl"

    dropped, lists = reranked(tmp_path, requests({name: name for name in TEXTS}))
    assert (dropped, lists["b1"]) == (2, ("a1", "a2", "b2", "x"))
    numbers = requests({name: number for number, name in enumerate(TEXTS, 1)})
    config = RerankConfig(data=str(numbers))
    assert without_identical(config, open_candidates(numbers))[1] == 0
    config = RerankConfig(data=str(numbers), ignore_identical_ids=True)
    assert without_identical(config, open_candidates(numbers))[1] == 2


def test_rerank_with_nothing_but_the_queries_themselves_is_refused(tmp_path):
    path = folder(tmp_path)
    (path / "run.trec").write_text("a1 Q0 a1 1 2 t\nb1 Q0 b1 1 2 t\n")
    with pytest.raises(UserError, match="every candidate has the id of its query"):
        reranked(path)


def mined(path, name, **keys):
    keys = {"ranks": ("1-5",), "negatives": 4, "sampling": "top", "source": "run", "run": str(path / "run.trec"), **keys}
    assert mine(MineConfig(data=str(path), output=str(path / name), **keys), dry_run=False) == 0
    rows = [json.loads(line) for line in (path / name / "data" / "positives.jsonl").open()]
    (statistics,) = json.loads((path / name / "data" / "statistics.json").read_text())
    return {query: negatives for query, _, negatives in rows}, statistics["dropped in the ranks: with the id of the query"]


def test_mine_takes_the_query_itself_for_no_negative(tmp_path):
    path = folder(tmp_path, split="train")
    negatives, dropped = mined(path, "auto")
    assert dropped == 2
    assert all(query not in texts for query, texts in negatives.items())
    drawn, _ = mined(path, "drawn", ranks=("2-5",), random_share=1.0)
    assert all(query not in texts for query, texts in drawn.items())
    kept, dropped = mined(path, "kept", ignore_identical_ids=False)
    assert dropped == 0
    assert all(query in texts for query, texts in kept.items())


def test_mine_numbers_rows_itself_so_that_their_ids_mean_nothing(tmp_path):
    rows = [["q", ["p1"], ["n1", "n2"]], ["r", ["p2"], ["n3", "n4"]]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from r0.mining.collection import open_collection

    config = MineConfig(data=str(tmp_path / "rows.jsonl"), ranks=("1-5",), negatives=2, ignore_identical_ids=True)
    assert not open_collection(config).drops_identical

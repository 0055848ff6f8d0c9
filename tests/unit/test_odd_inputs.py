"""Files as people have them: read rightly, or refused in a sentence; no wrong figure, and nothing that is read is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r0.config import ServeConfig
from r0.data.groups import Labelled, by_query
from r0.data.named.folders import open_folder
from r0.data.row_files import BrokenRows, raw_rows
from r0.errors import UserError
from r0.launch import main
from r0.serve.server import token_of

RUN = "0 Q0 d3 1 2.0 t\n1 Q0 d1 1 2.0 t\n2 Q0 d2 1 2.0 t\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.trec").write_text(RUN)
    (tmp_path / "q.qrels").write_text("0 0 d3 1\n1 0 d1 1\n2 0 d2 1\n")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "\tquery-id\tcorpus-id\tscore\n0\t1\td1\t1\n1\t2\td2\t1\n2\t0\td3\t1\n",  # pandas, with its index
        "query-id\tscore\tcorpus-id\n0\t1\td3\n",
        "corpus-id\tquery-id\tscore\nd3\t0\t1\n",
    ],
)
def test_a_header_in_another_order_is_refused(here: Path, capsys: pytest.CaptureFixture, text: str) -> None:
    (here / "odd.tsv").write_text(text)
    assert main(["eval", "qrels=odd.tsv", "runs=r.trec"]) == 2
    assert "judgements have query-id, corpus-id and score, in this order" in capsys.readouterr().err


@pytest.mark.parametrize(
    "header", ["query-id\tcorpus-id\tscore", "query_id\tdoc_id\trelevance", "qid 0 docid rel", "Query Document Score"]
)
def test_a_header_in_order_is_passed_over(here: Path, capsys: pytest.CaptureFixture, header: str) -> None:
    sign = "\t" if "\t" in header else " "
    rows = [sign.join(row) for row in (("0", "d3", "1"), ("1", "d9", "1"))]
    (here / "odd.tsv").write_text("\n".join([header, *rows, ""]))
    assert main(["eval", "qrels=odd.tsv", "runs=r.trec", "measures=nDCG@10"]) == 0
    assert "0.5000" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "qrels=q.qrels", "runs=r.trec", "per_query=q.qrels"],
        ["eval", "qrels=q.qrels", "runs=r.trec", "output=r.trec"],
        ["fuse", "runs=r.trec,r.trec", "output=r.trec"],
        ["retrieve", "data=lists", "qrels=test", "output=lists/corpus.jsonl"],
        ["retrieve", "data=lists", "qrels=test", "output=lists/qrels/test.tsv"],
        ["report", "r.trec", "r2.trec", "qrels=q.qrels", "output=q.qrels"],
    ],
    ids=" ".join,
)
def test_what_is_read_is_not_replaced(here: Path, capsys: pytest.CaptureFixture, words: list[str]) -> None:
    assert main(["convert", "builtin", "lists", "rows=4", "candidates=3"]) == 0
    (here / "r2.trec").write_text(RUN)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(words) == 2
    assert "is also the input; name another output file" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_one_file_for_two_outputs_is_refused(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["eval", "qrels=q.qrels", "runs=r.trec", "output=a.txt", "per_query=./a.txt"]) == 2
    assert "name two files" in capsys.readouterr().err


def test_texts_that_parquet_holds_as_bytes_are_texts(here: Path) -> None:
    columns = {"query": pa.array([b"q text"], pa.binary()), "document": pa.array(["café".encode()], pa.large_binary())}
    pq.write_table(pa.table({**columns, "label": [1]}), here / "rows.parquet")
    (row,) = raw_rows(here / "rows.parquet")
    assert json.loads(row.raw) == {"query": "q text", "document": "café", "label": 1}
    pq.write_table(pa.table({"query": pa.array([b"\xff\xfe"], pa.binary())}), here / "bad.parquet")
    with pytest.raises(UserError, match=r"bad\.parquet: is not a readable parquet file"):
        list(raw_rows(here / "bad.parquet"))


@pytest.mark.parametrize("rows", ['first\t"open\t1\nnext\tcell "here" closes"\t0\n', 'first\t"open\nnext\tcloses"\t1\n'])
def test_a_stray_quotation_mark_does_not_join_rows(here: Path, rows: str) -> None:
    (here / "t.tsv").write_text("query\tdocument\tlabel\n" + rows)
    with pytest.raises(BrokenRows, match="quotation mark") as found:
        list(raw_rows(here / "t.tsv"))
    assert found.value.number == 2


def test_a_cell_of_a_table_may_have_lines(here: Path) -> None:
    (here / "t.tsv").write_text('query\tdocument\tlabel\nq\t"one\ntwo"\t1\n')
    (row,) = raw_rows(here / "t.tsv")
    assert json.loads(row.raw) == {"query": "q", "document": "one\ntwo", "label": "1"}


def test_a_set_that_a_suite_lists_twice_is_refused(here: Path, capsys: pytest.CaptureFixture) -> None:
    (here / "suite.yaml").write_text("nq: {data: a}\nnq: {data: b}\n")
    assert main(["bench", "suite=suite.yaml", "model=r0-tiny", "--dry-run"]) == 2
    assert "nq" in capsys.readouterr().err


def test_a_text_is_positive_if_one_triplet_says_so() -> None:
    triplets = [Labelled("q", ("a", "b"), (), "1", (1.0, 0.0)), Labelled("q", ("b", "c"), (), "2", (1.0, 0.0))]
    (one,) = by_query(triplets)
    assert dict(zip(one.documents, one.labels, strict=True)) == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_a_repository_that_is_partly_downloaded_is_refused(here: Path) -> None:
    for name, rows in (("corpus", {"_id": ["d1"], "text": ["one"]}), ("queries", {"_id": ["q"], "text": ["two"]})):
        (here / "dl" / name).mkdir(parents=True)
        file = "corpus-00000-of-00002" if name == "corpus" else "queries-00000-of-00001"
        pq.write_table(pa.table(rows), here / "dl" / name / f"{file}.parquet")
    folder = open_folder(here / "dl")
    assert folder is not None
    with pytest.raises(UserError, match="corpus-00001-of-00002 is missing; download the data set again"):
        folder.fetched([f"corpus/{path.name}" for path in (here / "dl" / "corpus").iterdir()], here)


def test_amazons_query_0_is_a_query_and_a_row_without_a_product_is_named(here: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [{"query": f"q{number}", "query_id": number, "esci_label": label, "product_id": f"p{number}", "product_locale": "us",
             "product_title": "a thing", "small_version": 1.0} for number, label in enumerate("EI")]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), here / "esci.parquet")
    assert main(["convert", "esci.parquet", "out", "version=small"]) == 0
    assert [json.loads(line)["_id"] for line in (here / "out" / "queries.jsonl").read_text().splitlines()] == ["0", "1"]
    examples = [{"query": "q", "esci_label": "E", "product_id": "p1", "product_locale": "us"}, {"query": "q", "esci_label": "S"}]
    (here / "ex.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples))
    wrong = (("t", "ex.jsonl:2: product_id or product_locale is missing"), (5, 'pr.jsonl:1: "product_title" must be text'))
    for product, said in wrong:
        (here / "pr.jsonl").write_text(json.dumps({"product_id": "p1", "product_locale": "us", "product_title": product}) + "\n")
        assert main(["convert", "ex.jsonl", "g.jsonl", "products=pr.jsonl"]) == 2
        assert said in capsys.readouterr().err


def test_a_blank_token_does_not_open_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_of(ServeConfig(model="m", api_key=" secret\n")) == "secret"
    with pytest.raises(UserError, match="api_key: is blank"):
        token_of(ServeConfig(model="m", api_key="\n"))
    monkeypatch.setenv("R0_API_KEY", " \n")
    with pytest.raises(UserError, match="R0_API_KEY: is blank"):
        token_of(ServeConfig(model="m"))


def test_links_are_sets_by_their_own_names(here: Path, capsys: pytest.CaptureFixture) -> None:
    (here / "suite").mkdir()
    for name in ("A", "B"):
        assert main(["convert", "builtin", f"{name}/nq", "rows=4", "candidates=3"]) == 0
        (here / "suite" / f"nq-{name}").symlink_to(here / name / "nq")
    capsys.readouterr()
    assert main(["bench", "suite=suite", "model=r0-tiny", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "nq-A:" in said
    assert "nq-B:" in said


def test_a_report_counts_as_eval_does_where_queries_are_documents(here: Path, capsys: pytest.CaptureFixture) -> None:
    (here / "arg.tsv").write_text("a\ta\t0\na\tb\t1\nb\ta\t1\n")
    for number, (own, other) in enumerate(((2.0, 1.0), (1.0, 2.0)), 1):
        rows = [f"{query} Q0 {query} 1 {own} t\n{query} Q0 {answer} 2 {other} t\n" for query, answer in ("ab", "ba")]
        (here / f"arg{number}.trec").write_text("".join(rows))
    assert main(["report", "arg1.trec", "arg2.trec", "qrels=arg.tsv", "output=rep.html"]) == 0
    assert "nDCG@10 1 \\u2192 1 (0)" in (here / "rep.html").read_text()

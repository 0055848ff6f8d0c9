"""Benchmarks: which sets a suite has, where their files are, the table, and two sets with a model, interrupted and repaired."""

import json
import os
import signal
from pathlib import Path

import pytest

from r0.bench.set_files import find_files
from r0.bench.suite import BenchSet, open_suite
from r0.bench.table import Results, SetResult, as_json, markdown, text
from r0.commands import bench as command
from r0.config import EvaluateConfig, RetrieveConfig
from r0.config.bench import SUITES
from r0.data.candidates import open_candidates
from r0.errors import UserError
from r0.evaluation.first_stage import retrieve
from r0.evaluation.report import evaluate
from r0.launch import main
from r0.rerank.reranker import Reranker
from r0.runs.resolved import NAMES_OF_R0


def beir(folder: Path, qrels: tuple[str, ...] = ("test",)) -> Path:
    """A BEIR folder of three documents and two queries."""
    (folder / "qrels").mkdir(parents=True)
    documents = {"d1": "red fish", "d2": "blue fish", "d3": "green bird"}
    for name, rows in (("corpus", documents), ("queries", {"q1": "red fish", "q2": "bird"})):
        lines = (json.dumps({"_id": one, "text": words}) + "\n" for one, words in rows.items())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    for split in qrels:
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td3\t1\n")
    return folder


# Suites


def test_a_folder_of_beir_folders_is_a_suite_and_so_is_a_single_one(tmp_path):
    for name in ("b", "a"):
        beir(tmp_path / "sets" / name)
    (tmp_path / "sets" / "notes").mkdir()
    found = open_suite(str(tmp_path / "sets"))
    assert [(one.name, one.data) for one in found] == [(name, str(tmp_path / "sets" / name)) for name in ("a", "b")]
    assert [one.name for one in open_suite(str(tmp_path / "sets" / "b"))] == ["b"]


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_of_r0_lists_its_sets(suite, tmp_path):
    assert suite in NAMES_OF_R0  # no path
    found = open_suite(suite, str(tmp_path))
    assert len(found) == {"beir-small": 5, "bright": 12}[suite]
    assert {one.measure for one in found} == {"nDCG@10"}


def test_below_data_root_a_folder_called_like_a_set_is_its_data(tmp_path):
    beir(tmp_path / "scifact")
    data = {one.name: one.data for one in open_suite("beir-small", str(tmp_path))}
    assert data["scifact"] == str(tmp_path / "scifact")
    assert data["nfcorpus"] == "hf:BeIR/nfcorpus"
    with pytest.raises(UserError, match="suite=bright lists folders; give the folder that has biology, earth_science"):
        open_suite("bright")


def test_paths_in_a_file_are_below_its_folder_or_data_root(tmp_path):
    beir(tmp_path / "here" / "one")
    (tmp_path / "other").mkdir()
    entries = '{one: , two: {"data": "hf:a/b", "run": "bm25/two.trec", "qrels": "dev", "measure": "MRR@10"}, three: x/y}'
    (tmp_path / "here" / "suite.yaml").write_text(entries)
    one, two, three = open_suite(str(tmp_path / "here" / "suite.yaml"))
    assert one == BenchSet("one", str(tmp_path / "here" / "one"))
    assert two == BenchSet("two", "hf:a/b", str(tmp_path / "here" / "bm25" / "two.trec"), "dev", measure="MRR@10")
    assert three.data == str(tmp_path / "here" / "x" / "y")
    assert open_suite(str(tmp_path / "here" / "suite.yaml"), str(tmp_path / "other"))[0].data == str(tmp_path / "other" / "one")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "suite.yaml: lists no data set"),
        ("a:\n  dta: x\n", "suite.yaml:2: unknown key dta of a; did you mean data?"),
        ("a: {depth: x}\n", "suite.yaml:1: unknown key depth of a; data, run, qrels, excluded, measure"),
        ("a:\n  data: [x]\n", "suite.yaml:2: data of a must be a text"),
        ("a: 3\n", r"suite.yaml:1: a must be a mapping such as {data: beir/a}"),
        ("a/b: x\n", "suite.yaml:1: a/b is no name of a folder"),
        ("a:\n  measure: nDGC@10\n", "suite.yaml:2: measures: there is no nDGC@10; did you mean nDCG@10?"),
        ("a: x\na: y\n", "suite.yaml:2: a is given twice"),
        ("- a\n", "suite.yaml:1: a configuration is a mapping"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path, content, words):
    (tmp_path / "suite.yaml").write_text(content)
    with pytest.raises(UserError, match=words):
        open_suite(str(tmp_path / "suite.yaml"))


def test_what_is_no_suite_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no beir; give beir-small, bright, a folder of BEIR folders, or a file"):
        open_suite("beir")
    with pytest.raises(UserError, match=r"no folder in .* has a corpus.jsonl and a queries.jsonl"):
        open_suite(str(tmp_path))
    with pytest.raises(UserError, match="data_root: there is no folder nowhere"):
        open_suite("bright", "nowhere")
    with pytest.raises(UserError, match="is a folder, which has the data sets itself; remove data_root"):
        open_suite(str(beir(tmp_path / "a")), str(tmp_path))


# Files of a set


def files_of(folder: Path, **keys: str):
    return find_files(BenchSet(folder.name, str(folder), **keys))


def test_the_run_and_the_judgements_of_a_folder_are_found(tmp_path):
    folder = beir(tmp_path / "a", ("train", "test"))
    assert files_of(folder).run is None
    assert files_of(folder).qrels == folder / "qrels" / "test.tsv"
    assert files_of(folder, qrels="train").qrels == folder / "qrels" / "train.tsv"
    assert files_of(beir(tmp_path / "b", ("dev",))).qrels == tmp_path / "b" / "qrels" / "dev.tsv"
    (folder / "bm25.trec.gz").write_text("")
    assert files_of(folder).run == folder / "bm25.trec.gz"
    (folder / "dense.trec").write_text("")
    with pytest.raises(UserError, match=r"has bm25.trec.gz and dense.trec; name the one of the first stage"):
        files_of(folder)
    assert files_of(folder, run=str(folder / "dense.trec")).run == folder / "dense.trec"
    with pytest.raises(UserError, match=r"run: .*none.trec: no such file"):
        files_of(folder, run=str(folder / "none.trec"))
    with pytest.raises(UserError, match=r"qrels: .* does not exist"):
        files_of(beir(tmp_path / "c", ()))
    with pytest.raises(UserError, match=r"data: .*: no such folder"):
        files_of(tmp_path / "d")


@pytest.fixture
def bright(tmp_path) -> Path:
    """A set as BRIGHT publishes it: documents with content, examples with gold and excluded ids."""
    folder = tmp_path / "bright"
    folder.mkdir()
    documents = {"x/1.txt": "red fish", "x/2.txt": "red fish and more", "x/3.txt": "a red bird", "x/4.txt": "other"}
    rows = [{"id": name, "content": words} for name, words in documents.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [
        {"id": "0", "query": "red fish", "gold_ids": ["x/3.txt"], "excluded_ids": ["x/1.txt"]},
        {"id": "1", "query": "other", "gold_ids": ["x/4.txt"], "excluded_ids": ["N/A"]},
    ]
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    return folder


def test_bright_is_read_as_it_is_published(bright):
    files = files_of(bright)
    assert files.qrels == bright / "queries.jsonl"
    assert files.excluded == (bright / "queries.jsonl",)
    run, names = bright.parent / "run.trec", (str(bright / "queries.jsonl"),)
    retrieve(RetrieveConfig(data=str(bright), output=str(run), qrels=names[0], excluded=names, depth=2))
    ranked = [line.split()[:3:2] for line in run.read_text().splitlines()]
    assert ranked == [["0", "x/2.txt"], ["0", "x/3.txt"], ["1", "x/4.txt"]]  # as deep as without the excluded document
    lists = open_candidates(bright, run)
    assert (lists.query(0), lists.document(0, 1)) == ("red fish", "a red bird")
    report = evaluate(EvaluateConfig(qrels=names, excluded=names, runs=(str(run),), measures=("RR@10",)))
    assert report.datasets[0].runs[0].means == {"RR@10": 0.75}


# The table


def result(folder: Path, name: str, measure: str, ranks: tuple[int, int]) -> SetResult:
    """A set of two queries whose relevant document is at these ranks; the first stage has it at rank 2."""
    (folder / name).mkdir()
    (folder / name / "qrels").write_text("q1 0 d1 1\nq2 0 d1 1\n")
    for run, places in (("first", (2, 2)), ("mine", ranks)):
        rows = (
            f"q{number} Q0 {'d1' if rank == place else f'n{rank}'} {rank} {9 - rank} x\n"
            for number, place in enumerate(places, 1)
            for rank in (1, 2, 3)
        )
        (folder / name / run).write_text("".join(rows))
    one = str(folder / name)
    config = EvaluateConfig(qrels=(f"{one}/qrels",), runs=(f"{one}/mine",), first_stage=f"{one}/first", measures=(measure, "P@1"))
    return SetResult(name, "BM25" if name == "a" else "dense.trec", evaluate(config))


def test_the_table_has_sets_means_of_like_measures_and_failures(tmp_path):
    done = [result(tmp_path, "a", "RR@10", (1, 1)), result(tmp_path, "b", "RR@10", (1, 3)), result(tmp_path, "c", "P@1", (2, 1))]
    results = Results("runs/x/model", "listwise", 4, done, {"d": "data: nowhere"})
    lines = text(results).splitlines()
    assert lines[0] == "runs/x/model, listwise"
    assert [line.split() for line in lines[3:8]] == [
        ["a", "2", "RR@10", "0.5000", "1.0000", "+0.5000*", "<0.0001"],
        ["b", "2", "RR@10", "0.5000", "0.6667", "+0.1667", "0.7048"],
        ["c", "2", "P@1", "0.0000", "0.5000", "+0.5000", "0.5000"],
        ["mean", "of", "2", "of", "4", "RR@10", "0.5000", "0.8333", "+0.3333"],
        ["mean", "of", "1", "of", "4", "P@1", "0.0000", "0.5000", "+0.5000"],
    ]
    assert lines[9:] == [
        "first stage: BM25 (a)",
        "first stage: dense.trec (b, c)",
        "Δ and p: against the first stage, two-sided paired t-test; * p < 0.05, not corrected for 3 comparisons",
        "d failed: data: nowhere",
    ]
    assert done[0].sentence() == "a: RR@10 0.5000 → 1.0000 (+0.5000*)"
    assert "| b | 2 | RR@10 | 0.5000 | 0.6667 | +0.1667  | 0.7048 |" in markdown(results).splitlines()
    content = json.loads(as_json(results))
    assert content["mean"][0] == {
        "measure": "RR@10", "data_sets": 2, "first_stage": 0.5, "reranked": pytest.approx(5 / 6),
        "difference": pytest.approx(1 / 3),
    }  # fmt: skip
    assert [one["runs"][1]["measures"]["P@1"] for one in content["data_sets"]] == [1.0, 0.5, 0.5]
    assert content["failed"] == {"d": "data: nowhere"}


def test_without_a_set_that_worked_the_table_has_the_failures(tmp_path):
    shown = text(Results("m", "listwise", 1, [], {"d": "data: nowhere"})).splitlines()
    assert shown[-1] == "d failed: data: nowhere"
    assert json.loads(as_json(Results("m", "listwise", 0)))["mean"] == []


# With a model


LINE = ["model=r0-tiny", "method=pointwise", "thinking=false", "rollout.engine=hf", "ray.inline=true"]


@pytest.fixture
def sets(tmp_path) -> Path:
    """Two sets; the second has no run, and its judgements are not where they are looked for."""
    for seed, name in enumerate(("a", "b")):
        assert main(["convert", "builtin", str(tmp_path / "sets" / name), "rows=4", "candidates=3", f"seed={seed}"]) == 0
    (tmp_path / "sets" / "b" / "given.trec").unlink()
    return tmp_path / "sets"


def bench(sets: Path, *more: str) -> int:
    return main(["bench", f"suite={sets}", f"output={sets.parent / 'run'}", *LINE, *more])


def test_a_set_that_fails_is_named_and_the_others_go_on(sets, capsys, monkeypatch):
    started, of = [], Reranker.of.__func__
    monkeypatch.setattr(Reranker, "of", classmethod(lambda cls, keys: started.append(keys) or of(cls, keys)))
    qrels = sets / "a" / "qrels" / "test.tsv"
    qrels.rename(sets / "away.tsv")
    assert bench(sets) == 1
    printed = capsys.readouterr()
    assert f"r0: a: qrels: {qrels} does not exist" in printed.err
    assert "mean of 1 of 2" in printed.out
    assert "a failed: qrels:" in printed.out
    run = sets.parent / "run"
    assert not (run / "finished.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (run / "sets" / "b").rglob("*.trec")}
    assert len(kept) == 2  # BM25's, and the model's

    (sets / "away.tsv").rename(qrels)
    assert bench(sets) == 0
    printed = capsys.readouterr()
    assert f"{run / 'sets' / 'b' / 'rerank' / 'run.trec'}: finished before" in printed.out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (run / "finished.json").is_file()
    assert len(started) == 2  # once in each process: sets share a reranker

    assert printed.out.endswith(f"{run / 'table'}.md, table.json\n")
    content = json.loads((run / "table.json").read_text())
    assert [(one["data_set"], one["first_stage"]) for one in content["data_sets"]] == [("a", "given.trec"), ("b", "BM25")]
    for name, first in (("a", sets / "a" / "given.trec"), ("b", run / "sets" / "b" / "first_stage.trec")):
        mine = run / "sets" / name / "rerank" / "run.trec"
        judged = sets / name / "qrels" / "test.tsv"
        assert main(["eval", f"qrels={judged}", f"runs={mine}", f"first_stage={first}", "format=json"]) == 0
        measured = json.loads(capsys.readouterr().out)["datasets"][0]["runs"]
        own = next(one["runs"] for one in content["data_sets"] if one["data_set"] == name)
        assert own == measured
    assert (run / "table.md").read_text().count("| nDCG@10 |") == 3


def test_an_interrupted_bench_goes_on(sets, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(command.retrieve, "run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert bench(sets) == 143  # in the second set, which needs BM25
    assert "the same command goes on from what is saved" in capsys.readouterr().err
    run = sets.parent / "run"
    first = (run / "sets" / "a" / "rerank" / "queries.jsonl").stat()
    assert not (run / "table.md").exists()
    assert bench(sets) == 0
    assert (run / "sets" / "a" / "rerank" / "queries.jsonl").stat().st_mtime_ns == first.st_mtime_ns
    assert "mean of 2 " in capsys.readouterr().out


def test_a_model_that_cannot_start_ends_the_bench(sets, monkeypatch):
    def broken(cls, keys):
        raise MemoryError

    monkeypatch.setattr(Reranker, "of", classmethod(broken))
    with pytest.raises(MemoryError):
        bench(sets)


def test_the_plan_names_the_files_of_each_set(sets, capsys):
    (sets / "b" / "qrels" / "test.tsv").unlink()
    assert bench(sets, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"  a: {sets / 'a'}, first stage {sets / 'a' / 'given.trec'}, nDCG@10 by {sets / 'a' / 'qrels' / 'test.tsv'}" in shown
    assert f"  b: qrels: {sets / 'b' / 'qrels' / 'test.tsv'} does not exist" in shown.partition("missing:")[2]
    assert not (sets.parent / "run").exists()

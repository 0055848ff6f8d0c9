"""``eval``: its input, the comparison with the first stage, several data sets, BRIGHT's exclusions, bad input."""

import csv
import io
import json
import random
from pathlib import Path

import pytest

from r0.config import EvaluateConfig
from r0.data.jsonl import BadLines
from r0.errors import UserError
from r0.evaluation.judgements import drop_excluded, open_judgements
from r0.evaluation.report import evaluate
from r0.launch import main

MUSIQUE = Path(__file__).parents[2].parent / "shared" / "data" / "musique100"
QRELS = "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t1\nq1\tc\t0\nq2\ta\t1\nq3\tb\t1\n"


def lines(query, *documents):
    """A list of a run, best first."""
    return "".join(f"{query} Q0 {name} {rank} {-rank} t\n" for rank, name in enumerate(documents, 1))


@pytest.fixture
def files(tmp_path):
    """Judgements of three queries and three runs: bad, good, and one that lacks a query and has another."""
    (tmp_path / "qrels.tsv").write_text(QRELS)
    bad = lines("q1", "c", "b", "a") + lines("q2", "b", "a") + lines("q3", "a", "b")
    good = lines("q1", "a", "b", "c") + lines("q2", "a", "b") + lines("q3", "b", "a")
    (tmp_path / "bm25.trec").write_text(bad)
    (tmp_path / "good.trec").write_text(good)
    (tmp_path / "partial.trec").write_text(lines("q1", "a", "b", "x") + lines("q2", "a") + lines("q9", "a"))
    return tmp_path


def config(files, *runs, **keys):
    keys = {"qrels": (str(files / "qrels.tsv"),), **keys}
    return EvaluateConfig(runs=tuple(str(files / run) for run in runs), **keys)


def command(capsys, *arguments):
    """(exit code, standard output, standard error) of ``eval``."""
    code = main(["eval", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_first_stage_is_the_first_row_and_every_other_run_is_compared_with_it(files):
    report = evaluate(config(files, "good.trec", "partial.trec", first_stage=str(files / "bm25.trec")))
    (dataset,) = report.datasets
    first, good, partial = dataset.runs
    assert [run.name for run in dataset.runs] == ["bm25", "good", "partial"]
    assert [run.first_stage for run in dataset.runs] == [True, False, False]
    assert first.difference is None
    assert good.means["nDCG@10"] == 1.0
    assert good.difference == pytest.approx(1.0 - first.means["nDCG@10"])
    assert partial.means["nDCG@10"] == pytest.approx(2 / 3)
    assert partial.measured.missing == {"q3"}
    assert partial.measured.unjudged == 1
    assert dataset.queries == 3
    assert not report.mean


def test_without_first_stage_the_first_run_is_it_and_a_run_given_twice_is_shown_once(files):
    assert [run.name for run in evaluate(config(files, "good.trec", "bm25.trec")).datasets[0].runs] == ["good", "bm25"]
    report = evaluate(config(files, "good.trec", "bm25.trec", first_stage=str(files / "bm25.trec")))
    assert [run.name for run in report.datasets[0].runs] == ["bm25", "good"]


def test_runs_are_named_by_the_shortest_tail_of_their_paths_that_tells_them_apart(files):
    for place in ("a/run.trec", "b/run.trec", "b/good.trec"):
        (files / place).parent.mkdir(exist_ok=True)
        (files / place).write_text((files / "good.trec").read_text())
    report = evaluate(config(files, "bm25.trec", "a/run.trec", "b/run.trec", "b/good.trec"))
    assert [run.name for run in report.datasets[0].runs] == ["bm25", "a/run", "b/run", "good"]
    assert evaluate(config(files, "bm25.trec", "a/run.trec")).datasets[0].runs[1].name == "a/run"


def test_significance_needs_a_difference_that_is_sure(tmp_path):
    draw = random.Random(5)
    names = [f"d{at}" for at in range(10)]
    qrels, weak, strong, same = "", "", "", ""
    for query in (f"q{at}" for at in range(60)):
        shuffled = draw.sample(names, 10)
        best = draw.choice(shuffled)
        qrels += f"{query} 0 {best} 1\n"
        weak += lines(query, *shuffled)
        strong += lines(query, best, *(name for name in shuffled if name != best))
        same += lines(query, *draw.sample(names, 10))
    for name, content in (("qrels.tsv", qrels), ("weak.trec", weak), ("strong.trec", strong), ("same.trec", same)):
        (tmp_path / name).write_text(content)
    for test in ("t", "permutation"):
        _, better, other = evaluate(config(tmp_path, "weak.trec", "strong.trec", "same.trec", test=test)).datasets[0].runs
        assert better.significant
        assert better.p_value < 0.001
        assert not other.significant
        assert other.p_value > 0.05


def test_the_text_table_has_all_notes(files, capsys):
    runs = f"runs={files / 'good.trec'},{files / 'partial.trec'}"
    code, out, err = command(capsys, f"qrels={files / 'qrels.tsv'}", runs, f"first_stage={files / 'bm25.trec'}")
    assert (code, err) == (0, "")
    rows = out.splitlines()
    assert rows[0].split()[:4] == ["run", "nDCG@1", "nDCG@5", "nDCG@10"]
    assert rows[1].startswith("bm25 (first stage)")
    assert rows[2].startswith("good")
    assert "1.0000" in rows[2]
    assert "means over 3 judged queries" in out
    assert "partial lacks 1 judged queries; they count as 0" in out
    assert "partial has 1 queries without judgements; they are ignored" in out
    assert "two-sided paired t-test; * p < 0.05, not corrected for 2 comparisons" in out


def test_markdown_is_a_table_whose_names_are_not_taken_for_marks(files, capsys):
    (files / "a_b|c.trec").write_text((files / "good.trec").read_text())
    code, out, _ = command(
        capsys, f"qrels={files / 'qrels.tsv'}", f"runs={files / 'bm25.trec'},{files / 'a_b|c.trec'}", "format=markdown"
    )
    rows = out.splitlines()
    assert code == 0
    assert rows[1] == "|---|" + "---:|" * (rows[0].count("|") - 2)
    assert rows[3].startswith("| a\\_b\\|c | 1.0000 |")
    assert "\n- means over 3 judged queries\n" in out


def test_csv_and_json_have_every_figure(files, capsys):
    arguments = [f"qrels={files / 'qrels.tsv'}", f"runs={files / 'bm25.trec'},{files / 'partial.trec'}"]
    _, out, _ = command(capsys, *arguments, "format=csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["run"] for row in rows] == ["bm25", "partial"]
    assert rows[0]["first_stage"] == "true"
    assert float(rows[1]["nDCG@10"]) == pytest.approx(2 / 3)
    assert (rows[1]["missing"], rows[1]["unjudged"], rows[1]["queries"]) == ("1", "1", "3")
    _, out, _ = command(capsys, *arguments, "format=json", "exponential_gain=true")
    (dataset,) = json.loads(out)["datasets"]
    assert dataset["runs"][1]["measures"]["nDCG@10"] == pytest.approx(2 / 3)
    assert dataset["runs"][1]["measures"]["nDCG_exp@10"] == pytest.approx(2 / 3)
    assert dataset["runs"][1]["p_value"] == pytest.approx(float(rows[1]["p_value"]))


def test_table_and_measures_of_every_query_are_written_to_files(files, capsys):
    table, queries = files / "new" / "table.txt", files / "new" / "queries.jsonl"
    runs = f"runs={files / 'bm25.trec'},{files / 'partial.trec'}"
    code, out, _ = command(capsys, f"qrels={files / 'qrels.tsv'}", runs, f"output={table}", f"per_query={queries}")
    assert code == 0
    assert table.read_text() == out
    rows = [json.loads(line) for line in queries.read_text().splitlines()]
    expected = [(run, query) for run in ("bm25", "partial") for query in ("q1", "q2", "q3")]
    assert [(row["run"], row["query_id"]) for row in rows] == expected
    assert rows[5]["missing"]
    assert rows[5]["nDCG@10"] == 0.0
    assert rows[3]["nDCG@10"] == 1.0


def test_several_data_sets_have_a_table_each_and_a_mean(files, capsys):
    for name, run in (("x", "good.trec"), ("y", "partial.trec")):
        (files / name).mkdir()
        (files / name / "qrels.tsv").write_text(QRELS)
        (files / name / "bm25.trec").write_text((files / "bm25.trec").read_text())
        (files / name / "mine.trec").write_text((files / run).read_text())
    keys = {"qrels": (f"{files}/{{}}/qrels.tsv",), "datasets": ("x", "y")}
    report = evaluate(config(files, "{}/bm25.trec", "{}/mine.trec", **keys))
    assert [dataset.name for dataset in report.datasets] == ["x", "y"]
    assert report.mean[1].means["nDCG@10"] == pytest.approx((1 + 2 / 3) / 2)
    assert report.mean[1].difference == pytest.approx(sum(dataset.runs[1].difference for dataset in report.datasets) / 2)
    assert report.mean[0].difference is None
    arguments = (f"qrels={files}/{{}}/qrels.tsv", f"runs={files}/{{}}/bm25.trec,{files}/{{}}/mine.trec", "datasets=x,y")
    _, out, _ = command(capsys, *arguments)
    assert "mean of 2 data sets" in out
    assert "nDCG@10 by data set" in out
    assert "y: mine lacks 1 judged queries" in out
    _, out, _ = command(capsys, *arguments, "format=csv")
    assert [row["dataset"] for row in csv.DictReader(io.StringIO(out))] == ["x", "x", "y", "y", "mean", "mean"]
    assert len({line.count(",") for line in out.splitlines()}) == 1
    _, out, _ = command(capsys, *arguments, "format=json")
    assert json.loads(out)["mean"][1]["measures"]["nDCG@10"] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"qrels": ("{}.tsv",)}, r"qrels: \{\}\.tsv contains \{\} for a data set's name; give the names with datasets="),
        ({"datasets": ("x",)}, r"contains no \{\}"),
        ({"datasets": ("x", "x"), "qrels": ("{}.tsv",)}, "datasets: x occurs twice"),
        ({"qrels": ()}, "qrels: give the judgements"),
        ({"qrels": ("nowhere.tsv",)}, r"nowhere\.tsv: no such file"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(files, keys, reason):
    with pytest.raises(UserError, match=reason):
        evaluate(config(files, "good.trec", **keys))


def test_no_run_at_all_is_refused(files):
    with pytest.raises(UserError, match="runs: give at least one TREC run"):
        evaluate(config(files))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("q1 Q0 a 1 nan t\n", r'run\.trec:1: the score "nan" is not finite'),
        ("q1 Q0 a 1 2 t\nq1 Q0 a 2 1 t\n", r"run\.trec:2: this candidate \(query and document\) occurs twice"),
        ("q1 Q0 a 1 2\n", r"run\.trec:1: 5 columns where a run has 6"),
        ("q8 Q0 a 1 2 t\nq9 Q0 a 1 2 t\n", r"run\.trec: none of the run's 2 queries is among the 3 judged ones"),
        ("", r"run\.trec: the file is empty"),
    ],
)
def test_a_bad_run_gives_a_one_sentence_error_with_its_location_and_exit_code_2(files, capsys, content, reason):
    (files / "run.trec").write_text(content)
    with pytest.raises(UserError, match=reason):
        evaluate(config(files, "run.trec"))
    code, out, err = command(capsys, f"qrels={files / 'qrels.tsv'}", f"runs={files / 'run.trec'}")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_bad_lines_can_be_skipped_and_are_listed(files, capsys):
    (files / "run.trec").write_text("q1 Q0 a 1 nan t\n" + lines("q2", "a", "b"))
    code, _, err = command(capsys, f"qrels={files / 'qrels.tsv'}", f"runs={files / 'run.trec'}", "--skip-bad")
    assert code == 0
    assert "1 bad lines skipped" in err


def test_a_dry_run_shows_missing_input(files, capsys):
    code, out, _ = command(capsys, f"qrels={files / 'qrels.tsv'}", "runs=nowhere.trec", "--dry-run")
    assert code == 0
    assert "nowhere.trec (which is missing)" in out


def bright(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_brights_layout_gives_grades_and_drops_what_is_excluded(files):
    gold, out = "leetcode/it's_1.txt", "pony/überblick's.txt"
    queries = bright(
        files / "examples.jsonl",
        {"id": "0", "query": "?", "gold_ids": [gold], "excluded_ids": [out, "not/in/the/run"]},
        {"id": "1", "query": "?", "gold_ids": ["b"], "excluded_ids": ["N/A"]},
    )
    (files / "run.trec").write_text(lines("0", out, gold) + lines("1", out, "b"), "utf-8")
    (run,) = evaluate(config(files, "run.trec", qrels=(str(queries),))).datasets[0].runs
    assert run.measured.values["Hit@1"].tolist() == [1.0, 0.0]
    assert run.excluded == 1
    (files / "gold.tsv").write_text(f"0\t{gold}\t1\n1\tb\t1\n", "utf-8")
    same = config(files, "run.trec", qrels=(str(files / "gold.tsv"),), excluded=(str(queries),))
    assert evaluate(same).datasets[0].runs[0].means == run.means


def test_judgements_in_parts_are_taken_together_and_a_pair_in_two_of_them_is_refused(files):
    (files / "one.tsv").write_text("q1\ta\t1\n")
    (files / "two.tsv").write_text("q1\tb\t2\nq2\ta\t1\n")
    both = [files / "one.tsv", files / "two.tsv"]
    assert open_judgements(both, [], BadLines()).grades == {"q1": {"a": 1, "b": 2}, "q2": {"a": 1}}
    with pytest.raises(UserError, match='query "q1", document "a": already judged in another file'):
        open_judgements([*both, files / "qrels.tsv"], [], BadLines())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "0", "gold_ids": "a"}, r'examples\.jsonl:2: "gold_ids" must be a list of document ids'),
        ({"id": "0", "gold_ids": [1]}, r'examples\.jsonl:2: "gold_ids" must be a list of document ids'),
        ({"gold_ids": ["a"]}, r'examples\.jsonl:2: the field "id" is missing'),
        ({"id": "first", "gold_ids": ["a"]}, r'examples\.jsonl:2: this "id" occurs twice'),
        ({"id": "0", "gold_ids": ["a"], "excluded_ids": ["a"]}, 'query "0", document "a": both relevant and excluded'),
    ],
)
def test_a_bad_line_of_brights_queries_gives_a_one_sentence_error(files, row, reason):
    path = bright(files / "examples.jsonl", {"id": "first", "gold_ids": ["x"]}, row)
    with pytest.raises(UserError, match=reason):
        open_judgements([path], [], BadLines())


def test_excluded_files_must_have_exclusions(files):
    path = bright(files / "examples.jsonl", {"id": "q1", "gold_ids": ["a"]})
    with pytest.raises(UserError, match=r'examples\.jsonl:1: "excluded_ids" must be a list'):
        open_judgements([files / "qrels.tsv"], [path], BadLines())


def test_dropping_what_is_excluded_counts_only_what_was_there():
    run = {"q1": {"a": 1.0, "b": 2.0}}
    assert drop_excluded(run, {"q1": frozenset({"a", "x"}), "q2": frozenset({"b"})}) == 1
    assert run == {"q1": {"b": 2.0}}


@pytest.mark.skipif(not MUSIQUE.is_dir(), reason="musique100 is not on this machine")
def test_the_given_order_of_musique100_has_the_known_ndcg(capsys):
    code, out, _ = command(
        capsys, f"qrels={MUSIQUE / 'qrels' / 'test.tsv'}", f"runs={MUSIQUE / 'given_order.trec'}", "format=json"
    )
    (run,) = json.loads(out)["datasets"][0]["runs"]
    assert code == 0
    assert run["measures"]["nDCG@10"] == pytest.approx(0.315, abs=0.001)


def test_chosen_measures_are_the_columns_and_the_first_is_compared(files, capsys):
    runs = [f"qrels={files / 'qrels.tsv'}", f"runs={files / 'bm25.trec'},{files / 'good.trec'}"]
    code, out, _ = command(capsys, *runs, "measures=P@2,nDCG@20,RR@10,AP(rel=2)", "relevance_level=2")
    assert code == 0
    head, first, good = out.splitlines()[:3]
    assert head.split() == ["run", "P@2", "nDCG@20", "RR@10", "AP(rel=2)", "Δ", "P@2", "p"]
    assert first.split()[3:7] == ["0.0000", "0.6273", "0.1111", "0.1111"]  # a, the only one of grade 2, is third for q1
    assert good.split()[1:6] == ["0.1667", "1.0000", "0.3333", "0.3333", "+0.1667"]
    assert "relevant: grade 2 or higher, except for nDCG, which uses all grades" in out
    assert "Δ and p: P@2 against the first stage" in out
    for dry in ([], ["--dry-run"]):
        code, _, error = command(capsys, *runs, "measures=NDGC@20", *dry)
        assert (code, error) == (2, "r0: measures: there is no NDGC@20; did you mean nDCG@20?\n")

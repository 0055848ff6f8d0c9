"""The page of runs: its parts, what it leaves out, and that no text in it becomes markup."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from r0.config import ReportConfig, RerankConfig, StageAConfig
from r0.launch import main, parse
from r0.records import Violation
from r0.report import chart, curves, heldout, numbers, samples, settings
from r0.report.page import embedded, page
from r0.report.run import Run, names, open_runs
from r0.runs import RunDirectory
from r0.runs.calibration import Calibration, bins_of, calibration_error, drop_later, read_calibration, write_calibration
from r0.runs.metrics import rollout_metrics
from r0.runs.rollout_log import RolloutLog
from r0.sampling import grouped
from tests.unit.test_rollout_log import LISTS, scored

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'><!-- {{ 7 * 7 }} \u202e \u2028 \ud800"


def completions(step: int, tasks: int = 6, per_task: int = 2, text: str = "") -> list:
    """Completions of a step: rewards rise with the step, and one in five is cut."""
    draw, found = random.Random(step), []
    for group in range(tasks):
        for sample in range(per_task):
            cut = draw.random() < 0.2
            total = round(draw.random() + step / 10, 3)
            one = scored(
                group, sample, answer=None if cut else draw.choice(("yes", "no")), total=total,
                think_tokens=draw.randrange(20, 90), violations=[Violation.CUT] if cut else [], query=f"needle{group}?",
                document=f"document {group} {text}",
                text=f"<think>step {step} group {group} {text}</think>",
            )  # fmt: skip
            found.append(one)
    return found


def training_run(path: Path, steps: int = 6, text: str = "", **keys: object) -> Path:
    """A finished run of stage A with ``steps`` steps and two evaluations."""
    with RunDirectory.open(path, "stage_a", StageAConfig(**keys)) as directory:
        for mode in ("greedy", "sampled"):
            for step in (0, steps):
                folder = directory.folder("heldout") / mode
                folder.mkdir(exist_ok=True)
                RolloutLog(folder).write(step, grouped(completions(step, tasks=12, per_task=1, text=text)))
        lines, seconds = [], []
        for step in range(steps + 1):
            if step:
                batch = completions(step, text=text)
                RolloutLog(directory.folder("rollouts")).write(step, grouped(batch))
                lines.append({"step": step, **rollout_metrics(grouped(batch)), "gap": 1e-7, "loss": 0.1, "odd_figure": 3.0})
                seconds.append({"step": step, "sample": 2.0, "learn": 1.0, "total": 3.5, "rss_mb/driver": 700.0})
            if step in (0, steps):
                figures = {
                    f"heldout/{mode}/{name}": value
                    for mode in ("greedy", "sampled")
                    for name, value in rollout_metrics(grouped(completions(step, tasks=12, per_task=1))).items()
                }
                lines.append({"step": step, **figures, "heldout/greedy/probe/lookup": 0.5})
        known = [{name: None if isinstance(value, float) and math.isnan(value) else value for name, value in one.items()}
                 for one in lines]  # fmt: skip
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in known))
        (path / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in seconds))
        directory.finish(steps)
    return path


def rerank_run(tmp_path: Path) -> Path:
    """A rerank run over three queries, of which one gains, one loses and one is not judged."""
    data = tmp_path / "beir"
    (data / "qrels").mkdir(parents=True)
    for name, text in (("corpus", f"text {HOSTILE[:-1]}"), ("queries", "query")):
        rows = [{"_id": f"{'d' if name == 'corpus' else 'q'}{at}", "text": f"{text} {at}"} for at in range(3)]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td2\t1\nq1\td0\t1\n")
    order = "".join(f"q{query} Q0 d{at} {at + 1} {3 - at} bm25\n" for query in range(3) for at in range(3))
    (tmp_path / "first.trec").write_text(order)
    config = RerankConfig(data=str(data), run=str(tmp_path / "first.trec"))
    with RunDirectory.open(tmp_path / "order", "rerank", config) as directory:
        reply = {"documents": ["d0", "d1", "d2"], "thought": HOSTILE, "failures": ["missing_id"]}
        rows = [
            {"query_id": f"q{at}", "documents": ["d2", "d1", "d0"], "scores": [3.0, 2.0, 1.0], "replies": [reply], "refused": ""}
            for at in range(3)
        ]
        (directory.path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"query_id": "q')
        (directory.path / "summary.json").write_text('{"queries": 3, "failed_share": 0.25, "failures": {"missing_id": 1}}')
        directory.finish(3)
    return tmp_path / "order"


def opened(*paths: Path) -> list[Run]:
    return open_runs([str(path) for path in paths])


def data_of(html: str) -> dict:
    """The JSON in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, flags=re.S)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of one training run whose texts are hostile."""
    return page(opened(training_run(tmp_path_factory.mktemp("runs") / "one", text=HOSTILE)))


# --- the page


def test_a_page_has_the_runs_curves_figures_completions_and_configuration(html: str) -> None:
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    expected = {"Reward", "Reward by component", "Length of thoughts", "Groups without spread", "Gap", "Seconds of a step: one"}
    assert expected <= set(titles)
    assert "All other figures" in html
    assert "odd_figure" in titles
    assert "12 held-out tasks" in html
    assert re.search(r"<code>reward.acc_weight</code></th><td>0.5</td>", html)
    data = data_of(html)
    assert {item["set"] for item in data["samples"]} == {"worst", "best", "heldout"}
    assert {"before", "after"} <= data["samples"][0].keys()
    assert "<option>cut</option>" in html
    assert len(html) < 8e6


def test_plotly_takes_every_figure(html: str) -> None:
    import plotly.graph_objects

    figures = data_of(html)["charts"]
    assert len(figures) > 12
    for figure in figures:
        assert plotly.graph_objects.Figure(figure).data
        assert all(len(trace["x"]) == len(trace["y"]) > 0 for trace in figure["data"])


def test_no_text_becomes_markup_or_ends_the_script_that_holds_it(html: str) -> None:
    assert html.count("window.pwned") == html.count("\\u003c/script>\\u003cscript>window.pwned = 1\\u003c/script>") * 2 > 0
    assert html.count("<script") == html.count("</script>") == 3 + html.count("&lt;script")
    sample = data_of(html)["samples"][0]
    assert "</script><script>window.pwned" in sample["after"]["text"]
    assert "{{ 7 * 7 }} \\u202e \u2028 \\ud800" in sample["documents"][0]["text"]


def test_the_policy_allows_the_pages_own_scripts_and_nothing_from_elsewhere(html: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)
    assert policy
    assert "default-src &#39;none&#39;" in policy[1]
    assert policy[1].count("sha256-") == 2
    shell = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert not re.search(r'(?:src|href)="(?!#)', shell)


def test_a_configuration_cannot_write_markup(tmp_path: Path) -> None:
    html = page(opened(training_run(tmp_path / "a", steps=1, system_prompt=f"Judge.\n{HOSTILE[:80]}")))
    assert "Judge.\n&lt;/script&gt;&lt;script&gt;window.pwned" in html


def test_several_runs_are_compared(tmp_path: Path) -> None:
    first = training_run(tmp_path / "x" / "run", steps=2, learning_rate=1e-6)
    second = training_run(tmp_path / "y" / "run", steps=3, learning_rate=3e-6)
    runs = opened(first, second, first)
    assert [run.name for run in runs] == ["x/run", "y/run"]
    changed = dict(settings.differences(runs))
    assert changed["learning_rate"] == ["1e-06", "3e-06"]
    assert "output" not in changed
    main, _ = curves.charts(runs, {run.name: heldout.read_evaluations(run) for run in runs})
    reward = next(one for one in main if one.title == "Reward")
    assert [one.name for one in reward.series if one.kind != "points"] == ["x/run", "y/run"]
    assert len({one.color for one in reward.series}) == 2
    html = page(runs)
    assert "How the runs differ" in html
    assert {item["run"] for item in data_of(html)["samples"]} == {0, 1}


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "new", "stage_a", StageAConfig()):
        pass
    html = page(opened(tmp_path / "new"))
    assert "not finished" in html
    assert 'id="curves"' not in html
    assert 'id="samples"' not in html


def test_json_in_a_page_is_valid_and_holds_no_tag() -> None:
    text = embedded({"a": [math.nan, math.inf, 1.5], "b": HOSTILE, "c": ("<!--", "\ud800")})
    assert "<" not in text
    assert json.loads(text) == {"a": [None, None, 1.5], "b": HOSTILE, "c": ["<!--", "\ud800"]}


# --- figures


def test_held_out_figures_are_those_of_the_record_with_intervals_around_them(tmp_path: Path) -> None:
    (run,) = opened(training_run(tmp_path / "one"))
    rows = heldout.rows(run, heldout.read_evaluations(run))
    known = {(row.mode, row.name): row for row in rows if row.before.low is not None}
    for (mode, name), row in known.items():
        assert row.before.value == pytest.approx(run.evaluations[0][f"heldout/{mode}/{name}"])
        assert row.after is not None
        assert row.after.value == pytest.approx(run.evaluations[-1][f"heldout/{mode}/{name}"])
        assert row.before.low <= row.before.value <= row.before.high
    reward = known["greedy", "reward"]
    assert reward.change is not None
    assert reward.change.value == pytest.approx(reward.after.value - reward.before.value)
    assert 0 < reward.change.low < reward.change.high
    assert {name for _, name in known} >= {"reward", "accuracy", "think_tokens", "format_rate"}
    assert [row.name for row in rows if row.name == "probe/lookup"] == ["probe/lookup"]


def test_where_an_evaluation_is_not_stored_the_others_keep_their_intervals(tmp_path: Path) -> None:
    (run,) = opened(training_run(tmp_path / "one"))
    found = heldout.read_evaluations(run)
    steps = sorted({step for _, step, _ in found.sums})
    known = found.intervals("greedy", "reward", [*steps, 10**6])
    assert None not in known[:-1]
    assert known[-1] is None


@pytest.mark.parametrize("batch", [completions(3), LISTS], ids=["pairs", "lists"])
def test_a_figure_is_the_one_that_is_recorded(batch: list) -> None:
    found = dict(heldout._sums(batch))
    recorded = rollout_metrics(grouped(batch))
    assert found.keys() <= recorded.keys()
    for name, sums in found.items():
        assert sums[:, 0].sum() / sums[:, 1].sum() == pytest.approx(recorded[name])


def test_an_interval_is_narrower_with_more_tasks_and_covers_a_normal_one() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    found = heldout.Evaluations({("", 0, "few"): np.c_[values[:25], np.ones(25)], ("", 0, "many"): np.c_[values, np.ones(400)]})
    few, many = found.estimate("", 0, "few"), found.estimate("", 0, "many")
    assert few is not None
    assert many is not None
    assert many.high - many.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert few.high - few.low > 3 * (many.high - many.low)


def test_long_curves_are_thinned_and_a_centred_mean_does_not_lag() -> None:
    points = [(float(step), float(step)) for step in range(10_001)]
    few = chart.thinned(points)
    assert len(few) <= chart.MOST_POINTS
    assert all(x == y for x, y in few)
    assert chart.smoothed([y for _, y in few]) == pytest.approx([y for _, y in few], rel=1e-3)  # the last mean is of fewer points


def test_seconds_add_up_to_the_whole(tmp_path: Path) -> None:
    (run,) = opened(training_run(tmp_path / "one", steps=4))
    found = curves.seconds(run)
    assert found is not None
    assert [row[:3] for row in found.rows] == [("sample", "8.0", "57.1%"), ("learn", "4.0", "28.6%"), ("other", "2.0", "14.3%")]


def test_numbers_are_short() -> None:
    assert [numbers.short(one) for one in (0.4344, 41.44, 1024.0, 2.13e-7, 0.0, math.nan, None)] == [
        "0.434", "41.4", "1024", "2.13e-07", "0", "–", "–",
    ]  # fmt: skip
    assert numbers.signed(-0.25) == "−0.250"
    assert numbers.cut("a\u202eb" + "c" * 10, 4) == "a\\u202ebc … (9 more characters)"


# --- completions


def test_what_is_shown_is_bounded_and_says_what_is_left_out(tmp_path: Path) -> None:
    (run,) = opened(training_run(tmp_path / "one", steps=samples.STEPS + 5))
    found = samples.read_samples(run, 0, 1)
    training = [item for item in found.items if item["set"] != "heldout"]
    assert len(training) == 2 * samples.STEPS
    assert f"{samples.STEPS} of {samples.STEPS + 5} stored steps" in " ".join(found.notes)
    assert len(samples.read_samples(run, 0, 0).items) == 12  # the held-out ones


def test_the_worst_are_of_different_prompts_first() -> None:
    batch = [scored(group, sample, total=group + sample / 10) for group in range(3) for sample in range(3)]
    assert [(one.rollout.group, one.rollout.sample) for one in samples.extreme(batch, 4)] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    assert [one.total for one in samples.extreme(batch, 2, best=True)] == [2.2, 1.2]


def test_long_texts_are_cut_and_lists_have_all_documents() -> None:
    item = samples._task(replace(LISTS[0].rollout.task, documents=("x" * 9000, "b", "c")))
    assert [one["name"] for one in item["documents"]] == ["[1] grade 0", "[2] grade 2", "[3] grade 0.5"]
    assert item["documents"][0]["text"].endswith("(7000 more characters)")
    assert item["label"] == "given [1] > [3] > [2]"


# --- rerank runs


def test_a_rerank_run_shows_gains_losses_both_orders_and_thoughts(tmp_path: Path) -> None:
    html = page(opened(rerank_run(tmp_path)))
    queries = {item["query_id"]: item for item in data_of(html)["queries"]}
    assert queries["q0"]["change"] == 0.5
    assert queries["q1"]["change"] == -0.5
    assert queries["q2"]["change"] is None
    assert [one["id"] for one in queries["q0"]["first"]] == ["d0", "d1", "d2"]
    order = [(one["id"], one["was"], one["grade"]) for one in queries["q0"]["order"]]
    assert order == [("d2", 3, 1.0), ("d1", 2, None), ("d0", 1, None)]
    assert queries["q0"]["replies"][0]["violations"] == ["missing_id"]
    assert "1 queries gain, 1 lose, 0 stay the same" in html
    assert "failed share" in html
    assert html.count("<script") == 3


def test_a_rerank_run_whose_data_is_gone_shows_what_is_left(tmp_path: Path) -> None:
    run = rerank_run(tmp_path)
    (tmp_path / "first.trec").unlink()
    html = page(opened(run))
    assert "its input cannot be read" in html
    assert [item["first"] for item in data_of(html)["queries"]] == [[], [], []]


def test_judgements_that_are_named_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(rerank_run(tmp_path)), "qrels=dev"]) == 2
    assert "choose qrels=test" in capsys.readouterr().err


def test_trec_runs_are_compared_with_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rerank_run(tmp_path)
    (tmp_path / "other.trec").write_text("".join(f"q0 Q0 d{at} {rank} {-rank} x\n" for rank, at in enumerate((2, 0, 1), 1)))
    monkeypatch.chdir(tmp_path)
    assert main(["report", "first.trec", "other.trec", "qrels=beir/qrels/test.tsv"]) == 0
    html = Path("report.html").read_text()
    (item,) = data_of(html)["queries"]
    assert (item["query_id"], item["change"], item["run"]) == ("q0", 0.5, 1)
    assert [one["id"] for one in item["order"]] == ["d2", "d0", "d1"]
    assert [one["id"] for one in item["first"]] == ["d0", "d1", "d2"]
    assert "1 queries gain, 0 lose, 0 stay the same" in html


# --- calibration


def test_calibration_is_stored_and_shown(tmp_path: Path) -> None:
    run = training_run(tmp_path / "one", steps=2)
    bins = bins_of(np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert bins == ((2, 0.05, 0.5), (2, 0.975, 1.0))
    assert calibration_error(bins) == pytest.approx((0.45 + 0.025) / 2)
    found = Calibration(bins, ("grade 0", "grade 1"), ("yes", "no"), ((1, 3), (4, 0)))
    for step in (0, 2, 4):
        write_calibration(run / "heldout", step, found)
    assert read_calibration(run / "heldout" / "step-000002.json") == found
    drop_later(run / "heldout", 2)
    html = page(opened(run))
    assert "Calibration: one" in html
    assert "one, step 2" in html
    assert "one, step 4" not in html
    assert re.search(r'grade 0</th>\s*<td><meter[^>]*value="0.250"', html)


# --- the command


def test_the_command_writes_into_the_run_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = training_run(tmp_path / "one", steps=1)
    assert main(["report", str(run), "--dry-run"]) == 0
    assert f"would write {run / 'report.html'}" in capsys.readouterr().out
    assert not (run / "report.html").exists()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"{run / 'report.html'} (")
    with RunDirectory.open(run, "stage_a", StageAConfig(), fresh=True):
        assert not (run / "report.html").exists()


def test_open_opens_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    opened_pages: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened_pages.append(address))
    run = training_run(tmp_path / "one", steps=1)
    assert main(["report", str(run), "open=true"]) == 0
    assert opened_pages == [(run / "report.html").resolve().as_uri()]
    assert "no browser was found here" in capsys.readouterr().out


def test_several_runs_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = parse("report", ["a, b", "c", "samples=2"])
    assert config == ReportConfig(runs=("a, b", "c"), samples=2)
    monkeypatch.chdir(tmp_path)
    for name in ("a, b", "c"):
        training_run(tmp_path / name, steps=1)
    assert main(["report", "a, b", "c"]) == 0
    assert (tmp_path / "report.html").is_file()


def test_folders_have_the_shortest_names_that_differ() -> None:
    assert names([Path("/r/a/run"), Path("/r/b/run"), Path("/r/c")]) == ["a/run", "b/run", "c"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "runs is missing"),
        (["nowhere"], "there is no folder"),
        (["plain"], "is not a run of r0"),
        (["alone.trec"], "a TREC run is compared with another one"),
        (["run", "output=plain"], "is a folder; name a file"),
        (["damaged"], "step-000001.jsonl.gz: cannot be read"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "alone.trec").write_text("q0 Q0 d0 1 1 x\n")
    training_run(tmp_path / "run", steps=1)
    (training_run(tmp_path / "damaged", steps=1) / "rollouts" / "step-000001.jsonl.gz").write_bytes(b"no gzip")
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1

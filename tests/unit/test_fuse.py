"""``fuse``: reciprocal rank fusion against its formula, ties, queries of some runs only, bad input."""

from fractions import Fraction

import pytest

from r0.data.jsonl import BadLines
from r0.data.runfile import given_order, read_run
from r0.evaluation.fused import fused
from r0.launch import main

# The rank column is wrong on purpose, and counts from 0; scores have different scales.
FIRST = "q1 Q0 a 0 30 x\nq1 Q0 b 1 20 x\nq1 Q0 c 2 10 x\nq2 Q0 a 0 1 x\n"
SECOND = "q1 Q0 d 9 0.1 y\nq1 Q0 c 0 0.3 y\nq1 Q0 a 5 0.2 y\nq3 Q0 e 1 1 y\n"


def command(capsys, *arguments):
    code = main(["fuse", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "one.trec").write_text(FIRST)
    (tmp_path / "two.trec").write_text(SECOND)
    return f"runs={tmp_path / 'one.trec'},{tmp_path / 'two.trec'}"


def read(path):
    return read_run(path, BadLines())


def test_scores_are_the_sums_of_reciprocal_ranks(runs, tmp_path, capsys):
    path = tmp_path / "new" / "both.trec"
    code, out, error = command(capsys, runs, f"output={path}")
    assert (code, error) == (0, "")
    assert out == f"{path}: 6 candidates of 3 queries from 2 runs\n2 queries are not in every run\n"
    expected = {"a": [1, 2], "c": [3, 1], "b": [2], "d": [3]}
    found = read(path)
    assert list(found) == ["q1", "q2", "q3"]
    assert given_order(found["q1"]) == list(expected)
    for name, ranks in expected.items():
        assert found["q1"][name] == pytest.approx(float(sum(Fraction(1, 60 + rank) for rank in ranks)), rel=1e-6)
    assert path.read_text().splitlines()[0].split()[-1] == "rrf"


def test_k_depth_and_tag_do_what_they_say(runs, tmp_path, capsys):
    path = tmp_path / "both.trec"
    assert command(capsys, runs, f"output={path}", "k=0", "depth=1", "tag=mine")[0] == 0
    assert read(path)["q1"] == {"a": pytest.approx(1.5)}
    assert path.read_text().splitlines()[0].split()[-1] == "mine"


def test_equal_sums_keep_the_order_of_the_first_run_and_the_order_of_runs_changes_no_sum():
    one, two = {"z": 2.0, "y": 1.0}, {"y": 2.0, "z": 1.0}
    assert [name for name, _ in fused([one, two], 60)] == ["z", "y"]
    assert [name for name, _ in fused([two, one], 60)] == ["y", "z"]
    many = [{f"d{(number * step) % 17}": -float(number) for number in range(17)} for step in (1, 3, 5, 7, 11)]
    assert dict(fused(many, 60)) == dict(fused(many[::-1], 60))


def test_bad_input_is_one_sentence(runs, tmp_path, capsys):
    output = f"output={tmp_path / 'x.trec'}"
    code, _, error = command(capsys, f"runs={tmp_path / 'one.trec'}", output)
    assert code == 2
    assert "runs: give at least two runs, separated by commas" in error
    code, _, error = command(capsys, runs, output, "tag=a b")
    assert (code, error.count("\n")) == (2, 1)
    for line, what in (("q1 Q0 a 1 nan x\n", "nan"), ("q1 Q0 a 1 inf x\n", "inf"), (FIRST + FIRST, "occurs twice")):
        (tmp_path / "two.trec").write_text(line)
        code, _, error = command(capsys, runs, output)
        assert (code, error.count("\n")) == (2, 1)
        assert what in error
        assert f"{tmp_path / 'two.trec'}:" in error
    code, _, error = command(capsys, runs, output, "skip_bad=true")
    assert code == 0
    assert "occurs twice" in error


def test_a_dry_run_writes_nothing(runs, tmp_path, capsys):
    code, out, _ = command(capsys, runs, f"output={tmp_path / 'x.trec'}", "--dry-run")
    assert (code, out.count("(which exists)")) == (0, 2)
    assert not (tmp_path / "x.trec").exists()

"""Strict JSON lines and the conversion of raw logs: each bad line is named, and output is atomic."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r0.config.commands import ConvertConfig
from r0.data import convert as convert_module
from r0.data.convert import convert
from r0.data.jsonl import BadLine, BadLines, parse, read_lines
from r0.errors import UserError

GOOD = {"query": "q", "response": "d", "response_thinking": "t", "rejected_response": [{"document": "n", "thinking": "u"}]}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": "\\ud800"}', r"lone surrogate \\ud800"),
        (b'{"a": [{"\\udfff": 1}]}', r"lone surrogate \\udfff"),
        (b'{"a": 1, "a": 2}', 'the key "a" occurs twice'),
        (b'{"x": {"a": 1, "a": 2}}', "occurs twice"),
        (b"[1]", "not an object but a list"),
        (b"null", "not an object but null"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1} {"b": 2}', "not JSON: Extra data"),
        (b'{"a": ' * 100_000, "nested too deeply"),
    ],
)
def test_invalid_json_that_python_accepts_is_refused(raw, reason):
    with pytest.raises(BadLine, match=reason):
        parse(raw)


@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_reason(raw):
    with contextlib.suppress(BadLine):
        assert isinstance(parse(raw), dict)


def test_good_lines_keep_number_and_offset(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\\ud83e\\uddea"}\r\n\n  \n{"b": "\xe2\x80\xa8"}')
    lines = list(read_lines(path, BadLines()))
    assert [(line.number, line.offset, line.row) for line in lines] == [(1, 0, {"a": "🧪"}), (4, 30, {"b": "\u2028"})]


def test_bad_lines_are_counted_and_the_first_listed(tmp_path, monkeypatch):
    monkeypatch.setattr("r0.data.row_files.MAX_LINE_BYTES", 100)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x\n" * 30 + b'{"a": "' + b"y" * 300 + b'"}\n{"a": 2}\n')
    bad = BadLines(skip=True)
    assert [line.row["a"] for line in read_lines(path, bad)] == [1, 2]
    assert bad.count == 31
    assert len(bad.first) == 10
    assert f"{path}:2: not JSON" in bad.summary()
    assert "and 21 more" in bad.summary()
    with pytest.raises(UserError, match=r"rows.jsonl:2: not JSON.*skip_bad=true"):
        list(read_lines(path, BadLines()))


def config(tmp_path, *rows, **keys):
    path = tmp_path / "raw.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return ConvertConfig(**{"input": str(path), "output": str(tmp_path / "out.jsonl"), **keys})


def test_a_raw_log_becomes_pointwise_rows(tmp_path):
    second = {**GOOD, "response_thinking": "<think>" + "🧪é" * 5 + "</think>", "rejected_response": []}
    done = convert(config(tmp_path, GOOD, second, max_think_chars=3))
    rows = [json.loads(line) for line in done.output.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {"query": "q", "document": "d", "think": "t", "answer": "yes", "label": 1}
    assert rows[1] == {"query": "q", "document": "n", "think": "u", "answer": "no", "label": 0}
    assert rows[2]["think"] == "🧪é🧪"
    assert (done.rows, done.yes, done.no, done.thoughts_cut) == (3, 2, 1, 1)
    assert "3 rows (2 yes, 1 no)" in done.summary()
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "raw.jsonl"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": "q"}, 'the field "response" is missing'),
        ({**GOOD, "query": " "}, '"query" is empty'),
        ({**GOOD, "response": 3}, '"response" must be a string, not a number'),
        ({**GOOD, "response_thinking": None}, '"response_thinking" must be a string, not null'),
        ({**GOOD, "rejected_response": {}}, '"rejected_response" must be a list'),
        ({**GOOD, "rejected_response": [{"document": "d"}]}, r'rejected_response\[0\]: the field "thinking" is missing'),
        ({**GOOD, "rejected_response": ["d"]}, r"rejected_response\[0\] must be an object, not a string"),
    ],
)
def test_bad_log_lines_leave_nothing_behind(tmp_path, row, reason):
    given = config(tmp_path, GOOD, row)
    with pytest.raises(UserError, match=f"raw.jsonl:2: {reason}"):
        convert(given)
    assert os.listdir(tmp_path) == ["raw.jsonl"]
    done = convert(given.model_copy(update={"skip_bad": True}))
    assert (done.rows, done.bad.count) == (2, 1)


def test_unusable_paths_are_refused(tmp_path):
    good = config(tmp_path, GOOD)
    for update, words in (
        ({"input": str(tmp_path / "none")}, "no such file"),
        ({"input": str(tmp_path)}, "is a directory"),
        ({"output": str(tmp_path)}, "is a directory"),
        ({"output": str(tmp_path / "no" / "out")}, "does not exist; create it"),
        ({"output": good.input}, "is also the input"),
        ({"output": "/proc/out.jsonl"}, "cannot be written"),
    ):
        with pytest.raises(UserError, match=words):
            convert(good.model_copy(update=update))
    with pytest.raises(UserError, match="the file is empty"):
        convert(config(tmp_path))
    with pytest.raises(UserError, match=r"contains no valid line \(1 bad\)"):
        convert(config(tmp_path, "x", skip_bad=True))


def test_a_full_disk_leaves_the_old_output(tmp_path, monkeypatch):
    given = config(tmp_path, GOOD)
    convert(given)
    before = (tmp_path / "out.jsonl").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_module.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot be written .No space left"):
        convert(given)
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "raw.jsonl"]

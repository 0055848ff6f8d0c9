"""What a file of rows may be: JSON lines, a JSON array, a table, parquet; compressed or not; anything else is named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r0.config.commands import DataKeys, SourceKeys
from r0.config.lists import ListSourceKeys
from r0.data import row_files
from r0.data.candidates import open_candidates
from r0.data.formats import open_lists, open_rows
from r0.data.index import FileRows
from r0.data.jsonl import BadLines, read_lines
from r0.data.runfile import read_judgements, read_run
from r0.errors import UserError
from r0.records import Form

PACKERS = {
    "gz": gzip.compress,
    "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
ROWS = [{"query": f"q {n % 3}", "document": f'é {n}\n,"]', "label": n % 2} for n in range(7)]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read(path):
    return [(line.number, line.row) for line in read_lines(path, BadLines())]


def at_random(path):
    """The rows of a file, read by their offsets from the last to the first."""
    found, file = list(read_lines(path, BadLines())), pickle.loads(pickle.dumps(FileRows(path)))
    return [file.row(line.offset, line.length) for line in reversed(found)][::-1]


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("name", ["rows.jsonl.{}", "rows.jsonl"])
def test_compressed_rows_are_read_in_order_and_at_random_whatever_their_name(tmp_path, kind, name):
    path, content = tmp_path / name.format(kind), lines(ROWS * 500)
    path.write_bytes(PACKERS[kind](content[:9000]) + PACKERS[kind](content[9000:]))  # of two members
    assert [row for _, row in read(path)] == ROWS * 500
    assert at_random(path) == ROWS * 500
    source = open_rows(DataKeys(data=str(path)), 0)
    assert [source.task(place).document for place in (6, 0)] == [ROWS[6]["document"], ROWS[0]["document"]]


def test_plain_text_under_the_name_of_a_compressed_file_is_read(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(lines(ROWS))
    assert [row for _, row in read(tmp_path / "rows.jsonl.gz")] == ROWS


@pytest.mark.parametrize("kind", PACKERS)
def test_a_damaged_compressed_file_gives_a_one_sentence_error(tmp_path, kind):
    path, whole = tmp_path / "rows.jsonl", PACKERS[kind](lines({"n": n * n} for n in range(5000)))
    for damaged in (whole[:-20], whole[: len(whole) // 2]) + ((whole[:200] + bytes(4) + whole[204:],) if kind == "gz" else ()):
        path.write_bytes(damaged)
        for skip in (False, True):  # damage is no bad line
            with pytest.raises(UserError, match=r"rows\.jsonl: cannot be decompressed as \w+ \(.*\); download") as error:
                list(read_lines(path, BadLines(skip)))
            assert "\n" not in str(error.value)


def test_runs_and_judgements_are_read_compressed(tmp_path):
    for kind, pack in PACKERS.items():
        (tmp_path / f"run.{kind}").write_bytes(pack(b"q1 Q0 d1 1 2.5 t\nq1 Q0 d2 2 1 t\n"))
        (tmp_path / f"qrels.{kind}").write_bytes(pack(b"q1 0 d1 1\n"))
        assert read_run(tmp_path / f"run.{kind}", BadLines()) == {"q1": {"d1": 2.5, "d2": 1.0}}
        assert read_judgements(tmp_path / f"qrels.{kind}", BadLines()) == {"q1": {"d1": 1.0}}


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_compressed_beir_folder_is_read_everywhere(tmp_path, kind):
    pack = PACKERS[kind]
    (tmp_path / "qrels").mkdir()
    corpus = lines([{"_id": "d1", "title": None, "text": "one"}, {"_id": 2, "title": "T", "text": "two"}])
    (tmp_path / f"corpus.jsonl.{kind}").write_bytes(pack(corpus))
    (tmp_path / f"queries.jsonl.{kind}").write_bytes(pack(lines([{"_id": "q", "text": "query"}])))
    (tmp_path / "qrels" / f"test.tsv.{kind}").write_bytes(pack(b"query-id\tcorpus-id\tscore\nq\t2\t1\n"))
    (tmp_path / "run").write_bytes(pack(b"q Q0 d1 1 2 t\nq Q0 2 2 1 t\n"))
    lists = open_candidates(tmp_path, tmp_path / "run")
    assert [lists.document(0, place) for place in (0, 1)] == ["one", "T. two"]
    keys = SourceKeys(data=str(tmp_path), run=str(tmp_path / "run"))
    assert [open_rows(keys, 0).task(place).label for place in (0, 1)] == [0, 1]
    (task,) = [open_lists(keys, ListSourceKeys(candidates=2), Form.PERMUTATION, 0).task(0)]
    assert set(zip(task.documents, task.label.grades, strict=True)) == {("one", 0.0), ("T. two", 1.0)}


def test_a_beir_folder_of_parquet_files_is_read(tmp_path):
    (tmp_path / "qrels").mkdir()
    pq.write_table(pa.table({"id": ["d1", "d2"], "title": [None, "T"], "text": ["one", None]}), tmp_path / "corpus.parquet")
    pq.write_table(pa.table({"_id": ["q"], "text": ["query"]}), tmp_path / "queries.parquet")
    judged = pa.table({"query-id": ["q", "q"], "corpus-id": ["d1", "d2"], "score": [0, 1]})
    pq.write_table(judged, tmp_path / "qrels" / "test.parquet")
    (tmp_path / "run.trec").write_text("q Q0 d1 1 2 t\nq Q0 d2 2 1 t\n")
    rows = open_rows(SourceKeys(data=str(tmp_path), run=str(tmp_path / "run.trec")), 0)
    assert [(rows.task(place).document, rows.task(place).label) for place in (0, 1)] == [("one", 0), ("T. ", 1)]


@pytest.mark.parametrize(("indent", "numbers"), [(None, [1, 2, 3, 4, 5, 6, 7]), (1, [2, 7, 12, 17, 22, 27, 32])])
def test_a_json_array_is_read_as_its_elements(tmp_path, indent, numbers):
    path = tmp_path / "rows.json"
    path.write_text("\ufeff \n"[: 1 if indent else 2] + json.dumps(ROWS, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert read(path) == list(zip(numbers, ROWS, strict=True))
    assert at_random(path) == ROWS
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert at_random(path) == ROWS


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('[\n{"a": 1},\n{"a": 2}\n', 4, "the JSON array is not closed"),
        ('[\n{"a": 1},\n{"a": "2}\n]', 3, "a string is not closed"),
        ('[\n{"a": 1}\n]\n{"a": 1}', 4, "there is text behind the JSON array"),
        ('[\n{"a": 1}\n{"a": 2}\n]', 2, "not JSON: Extra data"),
        ('[\n{"a": 1},\n,{"a": 2}\n]', 3, "not JSON: Expecting value"),
        ('[\n{"a": 1},\n{"a": NaN}\n]', 3, "NaN is not a JSON number"),
        ('[\n{"a": 1},\n3]', 3, "not an object but a number"),
    ],
)
def test_what_is_wrong_with_an_array_is_said_with_its_line(tmp_path, text, place, reason):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UserError, match=rf"rows\.json:{place}: {reason}"):
        read(tmp_path / "rows.json")


def test_an_object_over_several_lines_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS[0], indent=1))
    with pytest.raises(UserError, match=r"rows\.json:1: not JSON.*an object must be on one line, as `jq -c \.` writes it"):
        read(tmp_path / "rows.json")


TABLE = 'query,document,label\r\nq 1,"d, ""1""\nof two lines",1\r\n\r\nq 2,d 2,0.0\r\n'


def test_a_table_of_separated_values_is_read_with_its_header(tmp_path):
    expected = [(2, {"query": "q 1", "document": 'd, "1"\nof two lines', "label": "1"})]
    expected += [(5, {"query": "q 2", "document": "d 2", "label": "0.0"})]
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    assert read(tmp_path / "rows.csv") == expected
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(TABLE.encode()))
    assert read(tmp_path / "rows.csv.gz") == expected
    (tmp_path / "rows.tsv").write_text('query\tdocument\tlabel\nq 1\t"d, ""1""\nof two lines"\t1\n\nq 2\td 2\t0.0\n')
    assert read(tmp_path / "rows.tsv") == expected
    source = open_rows(DataKeys(data=str(tmp_path / "rows.csv")), 0)
    assert [(source.task(row).document, source.task(row).label) for row in (1, 0)] == [
        ("d 2", 0),
        (expected[0][1]["document"], 1),
    ]


def test_a_table_without_a_header_is_triples_of_ms_marco(tmp_path):
    (tmp_path / "triples.train.tsv").write_text('what "is\ta "good\tbad" one\nq\tp\tn\n')
    assert read(tmp_path / "triples.train.tsv") == [
        (1, {"query": 'what "is', "positive": 'a "good', "negative": 'bad" one'}),
        (2, {"query": "q", "positive": "p", "negative": "n"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.csv", b"a,b\nc,d\n", "x.csv:1: the first line must name the columns"),
        ("x.tsv", b"a\tb\nc\td\n", "x.tsv:1: the first line must name the columns"),
        ("x.tsv", b"12\t34\t56\n", "x.tsv:1: the three columns are ids"),
        ("x.csv", b"query,document\nq,d,e\n", "x.csv:2: 3 cells where the table has 2 columns"),
        ("x.csv", b"query,query\nq,d\n", "x.csv:1: two columns have the same name"),
        ("x.csv", b'query,document\nq,d\nq,"d" e\n', "x.csv:3: the quotation marks of a cell do not match"),
        ("x.csv", b"query,document\nq,\xff\n", "x.csv:2: not UTF-8 at byte 3"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_is_read_where_rows_are(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=2)
    assert read(tmp_path / "rows.parquet") == list(enumerate(ROWS, 1))
    assert at_random(tmp_path / "rows.parquet") == ROWS
    whole = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"rows\.parquet: is not a readable parquet file \(.*\); write it again"):
        read(tmp_path / "rows.parquet")


def archive():
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("a", "b")
        return file.getvalue()


def parquet():
    pq.write_table(pa.table({"a": [1]}), file := pa.BufferOutputStream())
    return file.getvalue().to_pybytes()


def array():
    with io.BytesIO() as file:
        np.save(file, np.zeros(3))
        return file.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (archive(), "a zip archive"),
        (parquet(), "a parquet file"),
        (array(), "a NumPy array"),
        (pickle.dumps({"a": 1}), "a Python pickle"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "a PNG image"),
        ("q1 Q0 d 1 1 t".encode("utf-16"), "UTF-16 text"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"SQLite format 3\0" + bytes(30), "an SQLite database"),
    ],
)
def test_a_binary_format_is_named_where_text_is_read(tmp_path, content, name):
    path = tmp_path / "run.trec"
    for written in (content, gzip.compress(content)):
        path.write_bytes(written)
        with pytest.raises(UserError, match=rf"run\.trec: is {name}.*, and text is read here; ") as error:
            read_run(path, BadLines(skip=True))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("query", ["PAR1", "BZh9", "ORC", "GIF89a", "Rar!"])
def test_an_id_that_looks_like_a_magic_number_is_an_id(tmp_path, query):
    (tmp_path / "run.trec").write_text(f"{query} Q0 d 1 1 t\n")
    assert read_run(tmp_path / "run.trec", BadLines()) == {query: {"d": 1.0}}


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines(ROWS)))
    source = open_rows(DataKeys(data=str(tmp_path / "rows.jsonl.gz")), 0)

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_files.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(
        UserError, match=r"rows\.jsonl\.gz: cannot be unpacked to .* \(No space left on device\); make room there"
    ):
        source.task(0)

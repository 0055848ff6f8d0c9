"""Writes a BEIR folder from files of documents, queries and judgements, or of Tevatron's rows, under whatever keys they have.

A line that cannot be understood is copied as it is: whoever reads the folder refuses it, or skips it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from r0.data.fields import id_of, value_of
from r0.data.hashes import text_hash
from r0.data.jsonl import BadLine, BadLines, Row, parse, read_lines, shown
from r0.data.progress import progress
from r0.data.qrels import ids_of, read_all
from r0.data.row_files import BrokenRows, is_plain, raw_rows
from r0.errors import UserError
from r0.storage.files import json_line

DOCUMENT_ID = ("_id", "id", "docid", "doc_id", "corpus-id", "corpus_id", "passage_id", "pid")
DOCUMENT_TEXT = ("text", "contents", "content", "passage", "body")
QUERY_ID = ("_id", "id", "query_id", "query-id", "qid")
QUERY_TEXT = ("text", "query", "question")

_BOM = b"\xef\xbb\xbf"

Paths = Mapping[str, Sequence[Path]]  # by split


def write_documents(folder: Path, splits: Paths) -> int:
    """Write ``corpus.jsonl``; returns the number of documents.

    Raises:
        UserError: a file cannot be read, or a document has different texts in two splits.
    """
    return _write(folder / "corpus.jsonl", splits, "document", lambda row: _renamed(row, DOCUMENT_ID, DOCUMENT_TEXT))


def write_queries(folder: Path, splits: Paths, wanted: Container[str] | None) -> int:
    """Write ``queries.jsonl``, only the ``wanted`` ids if given; returns the number of queries.

    Raises:
        UserError: as ``write_documents``.
    """
    return _write(folder / "queries.jsonl", splits, "query", lambda row: _renamed(row, QUERY_ID, QUERY_TEXT), wanted)


def write_judgements(folder: Path, split: str, paths: Sequence[Path]) -> tuple[int, set[str]]:
    """Write ``qrels/<split>.tsv``; returns the number of judgements and the ids of their queries.

    Raises:
        UserError: a file cannot be read, or has a bad line.
    """
    found = ((one.query, one.document, one.grade) for path in paths for one in read_all(path, BadLines()))
    return write_grades(folder, split, found)


def write_rows_as_queries(folder: Path, splits: Paths) -> tuple[int, dict[str, int]]:
    """Write queries and judgements of Tevatron's rows: the positive passages are relevant, the negative ones not judged.

    Returns the number of queries, and of the judgements of each split.

    Raises:
        UserError: a file cannot be read, or is not of such rows.
    """
    counts = {
        split: write_grades(folder, split, (pair for path in paths for pair in _positives(path)))[0]
        for split, paths in splits.items()
    }
    return _write(folder / "queries.jsonl", splits, "query", _query_of_row), counts


def write_grades(folder: Path, split: str, judgements: Iterable[tuple[str, str, float]]) -> tuple[int, set[str]]:
    """Write (query, document, grade) as ``qrels/<split>.tsv``; returns their number and the ids of their queries.

    Raises:
        UserError: an id has a tab or a line break.
    """
    (folder / "qrels").mkdir(exist_ok=True)
    count, queries = 0, set[str]()
    with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="\n") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for query, document, grade in judgements:
            if not set("\t\r\n").isdisjoint(query + document):
                raise UserError(f"the judgements of {split}: an id has a tab or a line break: {shown(query)}, {shown(document)}")
            file.write(f"{query}\t{document}\t{int(grade) if float(grade).is_integer() else grade!r}\n")
            queries.add(query)
            count += 1
    return count, queries


def write_rows(path: Path, sources: Sequence[Path]) -> int:
    """Write the rows of files one behind the other as JSON lines; returns their number.

    Raises:
        UserError: a file cannot be read.
    """
    count = 0
    with path.open("wb") as file:
        for _, _, raw in (row for source in sources for row in _rows(source)):
            file.write(raw + b"\n")
            count += 1
    return count


def _write(path: Path, splits: Paths, what: str, renamed: Callable[[Row], Row], wanted: Container[str] | None = None) -> int:
    """Write the rows of all splits, renamed. What is in several splits is written once."""
    count = 0
    seen: dict[str, int] | None = {} if len(splits) > 1 else None
    with path.open("wb") as file:
        for source, number, raw in chain.from_iterable(map(_rows, chain.from_iterable(splits.values()))):
            try:
                row = renamed(parse(raw))
                name = str(row["_id"])
            except BadLine:
                file.write(raw + b"\n")
                count += 1
                continue
            if wanted is not None and name not in wanted:
                continue
            if seen is not None and not _is_new(name, row, seen, f"{source}:{number}: the {what} {shown(name)}"):
                continue
            file.write(json_line(row))
            count += 1
    return count


def _is_new(name: str, row: Row, seen: dict[str, int], where: str) -> bool:
    """Whether a row has not been in another split."""
    content = text_hash(json.dumps(row, sort_keys=True))
    if seen.get(name, content) != content:
        raise UserError(f"{where} has another text in another split; name one split, as in hf:OWNER/NAME/SPLIT")
    is_new = name not in seen
    seen[name] = content
    return is_new


def _rows(path: Path) -> Iterator[tuple[Path, int, bytes]]:
    """The rows of a file that are not blank, each on one line."""
    total = path.stat().st_size if is_plain(path) else 0
    with progress(f"reading {path.name}", total) as advance:
        try:
            for number, raw, offset, length, wrong in raw_rows(path):
                advance(length)
                if wrong:
                    raise UserError(f"{path}:{number}: {wrong}; correct the file")
                if not raw.isspace():
                    yield path, number, b" ".join(raw.removeprefix(_BOM if offset == 0 else b"").splitlines())
        except BrokenRows as error:
            raise UserError(f"{path}:{error.number}: {error}; correct the file") from None


def _renamed(row: Row, ids: Sequence[str], texts: Sequence[str]) -> Row:
    """A row with BEIR's keys."""
    name, text = _first(row, ids), _first(row, texts)
    titled = {"title": row["title"]} if row.get("title") else {}
    return {"_id": id_of(row, name), **titled, "text": value_of(row, text)}


def _first(row: Row, names: Sequence[str]) -> str:
    return next((name for name in names if name in row), names[0])


def _query_of_row(row: Row) -> Row:
    return {"_id": id_of(row, _first(row, QUERY_ID)), "text": value_of(row, _first(row, ("query", *QUERY_TEXT)))}


def _positives(path: Path) -> Iterator[tuple[str, str, float]]:
    """The positive passages of Tevatron's rows: whole passages, or their ids."""
    bad = BadLines()
    for line in read_lines(path, bad):
        try:
            query = id_of(line.row, _first(line.row, QUERY_ID))
            if "positive_document_ids" in line.row:
                names: Iterable[str] = ids_of(line.row, "positive_document_ids")
            else:
                passages = value_of(line.row, "positive_passages")
                if not isinstance(passages, list) or not all(isinstance(one, dict) for one in passages):
                    raise BadLine('"positive_passages" must be a list of passages')
                names = [id_of(one, "docid", "positive_passages: ") for one in passages]
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        yield from ((query, name, 1.0) for name in names)

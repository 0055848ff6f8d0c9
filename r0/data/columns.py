"""The columns of TREC's text files: runs (``query Q0 document rank score tag``) and judgements (``query document grade``, or
``query 0 document grade``).

Only blank and tab separate columns; every other white space, such as a no-break space, belongs to an id. A line is split at its
tabs if that gives the right number of columns, otherwise at blanks and tabs. Blanks inside an id or the tag are read where the
rest of the line says which columns they are in. Lines that start with ``#`` are comments, unless the ``#`` starts an id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from r0.data.compressed import compression_of, opened
from r0.data.grades import as_number
from r0.data.jsonl import BadLine, BadLines, shown
from r0.data.progress import progress
from r0.errors import UserError

MAX_LINE_BYTES = 1 << 16
QUERY, DOCUMENT = 0, 2  # the places of the ids in a run's columns
_WORD = re.compile(r"[^ \t]+")
_INTEGER, _NUMBER = re.compile(r"[+-]?\d+", re.ASCII), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_ITERATION = re.compile(r"[+-]?\d+|Q\d+|ITER\d*", re.ASCII | re.IGNORECASE)

Split = Callable[[str], list[str]]
ORDER = "judgements have query-id, corpus-id and score, in this order"


def run_columns(text: str) -> list[str]:
    """The six columns of a line of a run.

    Raises:
        BadLine: there are no six columns, or it is open which of them holds a blank.
    """
    if "\t" in text and len(tabbed := _tabbed(text)) == 6:
        return tabbed
    columns = _WORD.findall(text)
    if len(columns) == 6:
        return columns
    words = [*_WORD.finditer(text)]
    if len(words) > 6:
        q0 = next((place for place, word in enumerate(columns) if place and word.upper() == "Q0"), 0)
        ranks = [place for place in range(q0 + 2, len(words) - 2) if _is_rank(columns[place : place + 2])]
        last = len(words) - 3
        if q0 and (last in ranks or len(ranks) == 1):
            rank = last if last in ranks else ranks[0]
            parts = ((0, q0 - 1), (q0, q0), (q0 + 1, rank - 1), (rank, rank), (rank + 1, rank + 1), (rank + 2, len(words) - 1))
            return [text[words[first].start() : words[end].end()] for first, end in parts]
    raise BadLine(f"{len(words)} columns where a run has 6: query Q0 document rank score tag")


def judgement_columns(text: str) -> list[str]:
    """The columns query, document and grade of a line of judgements.

    Raises:
        BadLine: there are neither three nor four columns, or it is open which of them holds a blank.
    """
    if "\t" in text and len(tabbed := _tabbed(text)) in (3, 4):
        return [tabbed[0], *tabbed[-2:]]
    columns = _WORD.findall(text)
    if len(columns) == 3:
        return columns
    words = [*_WORD.finditer(text)]
    if len(words) >= 4 and _ITERATION.fullmatch(columns[1]):
        return [columns[0], text[words[2].start() : words[-2].end()], columns[-1]]
    if len(words) == 4:
        raise BadLine(f"the second of four columns is {shown(columns[1])}, where judgements have 0; separate columns by tabs")
    raise BadLine(f"{len(words)} columns where judgements have 3 (query-id corpus-id score) or 4 (query 0 document grade)")


def candidate(columns: list[str]) -> tuple[str, str, float]:
    """(query id, document id, score) of a run's columns.

    Raises:
        BadLine: an empty id, or a score that is not a finite number.
    """
    score = as_number(columns[4], "the score")
    if not (columns[QUERY] and columns[DOCUMENT]):
        raise BadLine("an id is empty")
    return columns[QUERY], columns[DOCUMENT], score


def read_columns(
    path: Path, bad: BadLines, split: Split, wanted: set[int] | None = None, names: Sequence[frozenset[str]] = ()
) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of the lines that are neither blank nor comments, restricted to ``wanted`` numbers if given.

    ``names``: those of each column. A first line that consists of such words is a header, and passed over.

    Raises:
        UserError: the file cannot be read, its header names the columns in another order, or a line is bad and ``bad`` does not
            skip.
    """
    total = 0 if compression_of(path) else path.stat().st_size
    with opened(path) as file, progress(f"reading {path.name}" if total else "", total) as advance:
        number, first = 0, True
        while raw := file.readline(MAX_LINE_BYTES):
            number += 1
            advance(len(raw))
            if wanted is not None and number not in wanted:
                continue
            try:
                text = _decoded(raw, number)
                if not text.strip(" \t"):
                    continue
                header = first and _is_header(text, names)
                if header and not _in_order(text, split, names):
                    raise UserError(f"{path}:{number}: the columns are {', '.join(_tabbed(text))}; {ORDER}")
                if header or _is_comment(text, split):
                    first = first and not header
                    continue
                first = False
                yield number, split(text)
            except BadLine as error:
                bad.refuse(path, number, str(error))


def _decoded(raw: bytes, number: int) -> str:
    if len(raw) == MAX_LINE_BYTES:
        raise BadLine(f"the line is longer than {MAX_LINE_BYTES >> 10} KiB")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 at byte {error.start + 1}") from None


def _is_header(text: str, names: Sequence[frozenset[str]]) -> bool:
    words, known = text.lower().replace("_", "-").split(), frozenset().union(*names)
    return bool(words) and words[0] in known and words[-1] in known


def _in_order(text: str, split: Split, names: Sequence[frozenset[str]]) -> bool:
    """Whether the columns that are read are the ones of these names."""
    try:
        columns = split(text.lower().replace("_", "-"))
    except BadLine:
        return False
    return all(column.strip() in known for column, known in zip(columns, names, strict=True))


def _is_comment(text: str, split: Split) -> bool:
    """Whether a line starts with ``#`` and is not a whole line of columns, whose first id starts with ``#``."""
    if not text.startswith("#"):
        return False
    counts, score = ((6,), 4) if split is run_columns else ((3, 4), -1)
    if len(_tabbed(text)) not in counts and len(_WORD.findall(text)) not in counts:
        return True
    try:
        as_number(split(text)[score])
    except BadLine:
        return True
    return False


def _is_rank(columns: list[str]) -> bool:
    return bool(_INTEGER.fullmatch(columns[0]) and _NUMBER.fullmatch(columns[1]))


def _tabbed(text: str) -> list[str]:
    return [column.strip(" ") for column in text.split("\t")]

"""Converts raw production logs to pointwise rows: one ``yes`` row from the response, one ``no`` row from each rejected response.

The thought of a row is taken from the log without markup (``r0.text.tags.strip_thought_tags``) and cut at ``max_think_chars``
characters. The output file is written atomically.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from r0.config.commands import ConvertConfig
from r0.data.fields import objects_of, text_of
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, readable_file
from r0.errors import UserError
from r0.records import Answer
from r0.storage.files import refuse_inputs
from r0.text.tags import strip_thought_tags


@dataclass(slots=True)
class Converted:
    """The result of a conversion."""

    output: Path
    bad: BadLines
    lines: int = 0
    yes: int = 0
    no: int = 0
    thoughts_cut: int = 0
    thoughts_empty: int = 0

    @property
    def rows(self) -> int:
        """Rows written."""
        return self.yes + self.no

    def summary(self) -> str:
        """A printable summary: the counts, and the skipped bad lines, if any."""
        counts = f"{self.output}: {self.rows} rows ({self.yes} yes, {self.no} no) from {self.lines} lines"
        thoughts = f"{self.thoughts_cut} thoughts cut, {self.thoughts_empty} empty"
        return "\n".join(part for part in (f"{counts}; {thoughts}", self.bad.summary()) if part)


def convert(config: ConvertConfig) -> Converted:
    """Write the pointwise rows of ``config.input`` to ``config.output``, first to a temporary file, which is then renamed.

    Raises:
        UserError: the input has bad lines (that are not skipped) or no row, or the output cannot be written.
    """
    source, output = readable_file(Path(config.input), "a raw log (JSONL)"), Path(config.output)
    done = Converted(output, BadLines(config.skip_bad))
    if output.is_dir():
        raise UserError(f"{output}: is a directory; name the file to write")
    if not output.parent.is_dir():
        raise UserError(f"{output}: its directory does not exist; create it with `mkdir -p {output.parent}`")
    refuse_inputs(output, [source])
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with beside.open("x", encoding="utf-8", newline="\n") as file:
            _write(source, file, config.max_think_chars, done)
            file.flush()
            os.fsync(file.fileno())
        if not done.rows:
            raise UserError(f"{source}: contains no valid line ({done.bad.count} bad); give a raw log with at least one")
        os.replace(beside, output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose a writable path") from None
    finally:
        _remove(beside)
    return done


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the directory is not writable, so the file was not created


def _write(source: Path, file: TextIO, max_think_chars: int, done: Converted) -> None:
    for line in read_lines(source, done.bad, f"converting {source.name}"):
        try:
            rows = list(_rows(line.row))
        except BadLine as error:
            done.bad.refuse(source, line.number, str(error))
            continue
        done.lines += 1
        for query, document, thought, answer in rows:
            think = strip_thought_tags(thought)
            done.thoughts_cut += len(think) > max_think_chars
            done.thoughts_empty += not think
            done.yes += answer == Answer.YES
            done.no += answer == Answer.NO
            row = {"query": query, "document": document, "think": think[:max_think_chars], "answer": answer.value}
            file.write(json.dumps({**row, "label": int(answer == Answer.YES)}, ensure_ascii=False) + "\n")


def _rows(row: Row) -> Iterator[tuple[str, str, str, Answer]]:
    """The (query, document, thought, answer) tuples of a line of the log."""
    query = text_of(row, "query")
    yield query, text_of(row, "response"), text_of(row, "response_thinking", blank=True), Answer.YES
    for index, rejected in enumerate(objects_of(row, "rejected_response")):
        where = f"rejected_response[{index}]: "
        yield query, text_of(rejected, "document", where), text_of(rejected, "thinking", where, blank=True), Answer.NO

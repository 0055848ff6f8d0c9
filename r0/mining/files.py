"""Output files of mining: the same documents as groups, pointwise rows and [query, positives, negatives]; one set per epoch.

``groups.jsonl``     ``{"query", "hits": [{"content", "label"}]}``, in the order of the ranking
``rows.jsonl``       ``{"query", "document", "think": "", "answer": "yes"|"no", "label": 1|0}``
``positives.jsonl``  ``[query, [positives], [negatives]]``
``statistics.json``  the printed statistics

With several epochs the files are named ``groups-1.jsonl`` and so on. Labels are 1 for positives and 0 for negatives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from r0.mining.select import Selected
from r0.mining.texts import Texts
from r0.records import Answer
from r0.storage.files import writing

KINDS, STATISTICS = ("groups", "rows", "positives"), "statistics.json"


class MinedFiles:
    """The open files of ``epochs`` epochs in ``folder``."""

    def __init__(self, folder: Path, epochs: int, documents: Texts):
        self._documents, self._folder = documents, folder
        self._open: dict[tuple[str, int], TextIO] = {}
        for kind in KINDS:
            for epoch in range(1, epochs + 1):
                name = f"{kind}-{epoch}.jsonl" if epochs > 1 else f"{kind}.jsonl"
                with writing(folder):
                    self._open[kind, epoch] = (folder / name).open("w", encoding="utf-8", newline="\n")

    def add(self, epoch: int, found: Selected) -> None:
        """Write a query's group."""
        query = found.query.text
        hits = [(self._documents.text(hit.id), int(hit.relevant)) for hit in found.hits]
        self._write("groups", epoch, {"query": query, "hits": [{"content": text, "label": label} for text, label in hits]})
        for text, label in hits:
            answer = (Answer.YES if label else Answer.NO).value
            self._write("rows", epoch, {"query": query, "document": text, "think": "", "answer": answer, "label": label})
        self._write("positives", epoch, [query, *([text for text, label in hits if label == side] for side in (1, 0))])

    def close(self) -> None:
        """Close the files."""
        with writing(self._folder):
            for file in self._open.values():
                file.close()

    def _write(self, kind: str, epoch: int, row: Any) -> None:
        with writing(self._folder):
            self._open[kind, epoch].write(json.dumps(row, ensure_ascii=False) + "\n")

"""Writes ESCI examples as groups for training, or as a BEIR folder for everything that ranks: the grade of an item is the gain of
its class.

All texts of the selected rows are held in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from r0.config.commands import ConvertConfig
from r0.data.esci import GAIN_SETS, EsciRow, Selection, read_esci
from r0.data.jsonl import BadLine, BadLines, readable_file
from r0.errors import UserError
from r0.storage.files import json_line, whole_folder, write_atomic, writing


def convert_esci(config: ConvertConfig) -> str:
    """Write a file of groups, if ``output`` ends in ``.jsonl``, else a new BEIR folder; returns what was written, in words.

    Raises:
        UserError: the examples cannot be used, or the output cannot be written or exists.
    """
    source, output, bad = readable_file(Path(config.input), "ESCI examples"), Path(config.output), BadLines(config.skip_bad)
    if output.exists():
        raise UserError(f"output: {output} already exists; delete it, or give another name")
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    rows = read_esci(source, bad, f"converting {source.name}", Selection(**config.selection()))
    gains = GAIN_SETS[config.gains]
    said = _groups(rows, gains, output) if output.suffix == ".jsonl" else _folder(rows, gains, output, source, bad)
    return "\n".join(filter(None, (f"{output}: {said}", bad.summary())))


def _groups(rows: Iterable[EsciRow], gains: tuple[float, ...], output: Path) -> str:
    groups: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault(row.query, []).append({"content": row.item, "label": gains[row.label]})
    write_atomic(output, (json_line({"query": query, "hits": hits}) for query, hits in groups.items()))
    return f"{len(groups)} queries with {sum(map(len, groups.values()))} items"


def _folder(rows: Iterable[EsciRow], gains: tuple[float, ...], output: Path, source: Path, bad: BadLines) -> str:
    queries: dict[str, str] = {}
    items: dict[str, str] = {}
    grades: dict[tuple[str, str], float] = {}
    for row in rows:
        try:
            _check_ids(row, queries, items, grades)
        except BadLine as error:
            bad.refuse(source, row.number, str(error))
            continue
        queries[row.query_id], items[row.product_id] = row.query, row.item
        grades[row.query_id, row.product_id] = gains[row.label]
    with writing(output), whole_folder(output) as partial:
        (partial / "qrels").mkdir()
        for name, texts in (("queries", queries), ("corpus", items)):
            with (partial / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps({"_id": key, "text": text}, ensure_ascii=False) + "\n" for key, text in texts.items())
        with (partial / "qrels" / "test.tsv").open("w", encoding="utf-8", newline="\n") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            file.writelines(f"{query}\t{item}\t{grade:g}\n" for (query, item), grade in grades.items())
    return f"{len(queries)} queries, {len(items)} items, {len(grades)} judgements"


def _check_ids(row: EsciRow, queries: dict[str, str], items: dict[str, str], grades: dict[tuple[str, str], float]) -> None:
    if not row.query_id or not row.product_id:
        raise BadLine("query_id or product_id is missing, which a BEIR folder needs; name a .jsonl file as output")
    if (row.query_id, row.product_id) in grades:
        raise BadLine("this query and product occur twice")
    for texts, key, text, what in ((queries, row.query_id, row.query, "query"), (items, row.product_id, row.item, "product")):
        if texts.get(key, text) != text:
            raise BadLine(f"the {what} {key} has another text in a line above; select one locale with locale=")

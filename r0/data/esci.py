"""Reads queries with items in four classes (Amazon ESCI; Reddy et al., 2022).

A table of examples has the columns ``query``, ``esci_label`` and the item: ``item_text``, or Amazon's ``product_title`` and
further ``product_…`` columns, or ``product_id`` and ``product_locale`` of a table of products. Labels are E, S, C, I or the words
exact, substitute, complement, irrelevant, in any case. Where the table has the columns ``product_locale``, ``split``,
``small_version`` and ``large_version``, rows can be selected by them. Rows are numbered from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from r0.data.esci_tables import PRODUCT_KEY, PRODUCT_TEXTS, Products, columns_of, product_text, read_products, table_rows
from r0.data.jsonl import BadLine, BadLines, Row, readable_file, shown
from r0.errors import UserError

CLASSES = ("E", "S", "C", "I")
WORDS = ("exact", "substitute", "complement", "irrelevant")
GAINS = (3.0, 2.0, 1.0, 0.0)  # the gain of each class, in nDCG and in the score
GAIN_SETS: Mapping[str, tuple[float, ...]] = {"linear": GAINS, "official": (1.0, 0.1, 0.01, 0.0)}
WHAT = "a table with the columns query, esci_label and item_text, or Amazon's examples (with products=)"
_LABELS = {name: place for names in (CLASSES, WORDS) for place, name in enumerate(name.lower() for name in names)}
_SELECTING = ("product_locale", "split", "small_version", "large_version")
_TEXTS = ("query", "esci_label", "item_text", *PRODUCT_TEXTS, *PRODUCT_KEY)


@dataclass(frozen=True)
class Selection:
    """Which rows are read, and where the items' texts are. ``all`` or None: no selection.

    Args:
        products: table of products, to which rows are joined by product_id and product_locale.
        locale: value of product_locale.
        split: value of split; rows of a table without that column are all read.
        version: ``small`` or ``large``: rows with a 1 in small_version or large_version.
    """

    products: str | None = None
    locale: str | None = None
    split: str = "all"
    version: str = "all"

    def takes(self, row: Row) -> bool:
        """Whether a row is read."""
        if self.locale is not None and row.get("product_locale") != self.locale:
            return False
        if self.split != "all" and "split" in row and row["split"] != self.split:
            return False
        return self.version == "all" or str(row.get(f"{self.version}_version")) in ("1", "1.0", "True")

    def needed(self) -> dict[str, str]:
        """The columns without which rows cannot be selected, by the key that selects."""
        found = {} if self.locale is None else {"locale": "product_locale"}
        return found if self.version == "all" else found | {"version": f"{self.version}_version"}


class EsciRow(NamedTuple):
    """A row: its number in the file (from 1), query, item text, the index of its class in ``CLASSES``, and its ids, if any."""

    number: int
    query: str
    item: str
    label: int
    query_id: str = ""
    product_id: str = ""


def read_esci(path: Path, bad: BadLines, title: str = "", selection: Selection | None = None) -> Iterator[EsciRow]:
    """The selected rows of a file in order; bad rows go to ``bad``. ``title``: shown with the progress of a long pass.

    Raises:
        UserError: a file cannot be read, a column is missing or is not text, or no row is left; or a row is bad and ``bad`` does
            not skip.
    """
    selection = selection or Selection()
    columns = columns_of(readable_file(path, WHAT), bad)
    _check_columns(path, columns, selection)
    products = _products(path, columns, selection, bad)
    good = left_out = 0
    for number, row in _rows(path, bad, title):
        if not selection.takes(row):
            left_out += 1
            continue
        try:
            query, item, label = _text(row, "query"), _item(row, products, selection), class_of(row.get("esci_label"))
            yield EsciRow(number, query, item, label, *(_id(row, name) for name in ("query_id", "product_id")))
            good += 1
        except BadLine as error:
            bad.refuse(path, number, str(error))
    bad.note(path, "rows of another locale, split or version are left out", left_out)
    if good:
        return
    if left_out:
        chosen = f"locale={selection.locale or 'all'}, split={selection.split} and version={selection.version}"
        raise UserError(f"{path}: none of its {left_out} rows is of {chosen}; select other rows")
    raise UserError(f"{path}: contains no rows; give {WHAT}")


def is_esci(path: Path) -> bool:
    """Whether a file is a table of ESCI examples, judged by its columns; False if it cannot be read."""
    try:
        return "esci_label" in columns_of(path, BadLines(skip=True))
    except UserError:
        return False


def class_of(value: object) -> int:
    """The place in ``CLASSES`` of a label.

    Raises:
        BadLine: it is no label.
    """
    found = _LABELS.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        said = "is missing" if value is None else f"is {shown(value)}"
        raise BadLine(f"esci_label {said}; the classes are E, S, C and I (exact, substitute, complement, irrelevant)")
    return found


def _rows(path: Path, bad: BadLines, title: str = "") -> Iterator[tuple[int, Row]]:
    columns = dict.fromkeys((*_TEXTS, *_SELECTING, "query_id"))
    return table_rows(path, columns, _TEXTS, bad, WHAT, title)


def _check_columns(path: Path, columns: tuple[str, ...], selection: Selection) -> None:
    there = f"(it has {', '.join(columns) or 'none'})"
    for name in ("query", "esci_label"):
        if name not in columns:
            raise UserError(f"{path}: the column {name} is missing {there}; give {WHAT}")
    for key, name in selection.needed().items():
        if name not in columns:
            raise UserError(f"{key}: {path} has no column {name} {there}; remove {key}")
    if "item_text" in columns or "product_title" in columns:
        return
    if not set(PRODUCT_KEY) <= set(columns):
        raise UserError(f"{path}: the column item_text is missing {there}; give {WHAT}")
    if selection.products is None:
        raise UserError(f"products: {path} has no texts of items, only ids of products; give products=FILE, Amazon's other table")


def _products(path: Path, columns: tuple[str, ...], selection: Selection, bad: BadLines) -> Products | None:
    """The products of the selected rows; None where the rows have texts of their own."""
    if "item_text" in columns or "product_title" in columns or selection.products is None:
        return None
    rows = (row for _, row in _rows(path, BadLines(skip=True)) if selection.takes(row))
    return read_products(Path(selection.products), {(_id(row, "product_id"), _id(row, "product_locale")) for row in rows}, bad)


def _id(row: Row, name: str) -> str:
    """The id at ``name``, which may be the number 0; empty if there is none."""
    value = row.get(name)
    return "" if value is None else str(value)


def _item(row: Row, products: Products | None, selection: Selection) -> str:
    if products is not None:
        key = _id(row, "product_id"), _id(row, "product_locale")
        if "" in key:
            raise BadLine("product_id or product_locale is missing")
        if key not in products:
            raise BadLine(f"the product {shown(key[0])} of the locale {shown(key[1])} is not in {selection.products}")
        found = products[key]
    elif "item_text" in row:
        return _text(row, "item_text")
    else:
        found = product_text(row)
    if not found:
        raise BadLine("the product has no text")
    return found


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadLine(f"{name} is empty" if isinstance(value, str) else f"{name} is missing or not UTF-8")
    return value

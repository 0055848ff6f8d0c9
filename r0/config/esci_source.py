"""Keys of every command that reads ESCI examples: where the items' texts are, which rows are read, and what classes gain."""

from __future__ import annotations

from typing import Any, Literal

from r0.config.sections import Section, key
from r0.config.types import DataText

COLUMNS = (
    "a table (parquet, CSV or JSON lines) with query, esci_label (E, S, C, I or the words) and item_text, or Amazon's examples"
)


class EsciSourceKeys(Section):
    """Which rows of a table of ESCI examples are read."""

    products: DataText | None = key(
        None, "Amazon's table of products, joined by product_id and product_locale; an item is then its title, brand, color, "
        "bullet points and description"
    )  # fmt: skip
    locale: str | None = key(None, "only rows with this product_locale: us, es or jp; empty: all")
    split: Literal["train", "test", "all"] = key("all", "only rows of this split, where the table has a column split")
    version: Literal["small", "large", "all"] = key("all", "only rows of Amazon's small or large version")
    gains: Literal["linear", "official"] = key(
        "linear", "gains of exact, substitute, complement and irrelevant; linear: 3, 2, 1, 0; official: 1, 0.1, 0.01, 0"
    )

    def selection(self) -> dict[str, Any]:
        """The keys that select rows, by name."""
        return {name: getattr(self, name) for name in ("products", "locale", "split", "version")}

"""Numbers and texts as a reader of the page sees them."""

from __future__ import annotations

import math
import re

# Control characters, and those that change the direction of the text after them; tab and line break stay.
INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def short(value: float | None) -> str:
    """A few digits: ``0.434``, ``41.4``, ``1024``, ``2.1e-07``; a dash for what is not a number."""
    if value is None or math.isnan(value):
        return "–"
    if value == int(value) and abs(value) < 1e7:
        return str(int(value))
    if not 0.001 <= abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def signed(value: float | None) -> str:
    """As ``short``, with the sign; a real minus."""
    if value is None or math.isnan(value):
        return "–"
    return "0" if value == 0 else f"{'−' if value < 0 else '+'}{short(abs(value))}"


def visible(text: str) -> str:
    r"""The text with control characters, overrides of its direction and lone surrogates written out, such as ``\\x1b``."""
    return INVISIBLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text.replace("\r\n", "\n"))


def cut(text: str, most: int) -> str:
    """The text as it is shown: ``visible``, and at most ``most`` characters, with the number of those left out."""
    left = len(text) - most
    return visible(text) if left <= 0 else f"{visible(text[:most])} … ({left} more characters)"

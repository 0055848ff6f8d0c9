"""The words of a text, for BM25: runs of at least two letters, digits and their marks, and pairs of characters in scripts without
blanks. Marks are accents and vowel signs that are characters of their own, as in Hindi, Bengali, Tamil or Hebrew.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without blanks between words, and Korean joins particles to them.
There each two neighbouring characters are a word, and a character that stands alone is one, as in Lucene's CJKAnalyzer (which
does so for Chinese, Japanese and Korean). Half- and full-width forms are made one, as there. Texts without such characters are as
bm25s splits them.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

_WORD = re.compile(r"(?u)\b\w\w+\b")  # bm25s' own, which ends at a mark
_MARKS = "".join(chr(code) for code in range(0x300, 0x1E00) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
_MARKED = re.compile(f"[{_MARKS}]")
_MARKED_WORD = re.compile(rf"\w[\w{_MARKS}]+")
_JOINERS = re.compile("[\u200c\u200d]")  # within words of Persian and Indian scripts; others leave them out
_RUN = re.compile(
    "(["
    "\u3005-\u3007\u2e80-\u2fdf\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Hiragana and Katakana
    "\u3100-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"  # Hangul
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf"  # Thai and Lao
    "\u1000-\u103f\u1050-\u109f\u1780-\u17d3"  # Burmese and Khmer
    "]+)"
)
_WIDE = re.compile("[\uff01-\uffef]")  # half- and full-width forms


def words(text: str) -> list[str]:
    """The words of ``text``, in order. Composed and decomposed letters (é) are the same."""
    if text.isascii():
        return _WORD.findall(text)
    text = _JOINERS.sub("", unicodedata.normalize("NFC", text))
    if not (_RUN.search(text) or _WIDE.search(text)):
        return (_MARKED_WORD if _MARKED.search(text) else _WORD).findall(text)
    found: list[str] = []
    for at, part in enumerate(_RUN.split(unicodedata.normalize("NFKC", text).lower())):
        if at % 2 == 0:
            found += _MARKED_WORD.findall(part)
        else:
            found += [part] if len(part) == 1 else ["".join(pair) for pair in pairwise(part)]
    return found

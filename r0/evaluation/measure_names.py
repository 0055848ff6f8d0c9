"""The names of measures: ir_measures' (``nDCG@20``, ``P(rel=2)@5``, ``AP``), r0's (``MAP``, ``Recall@10``) and trec_eval's.

Only names are read here; ``r0.evaluation.measures`` computes them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from r0.errors import UserError


class Measure(NamedTuple):
    """A measure by its name in tables. ``kind`` is one of ``KINDS``, ``cutoff`` a rank (None: the whole list).

    ``level`` is the lowest relevant grade (None: that of the configuration).
    """

    name: str
    kind: str
    cutoff: int | None = None
    level: int | None = None


class Kind(NamedTuple):
    """trec_eval's name without and with a cutoff (empty: not possible), and whether a lowest relevant grade matters."""

    plain: str
    cut: str
    binary: bool = True


KINDS = {
    "nDCG": Kind("ndcg", "ndcg_cut", binary=False),
    "nDCG_exp": Kind("ndcg", "ndcg_cut", binary=False),
    "AP": Kind("map", "map_cut"),
    "RR": Kind("recip_rank", "recip_rank"),
    "P": Kind("", "P"),
    "R": Kind("", "recall"),
    "Success": Kind("", "success"),
    "Rprec": Kind("Rprec", ""),
    "Bpref": Kind("bpref", ""),
    "Judged": Kind("", "judged", binary=False),
}
_OTHER_NAMES = {
    "MAP": "AP",
    "MRR": "RR",
    "Recall": "R",
    "Hit": "Success",
    "Precision": "P",
    "judged": "Judged",
    "ndcg_cut": "nDCG",
    "map_cut": "AP",
    "recip_rank": "RR",
    "Hits": "Success",
    "HitRate": "Success",
    "Acc": "Success",
}
_KIND_OF = {name.lower(): kind for name, kind in ({kind: kind for kind in KINDS} | _OTHER_NAMES).items()}
_SPELLED = {name.lower(): name for name in (*_OTHER_NAMES, *KINDS)}
_NAME = re.compile(r"([A-Za-z_]+?)(?:\(rel=([0-9]{1,6})\))?(?:[@_.]([0-9]{1,6}))?")


def read_measures(names: Sequence[str]) -> tuple[Measure, ...]:
    """The measures of these names, each once.

    Raises:
        UserError: there is no such measure, or its cutoff or its grade is missing or does not belong to it.
    """
    return tuple({measure.name: measure for measure in map(_measure, names)}.values())


def _measure(text: str) -> Measure:
    match = _NAME.fullmatch(text.strip())
    kind = _KIND_OF.get(match[1].lower()) if match else None
    if match is None or kind is None:
        raise UserError(f"measures: there is no {text}; {_hint(text)}")
    spelled = match[1] if match[1] in _OTHER_NAMES else _SPELLED[match[1].lower()]
    level, cutoff = match[2], match[3]
    plain, cut, binary = KINDS[kind]
    if cutoff is None and not plain:
        raise UserError(f"measures: {text} needs a cutoff; write {spelled}@10")
    if cutoff is not None and not cut:
        raise UserError(f"measures: {spelled} has no cutoff; write {spelled} instead of {text}")
    if cutoff is not None and int(cutoff) == 0:
        raise UserError(f"measures: {text} counts no document; the lowest cutoff is {spelled}@1")
    if level is not None and not binary:
        raise UserError(f"measures: {spelled} needs no lowest relevant grade; remove the parentheses from {text}")
    if level is not None and int(level) == 0:
        raise UserError(f"measures: {text}: every document has at least grade 0; the lowest level is 1")
    name = spelled + (f"(rel={int(level)})" if level else "") + (f"@{int(cutoff)}" if cutoff else "")
    return Measure(name, kind, int(cutoff) if cutoff else None, int(level) if level else None)


def _hint(text: str) -> str:
    word = re.split(r"[@(]", text.strip())[0].lower()
    near = difflib.get_close_matches(word, _KIND_OF, n=1, cutoff=0.5)
    if not near:
        return f"measures: {', '.join(f'{name}@10' if kind.cut else name for name, kind in KINDS.items())}"
    cutoff = re.search(r"@([0-9]{1,6})", text)
    spelled, kind = _SPELLED[near[0]], KINDS[_KIND_OF[near[0]]]
    shown = f"@{cutoff[1] if cutoff else 10}" if kind.cut and (cutoff or not kind.plain) else ""
    return f"did you mean {spelled}{shown}?"

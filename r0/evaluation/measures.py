"""Measures of a run per query: trec_eval's, computed by pytrec_eval.

pytrec_eval is called directly, not through ir_measures, because some measures have other providers there, which break ties
differently. Here all measures use trec_eval's order (score as a 32-bit float, descending; equal scores by document id,
descending). nDCG has linear gain; exponential gain has its own column names. Means are over all judged queries (``trec_eval
-c``): queries missing from a run count as 0. Documents are relevant from grade 1; negative grades count as 0.

trec_eval's grades are integers. Others, such as 0.5, are multiplied by a common factor, which changes no nDCG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytrec_eval

from r0.data.jsonl import shown
from r0.errors import UserError

Run = dict[str, dict[str, float]]  # query id → document id → score
Grades = Mapping[str, Mapping[str, float]]  # query id → document id → grade

MAIN = "nDCG@10"  # the measure of differences and tests
MEASURES = {
    "nDCG@1": "ndcg_cut_1",
    "nDCG@5": "ndcg_cut_5",
    "nDCG@10": "ndcg_cut_10",
    "MAP": "map",
    "MRR@10": "recip_rank",
    "Recall@10": "recall_10",
    "Recall@100": "recall_100",
    "Hit@1": "success_1",
    "Hit@5": "success_5",
    "Hit@10": "success_10",
}
EXPONENTIAL = {f"nDCG_exp@{cutoff}": f"ndcg_cut_{cutoff}" for cutoff in (1, 5, 10)}
JUDGED = "judged@10"
_CUTOFF = 10
_MOST = 1_000_000  # trec_eval allocates a counter for each grade up to the highest
_MOST_EXPONENT = 19
_FINEST = 10_000  # the largest factor that makes grades whole numbers: four decimals


@dataclass(frozen=True, slots=True)
class Measured:
    """The measures of a run: ``values_Q`` of each measure, [judged queries] float64, in the order of ``query_ids``."""

    query_ids: tuple[str, ...]
    values: dict[str, np.ndarray]
    missing: frozenset[str]  # judged queries missing from the run; each counts as 0
    unjudged: int  # queries of the run without judgements; ignored

    def mean(self, measure: str) -> float:
        """Mean over all judged queries."""
        return float(self.values[measure].mean())


def names(exponential_gain: bool = False) -> tuple[str, ...]:
    """The names of the measures, in table order."""
    return (*MEASURES, *(EXPONENTIAL if exponential_gain else ()), JUDGED)


def measure(run: Run, grades: Grades, exponential_gain: bool = False) -> Measured:
    """Compute all measures of a run for each judged query.

    Raises:
        UserError: no query of the run is judged, or a grade is too large.
    """
    judged = {query: documents for query, documents in grades.items() if documents}
    missing = frozenset(query for query in judged if query not in run)
    if len(missing) == len(judged):
        raise UserError(
            f"none of the run's {len(run)} queries is among the {len(judged)} judged ones; give both from the same data set"
        )
    ranked = {query: documents for query, documents in run.items() if query in judged}
    linear = {query: {document: max(0.0, grade) for document, grade in of.items()} for query, of in judged.items()}
    _check(linear, _MOST, "the grade")
    factor = _factor(linear)
    whole = {query: {document: round(grade * factor) for document, grade in of.items()} for query, of in linear.items()}
    _check(whole, _MOST, f"times {factor}, to be a whole number, the grade")
    found = _evaluate(ranked, whole, set(MEASURES.values()), factor)
    values = {name: _column(found, judged, key) for name, key in MEASURES.items()}
    values["MRR@10"] = np.where(values["MRR@10"] >= 1 / _CUTOFF, values["MRR@10"], 0.0)
    if exponential_gain:
        if factor > 1:
            raise UserError("exponential_gain: some grades are not whole numbers; remove exponential_gain")
        _check(whole, _MOST_EXPONENT, "with exponential_gain the grade")
        gains = {query: {document: 2**grade - 1 for document, grade in of.items()} for query, of in whole.items()}
        found = _evaluate(ranked, gains, set(EXPONENTIAL.values()))
        values |= {name: _column(found, judged, key) for name, key in EXPONENTIAL.items()}
    values[JUDGED] = _judged_share(ranked, judged)
    return Measured(tuple(judged), {name: values[name] for name in names(exponential_gain)}, missing, len(run) - len(ranked))


def _evaluate(run: Run, grades: Mapping[str, dict[str, int]], keys: set[str], level: int = 1) -> dict[str, dict[str, float]]:
    """Measures by query; documents are relevant from grade ``level``."""
    return pytrec_eval.RelevanceEvaluator(grades, keys, relevance_level=level).evaluate(run)


def _factor(grades: Grades) -> int:
    """The smallest factor that makes all grades whole numbers.

    Raises:
        UserError: a grade has too many decimals.
    """
    factor = 1
    for query, documents in grades.items():
        for document, grade in documents.items():
            if not float(grade).is_integer():
                exact = Fraction(repr(float(grade)))
                factor = math.lcm(factor, exact.denominator)
                if factor > _FINEST:
                    place = f"query {shown(query)}, document {shown(document)}"
                    raise UserError(f"{place}: the grade {grade:g} has too many decimals to be measured; round grades to four")
    return factor


def _column(found: dict[str, dict[str, float]], judged: Grades, key: str) -> np.ndarray:
    """float64 [judged queries]; 0 if the query is missing from the run."""
    return np.array([found[query][key] if query in found else 0.0 for query in judged])


def _judged_share(run: Run, judged: Grades) -> np.ndarray:
    """float64 [judged queries]: the judged share of a query's top 10 (or of all its documents, if fewer).

    Computed as precision with every judged document relevant, so that ties are broken as for all other measures.
    """
    everything = {query: dict.fromkeys(documents, 1) for query, documents in judged.items()}
    precision_Q = _column(_evaluate(run, everything, {f"P_{_CUTOFF}"}), judged, f"P_{_CUTOFF}")
    shown_Q = np.array([min(_CUTOFF, len(run.get(query, ()))) for query in judged])
    return precision_Q * _CUTOFF / np.maximum(shown_Q, 1)


def _check(grades: Grades, most: int, what: str) -> None:
    for query, documents in grades.items():
        for document, grade in documents.items():
            if grade > most:
                place = f"query {shown(query)}, document {shown(document)}"
                raise UserError(f"{place}: {what} {grade:.10g} is above {most}; give small numbers as grades")

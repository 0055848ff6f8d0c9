"""Measures of a run per query: trec_eval's, computed by pytrec_eval.

pytrec_eval is called directly, not through ir_measures, because some measures have other providers there, which break ties
differently. Here all measures use trec_eval's order (score as a 32-bit float, descending; equal scores by document id,
descending). nDCG has linear gain; exponential gain has its own column names. Means are over all judged queries (``trec_eval
-c``): queries missing from a run count as 0. Documents are relevant from ``relevance_level``; negative grades count as 0.

trec_eval's grades are integers. Others, such as 0.5, are multiplied by a common factor, which changes no nDCG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytrec_eval

from r0.data.jsonl import shown
from r0.errors import UserError
from r0.evaluation.measure_names import KINDS, Measure, read_measures

Run = dict[str, dict[str, float]]  # query id → document id → score
Grades = Mapping[str, Mapping[str, float]]  # query id → document id → grade

MAIN = "nDCG@10"  # the measure of differences and tests, if none are chosen
_NAMES = ("nDCG@1", "nDCG@5", "nDCG@10", "MAP", "MRR@10", "Recall@10", "Recall@100", "Hit@1", "Hit@5", "Hit@10", "judged@10")
MEASURES = read_measures(_NAMES)
EXPONENTIAL = read_measures([f"nDCG_exp@{cutoff}" for cutoff in (1, 5, 10)])
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


def measure(run: Run, grades: Grades, measures: Sequence[Measure] = MEASURES, relevance_level: int = 1) -> Measured:
    """Compute measures of a run for each judged query.

    Args:
        run: scores of documents.
        grades: the judgements.
        measures: what to compute.
        relevance_level: lowest grade of a relevant document, for measures that divide documents into two.

    Raises:
        UserError: no query of the run is judged, or a grade is too large.
    """
    judged = {query: documents for query, documents in grades.items() if documents}
    missing = frozenset(query for query in judged if query not in run)
    if len(missing) == len(judged):
        folded = {query.casefold() for query in judged}
        other_case = any(query.casefold() in folded for query in run)
        remedy = "their ids differ in case only: write them alike" if other_case else "give both from the same data set"
        raise UserError(f"none of the run's {len(run)} queries is among the {len(judged)} judged ones; {remedy}")
    ranked = {query: documents for query, documents in run.items() if query in judged}
    linear = {query: {document: max(0.0, grade) for document, grade in of.items()} for query, of in judged.items()}
    _check(linear, _MOST, "the grade")
    factor = _factor(linear)
    whole = {query: {document: round(grade * factor) for document, grade in of.items()} for query, of in linear.items()}
    _check(whole, _MOST, f"times {factor}, to be a whole number, the grade")
    gains: Mapping[str, dict[str, int]] = {}
    if any(one.kind == "nDCG_exp" for one in measures):
        if factor > 1:
            raise UserError("exponential_gain: some grades are not whole numbers; remove exponential_gain")
        _check(whole, _MOST_EXPONENT, "with exponential_gain the grade")
        gains = {query: {document: 2**grade - 1 for document, grade in of.items()} for query, of in whole.items()}
    values: dict[str, np.ndarray] = {}
    for level in {one.level or relevance_level for one in measures}:
        some = [one for one in measures if (one.level or relevance_level) == level]
        plain = [one for one in some if one.kind not in ("nDCG_exp", "Judged", "Bpref")]
        values |= _columns(ranked, judged, whole, plain, level * factor)
        values |= _columns(
            ranked, judged, _not_negative(whole, judged), [one for one in some if one.kind == "Bpref"], level * factor
        )
        values |= _columns(ranked, judged, gains, [one for one in some if one.kind == "nDCG_exp"], 1)
        values |= {one.name: _judged_share(ranked, judged, one.cutoff or 0) for one in some if one.kind == "Judged"}
    return Measured(tuple(judged), {one.name: values[one.name] for one in measures}, missing, len(run) - len(ranked))


def _not_negative(whole: Mapping[str, dict[str, int]], judged: Grades) -> dict[str, dict[str, int]]:
    """The grades without negative ones, which for trec_eval's bpref are no judgements."""
    return {query: {name: grade for name, grade in of.items() if judged[query][name] >= 0} for query, of in whole.items()}


def _columns(
    run: Run, judged: Grades, grades: Mapping[str, dict[str, int]], measures: Sequence[Measure], level: int
) -> dict[str, np.ndarray]:
    """trec_eval's measures by name; documents are relevant from grade ``level``."""
    if not measures:
        return {}
    found = _evaluate(run, grades, {_key(one) for one in measures}, level)
    values = {one.name: _column(found, judged, _key(one)) for one in measures}
    for one in measures:
        if one.kind == "RR" and one.cutoff is not None:  # trec_eval has no cutoff here
            values[one.name] = np.where(values[one.name] >= 1 / one.cutoff, values[one.name], 0.0)
    return values


def _key(measure: Measure) -> str:
    """trec_eval's name."""
    kind = KINDS[measure.kind]
    return kind.plain if measure.cutoff is None or measure.kind == "RR" else f"{kind.cut}_{measure.cutoff}"


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


def _judged_share(run: Run, judged: Grades, cutoff: int) -> np.ndarray:
    """float64 [judged queries]: the judged share of the first ``cutoff`` documents of a query (or of all, if fewer).

    Computed as precision with every judged document relevant, so that ties are broken as for all other measures.
    """
    everything = {query: dict.fromkeys(documents, 1) for query, documents in judged.items()}
    precision_Q = _column(_evaluate(run, everything, {f"P_{cutoff}"}), judged, f"P_{cutoff}")
    shown_Q = np.array([min(cutoff, len(run.get(query, ()))) for query in judged])
    return precision_Q * cutoff / np.maximum(shown_Q, 1)


def _check(grades: Grades, most: int, what: str) -> None:
    for query, documents in grades.items():
        for document, grade in documents.items():
            if grade > most:
                place = f"query {shown(query)}, document {shown(document)}"
                raise UserError(f"{place}: {what} {grade:.10g} is above {most}; give small numbers as grades")

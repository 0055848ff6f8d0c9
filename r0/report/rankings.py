"""What a rerank run, or a TREC run against another, changed query by query: gains and losses, both orders, and the thoughts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from r0.config import RerankConfig
from r0.config.load import load
from r0.data.beir import find_qrels
from r0.data.candidates import CandidateLists, open_candidates
from r0.data.jsonl import BadLines
from r0.data.named.resolve import with_kept_data
from r0.data.runfile import given_order, read_run
from r0.errors import UserError
from r0.evaluation.identical_ids import drop_identical
from r0.evaluation.judgements import Judgements, drop_excluded, open_judgements
from r0.evaluation.measure_names import read_measures
from r0.evaluation.measures import MAIN, Grades, measure
from r0.report.chart import Chart, Series
from r0.report.heldout import NDCG, Estimate, Evaluations, evenly
from r0.report.numbers import cut, short, signed, visible
from r0.report.run import Run
from r0.rerank.identical_candidates import without_identical
from r0.runs.claim import CONFIG

QUERIES = 100  # that are shown
TOP = 10  # documents of each order
THOUGHTS = 20  # of a query
TEXT, THOUGHT = 400, 2000  # characters of a document and of a thought
BARS = 1000  # queries in the chart
BAR_LAYOUT = {"bargap": 0.1, "hovermode": "closest"}


@dataclass
class Rankings:
    """``items`` as the page's script reads them. ``figures``: nDCG@10 of the first stage, of the run, and the change."""

    run: str
    items: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chart: Chart | None = None
    figures: tuple[Estimate, Estimate, Estimate] | None = None


@dataclass
class Given:
    """What was ranked: the first stage's scores by query, and texts where they are known."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    lists: CandidateLists | None = None
    folder: Path | None = None  # a BEIR folder, which may have judgements
    _at: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, lists: CandidateLists, folder: Path | None) -> Given:
        """The candidates of a rerank run."""
        places = {lists.query_id(at): at for at in range(len(lists))}
        # Falling numbers instead of scores: equal scores keep the order of the list, which is the one that was reranked.
        falling = {query: enumerate(lists.document_ids(at)) for query, at in places.items()}
        scores = {query: {name: -float(place) for place, name in names} for query, names in falling.items()}
        return cls(scores, lists, folder, places)

    def order(self, query: str) -> list[str]:
        """The documents as the first stage ordered them."""
        return given_order(self.scores.get(query, {}))

    def query(self, query: str) -> str:
        """The text of a query; empty if it is not known."""
        return self.lists.query(self._at[query]) if self.lists and query in self._at else ""

    def document(self, query: str, place: int) -> str:
        """The text of a query's candidate; empty if it is not known."""
        return self.lists.document(self._at[query], place) if self.lists and query in self._at else ""


def read_rankings(run: Run, number: int, qrels: str | None, first: Run | None = None) -> Rankings | None:
    """The queries of run ``number`` of the page; None if it ranks nothing.

    Args:
        run: a rerank run, or a TREC run.
        number: its place on the page.
        qrels: the judgements that are given.
        first: the TREC run that others are compared with.

    Raises:
        UserError: a TREC run or the judgements that are given cannot be used.
    """
    found = Rankings(run.name)
    if run.path.is_file():
        if run is first or first is None:
            return None
        given = Given(read_run(first.path, BadLines(False)))
        rows = _rows_of_run(run.path)
    elif run.marker.command == "rerank" and (run.path / "queries.jsonl").is_file():
        given = _candidates(run, found)
        rows = None
    else:
        return None

    def each() -> Iterator[dict[str, Any]]:
        return iter(rows) if rows is not None else _rows(run.path / "queries.jsonl")

    ranked = {row["query_id"]: dict(zip(row["documents"], row["scores"], strict=True)) for row in each()}
    judgements = _judgements(qrels, given.folder, found)
    grades, before, after = judgements.grades, _counted(given.scores, judgements), _counted(ranked, judgements)
    gains = _gains(before, after, grades, found) if given.scores and grades else {}
    chosen = _chosen(list(ranked), gains)
    for row in each():
        query = row["query_id"]
        if query in chosen:
            found.items.append(_item(row, number, given, grades.get(query, {}), gains.get(query)))
    found.items.sort(key=lambda item: -abs(item["change"] or 0.0))
    what = "those that changed most" if gains else "the first ones"
    some = f"{len(chosen)} of {len(ranked)} queries, {what}"
    found.notes.append(f"{run.name}: " + (some if len(chosen) < len(ranked) else f"all {len(ranked)} queries"))
    return found


def _candidates(run: Run, found: Rankings) -> Given:
    """The candidates that were reranked; nothing, with a note, if they are no longer there."""
    try:
        config = with_kept_data(load(RerankConfig, run.path / CONFIG, []))
        lists = open_candidates(Path(config.data), Path(config.run) if config.run else None, config.skip_bad)
        folder = Path(config.data) if Path(config.data).is_dir() else None
        return Given.of(without_identical(config, lists)[0], folder)
    except UserError as error:
        why = "texts and the first stage's order are not shown, since its input cannot be read"
        found.notes.append(f"{run.name}: {why} ({error})")
        return Given()


def _counted(run: Mapping[str, Mapping[str, float]], judgements: Judgements) -> dict[str, dict[str, float]]:
    """The candidates that ``eval`` measures: without excluded documents and without queries among their own candidates."""
    kept = {query: dict(documents) for query, documents in run.items()}
    drop_excluded(kept, judgements.excluded)
    drop_identical(kept, judgements.grades, "auto")
    return kept


def _judgements(qrels: str | None, folder: Path | None, found: Rankings) -> Judgements:
    """The judgements: those that are given, or the folder's own.

    Raises:
        UserError: those that are given cannot be used.
    """
    if qrels is not None:
        return open_judgements([find_qrels(qrels, folder)], [], BadLines(False))
    splits = sorted({path.name.partition(".")[0] for path in (folder / "qrels").glob("*")}) if folder else []
    split = "test" if "test" in splits else splits[0] if len(splits) == 1 else None
    if split is None:
        found.notes.append(f"{found.run}: no judgements, so no gains; name them with qrels=")
        return Judgements({}, {})
    try:
        return open_judgements([find_qrels(split, folder)], [], BadLines(True))
    except UserError as error:
        found.notes.append(f"{found.run}: no gains, since the judgements cannot be read ({error})")
        return Judgements({}, {})


def _gains(given: Any, ranked: Any, grades: Grades, found: Rankings) -> dict[str, tuple[float, float]]:
    """nDCG@10 of each judged query of the run, before and after; fills in chart and figures."""
    judged = {query: grades[query] for query in ranked if grades.get(query) and query in given}
    if not judged:
        found.notes.append(f"{found.run}: none of its queries is judged")
        return {}
    names = read_measures([MAIN])
    both = [measure(one, judged, names) for one in (given, ranked)]
    before, after = (dict(zip(one.query_ids, one.values[MAIN].tolist(), strict=True)) for one in both)
    gains = {query: (before[query], after[query]) for query in judged}
    sums = Evaluations({("", at, NDCG): np.array([(pair[at], 1.0) for pair in gains.values()]) for at in (0, 1)})
    one, two, change = sums.estimate("", 0, NDCG), sums.estimate("", 1, NDCG), sums.change("", 0, 1, NDCG)
    if one and two and change:
        found.figures = one, two, change
    found.chart = _chart(found.run, gains)
    return gains


def _chart(run: str, gains: Mapping[str, tuple[float, float]]) -> Chart:
    """The change of each query as a bar, losses first."""
    ordered = sorted(gains, key=lambda query: gains[query][1] - gains[query][0])
    places = evenly(list(range(len(ordered))), BARS)
    series = []
    for name, color, sign in (("loss", 4, -1), ("gain", 2, 1)):
        some = [at for at in places if (gains[ordered[at]][1] - gains[ordered[at]][0]) * sign > 0]
        points = [(float(at + 1), gains[ordered[at]][1] - gains[ordered[at]][0]) for at in some]
        labels = [f"{visible(ordered[at])}: {short(gains[ordered[at]][0])} → {short(gains[ordered[at]][1])}" for at in some]
        if points:
            series.append(Series(name, points, "bar", color, labels=labels))
    same = sum(before == after for before, after in gains.values())
    better = sum(before < after for before, after in gains.values())
    note = f"{better} queries gain, {len(gains) - better - same} lose, {same} stay the same."
    return Chart(f"Change of nDCG@10 by query: {run}", series, note, x="queries, by change", y="change", layout=BAR_LAYOUT)


def _chosen(queries: Sequence[str], gains: Mapping[str, tuple[float, float]]) -> set[str]:
    if len(queries) <= QUERIES or not gains:
        return set(queries[:QUERIES])
    return set(sorted(gains, key=lambda query: -abs(gains[query][1] - gains[query][0]))[:QUERIES])


def _item(
    row: Mapping[str, Any], number: int, given: Given, grades: Mapping[str, float], gain: tuple[float, float] | None
) -> dict[str, Any]:
    query, after = row["query_id"], row["documents"]
    before = given.order(query)
    ranks = {document: rank for rank, document in enumerate(before, 1)}

    def shown(document: str) -> dict[str, Any]:
        text = given.document(query, ranks[document] - 1) if document in ranks else ""
        return {"id": visible(document), "was": ranks.get(document), "grade": grades.get(document), "text": cut(text, TEXT)}

    return {
        "run": number,
        "query_id": visible(query),
        "query": cut(given.query(query), THOUGHT),
        "change": None if gain is None else round(gain[1] - gain[0], 4),
        "said": "not judged" if gain is None else f"nDCG@10 {short(gain[0])} → {short(gain[1])} ({signed(gain[1] - gain[0])})",
        "first": [shown(document) for document in before[:TOP]],
        "order": [shown(document) for document in after[:TOP]],
        "candidates": len(after),
        "replies": [
            {"shown": [visible(one) for one in reply["documents"]], "text": cut(reply["thought"], THOUGHT),
             "violations": reply["failures"]}
            for reply in row["replies"][:THOUGHTS]
        ],
        "asked": len(row["replies"]),
        "refused": visible(row["refused"]),
    }  # fmt: skip


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of ``queries.jsonl``; the last one of a run in progress may be incomplete."""
    with path.open("rb") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "query_id" in row and "replies" in row:
                yield row


def _rows_of_run(path: Path) -> list[dict[str, Any]]:
    """A TREC run in the form of ``queries.jsonl``; it has no thoughts."""
    run = read_run(path, BadLines(False))
    orders = {query: given_order(scores) for query, scores in run.items()}
    return [
        {"query_id": query, "documents": order, "scores": [run[query][one] for one in order], "replies": [], "refused": ""}
        for query, order in orders.items()
    ]

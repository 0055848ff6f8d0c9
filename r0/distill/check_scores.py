"""Checks that a teacher's scores belong to the data they are used with."""

from __future__ import annotations

from pathlib import Path

from r0.data.jsonl import BadLines
from r0.data.labelled import Labelled
from r0.data.scored import read_scored
from r0.errors import UserError
from r0.teacher.labelled_lists import LabelledLists, key_of


def check_scores_match(scores: Path, lists: LabelledLists) -> None:
    """Compare queries and documents, in any order of the queries.

    Raises:
        UserError: a query with its documents is in only one of the two.
    """
    missing = set(lists.keys)
    for one in read_scored(scores, BadLines()):
        key = key_of(Labelled(one.query, one.documents, one.labels))
        if key not in lists.keys:
            raise UserError(
                f"{one.place}: the query {one.query[:60]!r} with these documents is not in {lists.name}; score that data again, "
                "in another output= or with fresh=true"
            )
        missing.discard(key)
    if missing:
        raise UserError(
            f"{scores}: {len(missing)} of the {len(lists.keys)} queries in {lists.name} have no scores; score that data again, "
            "in another output= or with fresh=true"
        )

"""rank_llm requests: one query with its candidates and their texts per line.

``{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc": {"contents": …}}, …]}``. Ids are strings or integers. A
document's text is the first of ``TEXT_KEYS`` present, after its ``title``, if any. If all candidates have scores, they are
ordered by score, and equal scores keep the order of the line; otherwise all do.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from r0.data.fields import id_of, number_of, objects_of, text_of, text_or_empty, with_title
from r0.data.jsonl import BadLine, Row, shown

TEXT_KEYS = ("text", "segment", "contents", "content", "body", "passage")


class Request(NamedTuple):
    """A query and its N candidates in order. ``scores`` are N down to 1 if some candidates have none."""

    query_id: str
    query: str
    document_ids: tuple[str, ...]  # [N]
    scores: tuple[float, ...]  # [N]
    texts: tuple[str, ...]  # [N]


def unread_keys(row: Row) -> set[str]:
    """The keys of a valid line that are not read; those of the documents, which may be anything, are not among them."""
    inner = {key for candidate in objects_of(row, "candidates") for key in candidate}
    return row.keys() - {"query", "candidates"} | {f"candidates.{key}" for key in inner - {"docid", "score", "doc"}}


def request(row: Row) -> Request:
    """Parse a line.

    Raises:
        BadLine: a field is missing or invalid, there is no candidate, or one occurs twice.
    """
    query = row.get("query")
    if not isinstance(query, dict):
        raise BadLine('"query" must be an object with "text" and "qid"')
    query_id, text = id_of(query, "qid", "query: "), text_of(query, "text", "query: ")
    candidates = objects_of(row, "candidates")
    if not candidates:
        raise BadLine(f'the query {shown(query_id)} has no "candidates"')
    documents: dict[str, str] = {}
    scores: dict[str, float] = {}
    for index, candidate in enumerate(candidates):
        where = f"candidates[{index}]: "
        document_id = id_of(candidate, "docid", where)
        if document_id in documents:
            raise BadLine(f"{where}the document {shown(document_id)} occurs twice")
        documents[document_id] = _text(candidate, where)
        if candidate.get("score") is not None:
            scores[document_id] = number_of(candidate, "score", where)
    if len(scores) < len(documents):
        scores = {document_id: float(len(documents) - place) for place, document_id in enumerate(documents)}
    single = dict(zip(scores, array("f", scores.values()), strict=True))
    order = sorted(scores, key=lambda document_id: -single[document_id])  # stable
    return Request(query_id, text, tuple(order), tuple(scores[i] for i in order), tuple(documents[i] for i in order))


def _text(candidate: Row, where: str) -> str:
    document = candidate.get("doc")
    if not isinstance(document, dict):
        raise BadLine(f'{where}"doc" must be an object with the document\'s text')
    for key in TEXT_KEYS:
        if key in document:
            return with_title(text_or_empty(document, "title", where), text_or_empty(document, key, where))
    raise BadLine(f'{where}no text in "doc"; it must have one of the fields {", ".join(TEXT_KEYS)}')

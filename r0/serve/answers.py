"""The bodies of answers, as each of the imitated servers gives them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from r0.rerank.job import Outcome
from r0.serve.refusals import Kind, Refusal

UNIT = 100  # documents of one search unit, in Cohere's account
NO_SCORE = 0.5  # the score of a pair for which the model gives no finite number, as in Reranker.predict


class Answer(Response):
    """A JSON body. Texts of the request come back as they were, lone surrogates too, which only JSON's escapes can write."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body as bytes."""
        try:
            return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:
            return json.dumps(content, separators=(",", ":")).encode()


class Ranked:
    """The ranking of one request's documents.

    Args:
        outcome: of the request's only job.
        thoughts: whether the thoughts are returned.

    Raises:
        Refusal: the query does not fit the prompt.
    """

    def __init__(self, outcome: Outcome, thoughts: bool):
        check(outcome)
        self._outcome, self._thoughts, self._ranking = outcome, thoughts, outcome.ranking

    def results(self, name: str, top_n: int | None, documents: Sequence[Any] | None, raw: bool = False) -> list[dict[str, Any]]:
        """The documents, best first: ``index``, the score under ``name``, and what else was asked for.

        Args:
            name: of the score.
            top_n: number of results; None or 0: all.
            documents: by index what is returned as ``document``; None: nothing.
            raw: scores before the activation.

        Raises:
            Refusal: ``raw``, and a document has no such score.
        """
        logits = self._outcome.logits if raw else []
        found = []
        for index in self._ranking.order[: top_n or None]:
            score = logits[index] if raw else self._ranking.scores[index]
            if score is None:
                raise Refusal(Kind.LIMIT, "raw_scores: with this method and model a document has no score before an activation")
            entry: dict[str, Any] = {"index": index, name: score}
            if documents is not None:
                entry["document"] = documents[index]
            if self._thoughts:
                entry["thought"] = self._outcome.thought(index)
            found.append(entry)
        return found

    def usage(self) -> dict[str, int]:
        """Tokens, as Jina and vLLM count them."""
        return usage([self._outcome])


def check(outcome: Outcome) -> None:
    """Refuse a query that does not fit the prompt.

    Raises:
        Refusal: with the reason.
    """
    if outcome.refused:
        reason = outcome.refused.partition(": ")[2] or outcome.refused
        raise Refusal(Kind.LIMIT, f"the query is too long: {reason}", "query")


def usage(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Tokens read, and all tokens."""
    read, new = sum(one.prompt_tokens for one in outcomes), sum(one.new_tokens for one in outcomes)
    return {"prompt_tokens": read, "total_tokens": read + new}


def new_id(prefix: str = "") -> str:
    """An id for an answer."""
    return f"{prefix}{uuid.uuid4().hex}" if prefix else str(uuid.uuid4())


def cohere(results: list[dict[str, Any]], documents: int, version: str) -> dict[str, Any]:
    """The body of Cohere's API ``version``."""
    units = -(-documents // UNIT)
    return {
        "id": new_id(),
        "results": results,
        "meta": {"api_version": {"version": version}, "billed_units": {"search_units": units}},
    }


def score(model: str, outcomes: Sequence[Outcome], places: Sequence[Sequence[int]], count: int, thoughts: bool) -> dict[str, Any]:
    """The body of vLLM's score API.

    Args:
        model: its name.
        outcomes: of the jobs; each scored its documents one by one.
        places: for each job the numbers of its documents' pairs in the request.
        count: number of pairs N.
        thoughts: whether the thoughts are returned.

    Raises:
        Refusal: a query does not fit the prompt.
    """
    scores, said = [NO_SCORE] * count, [""] * count
    for outcome, numbers in zip(outcomes, places, strict=True):
        check(outcome)
        for question, reply in outcome.replies:
            place = numbers[question.documents[0]]
            said[place] = reply.thought
            if reply.probability is not None:
                scores[place] = reply.probability
    data: list[dict[str, Any]] = [{"index": n, "object": "score", "score": one} for n, one in enumerate(scores)]
    if thoughts:
        data = [entry | {"thought": thought} for entry, thought in zip(data, said, strict=True)]
    counted = usage(outcomes) | {"completion_tokens": sum(one.new_tokens for one in outcomes)}
    made = int(time.time())
    return {"id": new_id("score-"), "object": "list", "created": made, "model": model, "data": data, "usage": counted}

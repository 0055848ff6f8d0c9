"""The bodies of requests, as the clients of each server send them. Fields without a use here are ignored.

Three fields are r0's own, in every API: ``thinking``, ``max_think_tokens`` and ``return_thoughts``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from r0.serve.refusals import Kind, Refusal

TopN = Annotated[int, Field(ge=0)]


class ThoughtFields(BaseModel):
    """What a request may say about thoughts."""

    thinking: bool | None = Field(None, description="false: score without a thought; empty: as the server is configured")
    max_think_tokens: int | None = Field(None, ge=0, description="a longer thought is closed, and the answer asked for")
    return_thoughts: bool = Field(False, description="return the model's thought about each document or its list")


class RerankBody(ThoughtFields):
    """``/v1/rerank``: Jina's, vLLM's and Cohere's first API."""

    model: str | None = None
    query: str
    documents: str | list[str | dict[str, Any]]
    top_n: TopN | None = Field(None, description="number of results; 0 or empty: all")
    return_documents: bool | None = Field(None, description="empty: true; for Cohere's clients false")
    rank_fields: list[str] | None = Field(None, description="fields of the documents that are read, in this order; empty: text")


class CohereBody(ThoughtFields):
    """``/v2/rerank``: Cohere's second API."""

    model: str
    query: str
    documents: list[str]
    top_n: Annotated[int, Field(ge=1)] | None = Field(None, description="number of results; empty: all")
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = Field(None, description="ignored: the server's own limits hold")


class TeiBody(ThoughtFields):
    """``/rerank``: text-embeddings-inference."""

    query: str
    texts: list[str]
    raw_scores: bool = Field(False, description="scores before the activation")
    return_text: bool = False
    truncate: bool | None = Field(None, description="ignored: long documents lose their end")


Texts = str | list[str]


class ScoreBody(ThoughtFields):
    """``/v1/score`` and ``/score``: vLLM; the two sides have any of four pairs of names."""

    model: str | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """[N] the pairs to score; one text on a side goes with each on the other.

        Raises:
            Refusal: a side is missing, empty, or does not fit the other one.
        """
        names = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
        for first, second in names:
            left, right = getattr(self, first), getattr(self, second)
            if left is not None and right is not None:
                break
        else:
            raise Refusal(Kind.INVALID, "text_1 and text_2 are needed: the texts on both sides of the pairs", "text_1")
        lefts, rights = ([side] if isinstance(side, str) else side for side in (left, right))
        for name, side in ((first, lefts), (second, rights)):
            if not side:
                raise Refusal(Kind.LIMIT, f"{name} is empty; give at least one text", name)
        if len(lefts) == 1:
            lefts = lefts * len(rights)
        elif len(rights) == 1:
            rights = rights * len(lefts)
        if len(lefts) != len(rights):
            sizes = f"{len(lefts)} and {len(rights)} texts"
            raise Refusal(Kind.LIMIT, f"{first} and {second} have {sizes}; give 1 and N, N and 1, or N and N", second)
        return list(zip(lefts, rights, strict=True))


def text_of(document: str | dict[str, Any], number: int, rank_fields: list[str] | None) -> str:
    """The text of a document that is a string or an object.

    Raises:
        Refusal: the object has none of the fields.
    """
    if isinstance(document, str):
        return document
    fields = rank_fields or ["text"]
    values = [document[name] for name in fields if document.get(name) is not None]
    if not values:
        names = " or ".join(fields)
        raise Refusal(Kind.INVALID, f"documents[{number}] has no {names}; name its fields with rank_fields", "documents")
    if not all(isinstance(value, str | int | float) for value in values):
        raise Refusal(Kind.INVALID, f"documents[{number}]: {' and '.join(fields)} must be text", "documents")
    return "\n".join(map(str, values))

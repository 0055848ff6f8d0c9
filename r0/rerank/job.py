"""What is asked of the rerank workers and what comes back: plain data, so that both travel to an actor."""

from __future__ import annotations

from dataclasses import dataclass

from r0.records import Answer, Violation
from r0.rerank.asks import Ask, Ranking, Reply


@dataclass(frozen=True, slots=True)
class Job:
    """A query with the candidates that a model is to order, in the given order."""

    key: int  # tells the jobs of a run apart
    query_id: str  # part of the address of shuffles and seeds
    query: str
    documents: tuple[str, ...]  # [N] texts of the candidates that are reranked
    scores: tuple[float, ...] = ()  # [N] the first stage's, where they are to be fused
    each: bool = False  # only the probability of each document is wanted, of a single one too
    samples: int = 0  # above 0: verdicts on the one document are wanted, so many at most, until one is the known answer
    known: Answer | None = None  # of verdicts; None: any answer will do


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job that is done."""

    key: int
    ranking: Ranking  # of the job's N documents
    replies: tuple[tuple[Ask, Reply], ...]  # the documents' asks, a sample's in the order in which they followed each other
    prompt_tokens: int
    new_tokens: int  # sampled
    seconds: float  # from the first ask to the last reply
    refused: str = ""  # why the query could not be shown to the model, in a sentence; the ranking is then the given order

    @property
    def failures(self) -> dict[str, int]:
        """Replies that had each failure, by its name."""
        found: dict[str, int] = {}
        for violation in Violation:
            count = sum(violation in reply.failures for _, reply in self.replies)
            if count:
                found[violation.value] = count
        return found

    @property
    def failed(self) -> int:
        """Replies with any failure."""
        return sum(bool(reply.failures) for _, reply in self.replies)

    def thought(self, document: int) -> str:
        """The thought of the last reply about a document; empty where it was in none."""
        return next((reply.thought for ask, reply in reversed(self.replies) if document in ask.documents), "")

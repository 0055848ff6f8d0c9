"""The input and output of rerank workers: plain data that can be sent to an actor."""

from __future__ import annotations

from dataclasses import dataclass

from r0.records import Answer, Violation
from r0.rerank.protocol import Question, Ranking, Reply


@dataclass(frozen=True, slots=True)
class Job:
    """A query with its candidates to rerank, in first-stage order."""

    key: int  # unique within a run
    query_id: str  # hashed into shuffles and seeds
    query: str
    documents: tuple[str, ...]  # [N] texts of the candidates
    scores: tuple[float, ...] = ()  # [N] first-stage scores, if they are fused
    each: bool = False  # score each document on its own, even a single one, without ranking
    samples: int = 0  # above 0: sample verdicts on the single document, at most so many, until one equals ``known``
    known: Answer | None = None  # the label, for verdicts; None: any answer is accepted
    thinking: bool | None = None  # whether a language model thinks about this query; None: as configured
    max_think_tokens: int | None = None  # a longer thought is closed, and the answer asked for; None: no such limit


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished job."""

    key: int
    ranking: Ranking  # of the job's N documents
    replies: tuple[tuple[Question, Reply], ...]  # by sample, in the order of the questions
    prompt_tokens: int
    new_tokens: int  # sampled
    seconds: float  # from the first question to the last reply
    refused: str = ""  # why the query does not fit the prompt, in a sentence; the ranking is then the first-stage order

    @property
    def failures(self) -> dict[str, int]:
        """The number of replies with each failure, by name."""
        found: dict[str, int] = {}
        for violation in Violation:
            count = sum(violation in reply.failures for _, reply in self.replies)
            if count:
                found[violation.value] = count
        return found

    @property
    def failed(self) -> int:
        """The number of replies with any failure."""
        return sum(bool(reply.failures) for _, reply in self.replies)

    @property
    def forced(self) -> int:
        """The number of replies whose thought was closed at ``Job.max_think_tokens``."""
        return sum(reply.forced for _, reply in self.replies)

    @property
    def logits(self) -> list[float | None]:
        """[N] the logit of each document in the last reply about it alone; None if there is none."""
        found: list[float | None] = [None] * len(self.ranking.order)
        for question, reply in self.replies:
            if len(question.documents) == 1:
                found[question.documents[0]] = reply.logit
        return found

    def thought(self, document: int) -> str:
        """The thought of the last reply about a document; empty if there is none."""
        return next((reply.thought for question, reply in reversed(self.replies) if document in question.documents), "")

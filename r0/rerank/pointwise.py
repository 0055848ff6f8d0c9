"""Pointwise reranking: scores each candidate by the probability that it answers the query."""

from __future__ import annotations

from r0.records import Form
from r0.rerank.protocol import Method, Question, Ranking


def pointwise(n: int) -> Method:
    """n questions at once; the scores are P(yes), and equal ones are ordered by logit(yes) − logit(no).

    A candidate without a probability (the model gave no finite numbers) keeps its first-stage rank. Unlike in the other methods,
    a single candidate is scored too, since its probability is comparable across queries.
    """
    probabilities: list[float | None] = [None] * n
    logits: list[float | None] = [None] * n
    questions = [Question((position,), Form.YES_NO) for position in range(n)]
    for _ in range(n):
        question, reply = yield questions
        probabilities[question.documents[0]], logits[question.documents[0]] = reply.probability, reply.logit
        questions = []
    return Ranking.of_scores(probabilities, logits)

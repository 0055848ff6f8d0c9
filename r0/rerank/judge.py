"""One ask as requests to an engine, and what the completions say as a reply.

An ask about a list is one completion, read leniently (``r0.text.answers.read_lenient``). An ask about one document gives the
probability of yes over yes and no, at the place where the answer stands:

* with thinking, a whole completion is sampled; it is cut where its answer begins, and one more token is asked for that may only
  be the first of *yes* or of *no*. A completion without an answer that can be read has no probability: the document keeps its
  given rank, and the failure is counted.
* without thinking, an empty thought and ``<answer>`` follow the prompt, and the one token is all.
* where the configuration gives the format of a pair, the one token behind it is all.

Where that is and which two tokens these are: ``r0.text.answer_position``, and ``r0.rerank.pair_prompts`` for such a format.

Where the verdict itself is wanted (``Job.samples``), it is read as it stands (``r0.rerank.stated``), and one completion is all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp, isfinite
from typing import Any

from r0.config import RankingKeys
from r0.data.hashes import hash_key
from r0.errors import UserError
from r0.records import (
    Finish,
    Form,
    ListLabel,
    ListwiseTask,
    PointwiseTask,
    Prompt,
    Sampled,
    SampleRequest,
    Task,
    Violation,
)
from r0.rerank.asks import Ask, Reply
from r0.rerank.job import Job
from r0.rerank.pair_format import PairFormat
from r0.rerank.pair_prompts import PairPrompts
from r0.rerank.stated import read_stated
from r0.text.answer_position import UNREADABLE, AnswerPosition, AnswerPositions
from r0.text.answers import read_lenient
from r0.text.completion import ANSWER, THINK, CompletionReader
from r0.text.messages import SYSTEM_PROMPTS
from r0.text.prompts import Prompter


class QueryRefused(UserError):
    """A query that cannot be shown to the model: it is too long for the prompt budget."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request and how it is to be sampled."""

    request: SampleRequest
    temperature: float
    max_new_tokens: int
    greedy: bool


class Judge:
    """Asks and replies of one model.

    Args:
        tokenizer: the model's.
        keys: the configuration.
        max_prompt_tokens: budget of a whole prompt.
        stop_ids: ids that end a completion.
        own_prompt: the system prompt of an answer form where the configuration gives none.
    """

    def __init__(
        self,
        tokenizer: Any,
        keys: RankingKeys,
        max_prompt_tokens: int,
        stop_ids: Iterable[int] = (),
        own_prompt: Callable[[Form], str] = SYSTEM_PROMPTS.__getitem__,
    ):
        self._own_prompt = own_prompt
        self._tokenizer, self._keys, self._max_prompt_tokens = tokenizer, keys, max_prompt_tokens
        self._reader = CompletionReader(tokenizer, stop_ids)
        self._prompters: dict[Form, Prompter] = {}
        form = PairFormat.of(keys)
        self._pairs = PairPrompts(tokenizer, form, max_prompt_tokens) if form else None

    def converse(self, job: Job, ask: Ask) -> Generator[Wanted, Sampled, Reply]:
        """Yields what is to be sampled, one after another, is sent each completion, and returns the reply.

        Raises:
            QueryRefused: the query alone leaves no room for the documents.
            UserError: the tokenizer cannot be used.
        """
        if self._pairs is not None:
            with _refusing(job):
                place = self._pairs.place(job.query, job.documents[ask.documents[0]])
            return (yield from self._at_once(place))
        prompter = self._prompter(ask.form)
        with _refusing(job):
            prompt = prompter.prompt(_task(job, ask))
        if ask.form is Form.YES_NO and self._keys.thinking is False:
            return (yield from self._at_once(self._places(prompter).without_thought(prompt)))
        sampled = yield self._whole(job, ask, prompt)
        text = self._reader.text(sampled.token_ids)
        if job.samples:
            return self._stated(prompt, text, sampled)
        lenient = read_lenient(text, ask.form, len(ask.documents), prompt.prefix)
        failures = lenient.failures | ({Violation.CUT} if sampled.finish is Finish.LENGTH else set())
        logit, tokens = None, len(sampled.token_ids)
        if ask.form is Form.YES_NO and not failures & UNREADABLE:
            logit = yield from self._logit(self._places(prompter).after_thought(prompt, sampled.token_ids))
            failures |= _none(logit)
            tokens += 1
        thought = _thought(prompt.prefix + text)
        return Reply(lenient.groups, lenient.scores, _probability(logit), failures, thought, tokens, logit=logit)

    def _at_once(self, place: AnswerPosition) -> Generator[Wanted, Sampled, Reply]:
        """The reply of a model that writes nothing but the answer's word."""
        logit = yield from self._logit(place)
        return Reply(((0,),), probability=_probability(logit), logit=logit, failures=_none(logit), tokens=1)

    def _stated(self, prompt: Prompt, text: str, sampled: Sampled) -> Reply:
        """A verdict as it stands; one that the token limit cut counts as none, whatever stands there."""
        stated = read_stated(prompt.prefix + text)
        failures = stated.failures | ({Violation.CUT} if sampled.finish is Finish.LENGTH else set())
        tokens = self._reader.verdict(sampled.token_ids, text, prompt.prefix, sampled.finish).think_tokens
        answer = None if failures else stated.answer
        return Reply(
            ((0,),), failures=failures, thought=stated.thought, tokens=len(sampled.token_ids), answer=answer, think_tokens=tokens,
            cut_tokens=prompt.cut_tokens,
        )  # fmt: skip

    def _whole(self, job: Job, ask: Ask, prompt: Prompt) -> Wanted:
        seed = hash_key(self._keys.seed, job.query_id, *ask.documents, ask.form, ask.sample) >> 1
        temperature = self._keys.temperature
        request = SampleRequest(prompt.token_ids, seed)
        return Wanted(request, temperature or 1.0, self._keys.max_new_tokens, greedy=temperature == 0.0)

    def _logit(self, place: AnswerPosition) -> Generator[Wanted, Sampled, float | None]:
        """logit(yes) − logit(no), by which log-probabilities over the two differ as well; None: the model gives no numbers."""
        request = SampleRequest(place.context_ids, 0, (place.yes_id, place.no_id))
        sampled = yield Wanted(request, 1.0, 1, greedy=True)
        of_yes, of_no = sampled.allowed_logprobs
        return of_yes - of_no if isfinite(of_yes - of_no) else None

    def _places(self, prompter: Prompter) -> AnswerPositions:
        return AnswerPositions(prompter.template, self._reader)

    def _prompter(self, form: Form) -> Prompter:
        if form not in self._prompters:
            system = self._keys.system_prompt or self._own_prompt(form)
            self._prompters[form] = Prompter(self._tokenizer, system, self._max_prompt_tokens, self._keys.passage_tokens)
        return self._prompters[form]


@contextmanager
def _refusing(job: Job) -> Iterator[None]:
    """What is wrong with a prompt is a refusal of its query."""
    try:
        yield
    except UserError as error:
        raise QueryRefused(f"query {job.query_id}: {error}") from None


def _probability(logit: float | None) -> float | None:
    """P(yes) over yes and no."""
    return None if logit is None else 1.0 / (1.0 + exp(min(-logit, 700.0)))


def _none(logit: float | None) -> frozenset[Violation]:
    """What fails where there are no numbers."""
    return frozenset({Violation.BAD_ANSWER}) if logit is None else frozenset()


def _task(job: Job, ask: Ask) -> Task:
    if ask.form is Form.YES_NO:
        return PointwiseTask(job.key, job.query, job.documents[ask.documents[0]], label=0)
    documents = tuple(job.documents[position] for position in ask.documents)
    label = ListLabel((0.0,) * len(documents), tuple(range(len(documents))))
    return ListwiseTask(job.key, job.query, documents, label, ask.form)


def _thought(text: str) -> str:
    """What stands in the think tags, up to the last closing one; all up to the answer where none is closed."""
    start = text.find(THINK[0])
    if start < 0:
        return ""
    end = text.rfind(THINK[1])
    if end < 0:
        end = text.find(ANSWER[0]) if ANSWER[0] in text else len(text)
    return text[start + len(THINK[0]) : end].strip()

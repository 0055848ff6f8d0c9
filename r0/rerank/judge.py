"""Turns a question into requests to an engine, and the completions into a reply.

A question about a list needs one completion, parsed leniently (``r0.text.lenient_answers.read_lenient``). A question about one
document gives P(yes) over yes and no at the answer position:

* with thinking, a completion is sampled and cut where its answer begins; then one more token is requested, restricted to the
  first token of *yes* or of *no*. It is requested of a completion without a readable answer too, behind its thought, and the
  failure is counted.
* without thinking, the prompt is followed by an empty thought and ``<answer>``, and only the one token is requested.
* with a pair format in the configuration, only the token after it is requested.

For the position and the two tokens see ``r0.text.answer_position``, and ``r0.rerank.pair_prompts`` for pair formats.

A job may limit the thought (``r0.rerank.thought_budget``). A thought about one document that reaches the limit is closed, which
is no failure.

For verdicts (``Job.samples``) the stated answer itself is parsed (``r0.rerank.verdict``), from one completion.
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
from r0.rerank.job import Job
from r0.rerank.pair_format import PairFormat
from r0.rerank.pair_prompts import PairPrompts
from r0.rerank.protocol import Question, Reply
from r0.rerank.thought_budget import Completion, ThoughtBudget
from r0.rerank.verdict import read_verdict
from r0.text.answer_position import AnswerPosition, AnswerPositions
from r0.text.completion import ANSWER, THINK, CompletionReader
from r0.text.lenient_answers import read_lenient
from r0.text.messages import SYSTEM_PROMPTS
from r0.text.prompts import Prompter
from r0.text.template_variables import Variables


class QueryRefused(UserError):
    """A query that is too long for the maximum prompt length."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request with its sampling parameters."""

    request: SampleRequest
    temperature: float
    max_new_tokens: int
    greedy: bool


class Judge:
    """Questions and replies of one model.

    Args:
        tokenizer: the model's tokenizer.
        keys: the configuration.
        max_prompt_tokens: maximum length of a whole prompt.
        stop_ids: ids that end a completion.
        own_prompt: returns the system prompt of an answer form if the configuration has none.
        variables: the variables of the chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        keys: RankingKeys,
        max_prompt_tokens: int,
        stop_ids: Iterable[int] = (),
        own_prompt: Callable[[Form], str] = SYSTEM_PROMPTS.__getitem__,
        variables: Variables | None = None,
    ):
        self._own_prompt, self._variables = own_prompt, variables
        self._tokenizer, self._keys, self._max_prompt_tokens = tokenizer, keys, max_prompt_tokens
        self._reader = CompletionReader(tokenizer, stop_ids)
        self._prompters: dict[Form, Prompter] = {}
        form = PairFormat.of(keys)
        self._pairs = PairPrompts(tokenizer, form, max_prompt_tokens) if form else None

    def reply_to(self, job: Job, question: Question) -> Generator[EngineRequest, Sampled, Reply]:
        """A generator that yields requests one after another, is sent each completion, and returns the reply.

        Raises:
            QueryRefused: the query leaves no room for the documents.
            UserError: the tokenizer cannot be used.
        """
        if self._pairs is not None:
            with _as_refusal(job):
                place = self._pairs.place(job.query, job.documents[question.documents[0]])
            return (yield from self._without_thought(place))
        prompter = self._prompter(question.form)
        with _as_refusal(job):
            prompt = prompter.prompt(_task(job, question))
        limit = self._thought_limit(job, question.form)
        if question.form is Form.YES_NO and limit == 0:
            return (yield from self._without_thought(self._places(prompter).without_thought(prompt)))
        done = yield from self._completion(job, question, prompt, prompter, limit)
        if job.samples:
            return self._verdict(prompt, done)
        thought = _thought(prompt.prefix + done.text)
        lenient = read_lenient(done.text, question.form, len(question.documents), prompt.prefix)
        failures = lenient.failures | ({Violation.CUT} if done.finish is Finish.LENGTH else set())
        if question.form is not Form.YES_NO:
            return Reply(lenient.groups, lenient.scores, None, failures, thought, done.tokens, forced=done.forced)
        if done.forced:  # its answer is not in the text: it is asked for now
            failures = frozenset()
        logit = yield from self._logit(self._places(prompter).after_completion(prompt, done.token_ids))
        failures |= _missing_logit(logit)
        return Reply(((0,),), None, _probability(logit), failures, thought, done.tokens + 1, forced=done.forced, logit=logit)

    def _thought_limit(self, job: Job, form: Form) -> int | None:
        """The budget of a thought in tokens; 0: none is written, None: no budget. (The key thinking is for one document.)"""
        thinking = job.thinking
        if thinking is None and form is Form.YES_NO:
            thinking = self._keys.thinking
        return 0 if thinking is False else job.max_think_tokens

    def _without_thought(self, place: AnswerPosition) -> Generator[EngineRequest, Sampled, Reply]:
        """The reply from the answer token alone."""
        logit = yield from self._logit(place)
        return Reply(((0,),), probability=_probability(logit), logit=logit, failures=_missing_logit(logit), tokens=1)

    def _verdict(self, prompt: Prompt, done: Completion) -> Reply:
        """The reply with a stated verdict; a completion cut at the token limit has none."""
        stated = read_verdict(prompt.prefix + done.text)
        failures = stated.failures | ({Violation.CUT} if done.finish is Finish.LENGTH else set())
        tokens = self._reader.verdict(done.token_ids, done.text, prompt.prefix, done.finish).think_tokens
        answer = None if failures else stated.answer
        return Reply(
            ((0,),), failures=failures, thought=stated.thought, tokens=done.tokens, answer=answer, think_tokens=tokens,
            cut_tokens=prompt.cut_tokens,
        )  # fmt: skip

    def _completion(
        self, job: Job, question: Question, prompt: Prompt, prompter: Prompter, limit: int | None
    ) -> Generator[EngineRequest, Sampled, Completion]:
        """The completion of a prompt, with a thought of at most ``limit`` tokens."""
        seed = hash_key(self._keys.seed, job.query_id, *question.documents, question.form, question.sample) >> 1
        temperature = self._keys.temperature
        budget = ThoughtBudget(prompter.template, self._reader, self._keys.max_new_tokens)
        asking = budget.complete(prompt, question.form, len(question.documents), limit)
        sampled: Sampled | None = None
        while True:
            try:
                wanted = next(asking) if sampled is None else asking.send(sampled)
            except StopIteration as done:
                return done.value
            request = SampleRequest(wanted.prompt_ids, seed)
            sampled = yield EngineRequest(request, temperature or 1.0, wanted.max_new_tokens, greedy=temperature == 0.0)

    def _logit(self, place: AnswerPosition) -> Generator[EngineRequest, Sampled, float | None]:
        """logit(yes) − logit(no), which equals the difference of the log-probabilities over the two; None if the model returns
        no finite numbers.
        """
        request = SampleRequest(place.context_ids, 0, (place.yes_id, place.no_id))
        sampled = yield EngineRequest(request, 1.0, 1, greedy=True)
        of_yes, of_no = sampled.allowed_logprobs
        return of_yes - of_no if isfinite(of_yes - of_no) else None

    def _places(self, prompter: Prompter) -> AnswerPositions:
        return AnswerPositions(prompter.template, self._reader)

    def _prompter(self, form: Form) -> Prompter:
        if form not in self._prompters:
            system = self._keys.system_prompt or self._own_prompt(form)
            budgets = self._max_prompt_tokens, self._keys.passage_tokens
            self._prompters[form] = Prompter(self._tokenizer, system, *budgets, self._variables)
        return self._prompters[form]


@contextmanager
def _as_refusal(job: Job) -> Iterator[None]:
    """Convert an error in a prompt to a refusal of its query."""
    try:
        yield
    except UserError as error:
        raise QueryRefused(f"query {job.query_id}: {error}") from None


def _probability(logit: float | None) -> float | None:
    """P(yes) over yes and no."""
    return None if logit is None else 1.0 / (1.0 + exp(min(-logit, 700.0)))


def _missing_logit(logit: float | None) -> frozenset[Violation]:
    """The failure if there is no logit."""
    return frozenset({Violation.BAD_ANSWER}) if logit is None else frozenset()


def _task(job: Job, question: Question) -> Task:
    if question.form is Form.YES_NO:
        return PointwiseTask(job.key, job.query, job.documents[question.documents[0]], label=0)
    documents = tuple(job.documents[position] for position in question.documents)
    label = ListLabel((0.0,) * len(documents), tuple(range(len(documents))))
    return ListwiseTask(job.key, job.query, documents, label, question.form)


def _thought(text: str) -> str:
    """The content of the think tags up to the last closing tag, or, if none is closed, up to the answer."""
    start = text.find(THINK[0])
    if start < 0:
        return ""
    end = text.rfind(THINK[1])
    if end < 0:
        end = text.find(ANSWER[0]) if ANSWER[0] in text else len(text)
    return text[start + len(THINK[0]) : end].strip()

"""One ask as requests to an engine, and what the completions say as a reply.

An ask about a list is one completion, read leniently (``r0.answers.read_lenient``). An ask about one document gives the
probability of yes over yes and no, at the place where the answer stands:

* with thinking, a whole completion is sampled; it is cut where its answer begins, and one more token is asked for that may only
  be the first of *yes* or of *no*. A completion without an answer that can be read has no probability: the document keeps its
  given rank, and the failure is counted.
* without thinking, an empty thought and ``<answer>`` follow the prompt, and the one token is all.

Which two tokens these are follows from how the tokenizer writes ``<answer>yes</answer>`` and ``<answer>no</answer>``: the first
in which they differ (in some vocabularies it carries the tag's ``>``), behind the ids that they share.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from math import exp
from typing import Any

from r0.answers import read_lenient
from r0.completion import ANSWER, THINK, CompletionReader
from r0.config import RankingKeys
from r0.data.hashes import address
from r0.errors import UserError
from r0.messages import SYSTEM_PROMPTS
from r0.prompts import Prompter
from r0.records import (
    Answer,
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
from r0.spans import UNKNOWN

# Tokens, beyond prompt and completion, for writing the beginning of an answer once more in the tokenizer's own way.
ANSWER_ROOM = 32


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

    def converse(self, job: Job, ask: Ask) -> Generator[Wanted, Sampled, Reply]:
        """Yields what is to be sampled, one after another, is sent each completion, and returns the reply.

        Raises:
            QueryRefused: the query alone leaves no room for the documents.
            UserError: the tokenizer cannot be used.
        """
        prompter = self._prompter(ask.form)
        try:
            prompt = prompter.prompt(_task(job, ask))
        except UserError as error:
            raise QueryRefused(f"query {job.query_id}: {error}") from None
        if ask.form is Form.YES_NO and self._keys.thinking is False:
            opening = "" if THINK[1] in prompt.prefix else THINK[1] if prompt.prefix else "".join(THINK)
            probability = yield from self._probability(prompter, prompt.token_ids, opening + ANSWER[0])
            return Reply(((0,),), probability=probability, tokens=1)
        sampled = yield self._whole(job, ask, prompt)
        text = self._reader.text(sampled.token_ids)
        lenient = read_lenient(text, ask.form, len(ask.documents), prompt.prefix)
        failures = lenient.failures | ({Violation.CUT} if sampled.finish is Finish.LENGTH else set())
        probability, tokens = None, len(sampled.token_ids)
        if ask.form is Form.YES_NO and not failures & _UNREADABLE:
            kept, opening = self._before_answer(sampled.token_ids, text)
            probability = yield from self._probability(prompter, (*prompt.token_ids, *kept), opening)
            tokens += 1
        return Reply(lenient.groups, lenient.scores, probability, failures, _thought(prompt.prefix + text), tokens)

    def _whole(self, job: Job, ask: Ask, prompt: Prompt) -> Wanted:
        seed = address(self._keys.seed, job.query_id, *ask.documents, ask.form, ask.sample) >> 1
        temperature = self._keys.temperature
        request = SampleRequest(prompt.token_ids, seed)
        return Wanted(request, temperature or 1.0, self._keys.max_new_tokens, greedy=temperature == 0.0)

    def _probability(
        self, prompter: Prompter, context: tuple[int, ...], opening: str
    ) -> Generator[Wanted, Sampled, float | None]:
        """P(yes) over yes and no where ``opening``, which ends with the answer's tag, goes on behind ``context``.

        Raises:
            UserError: the tokenizer writes both alike.
        """
        yes, no = (prompter.template.trusted(f"{opening}{answer.value}{ANSWER[1]}") for answer in (Answer.YES, Answer.NO))
        shared = next((i for i, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
        if shared is None:
            raise UserError("model: its tokenizer writes yes and no alike, so there is no probability of yes; use another method")
        request = SampleRequest((*context, *yes[:shared]), 0, (yes[shared], no[shared]))
        sampled = yield Wanted(request, 1.0, 1, greedy=True)
        of_yes, of_no = sampled.allowed_logprobs
        return 1.0 / (1.0 + exp(min(of_no - of_yes, 700.0)))

    def _before_answer(self, token_ids: tuple[int, ...], text: str) -> tuple[tuple[int, ...], str]:
        """The ids that lie wholly before the answer's tag, and what is left of the text up to and with the tag."""
        place = _answer_place(text)

        def length(count: int) -> int:
            return len(self._reader.text(token_ids[:count]).rstrip(UNKNOWN))

        kept = token_ids[: bisect_right(range(len(token_ids) + 1), place, key=length) - 1]
        before = self._reader.text(kept)
        if not text.startswith(before) or len(before) > place:  # a tokenizer whose texts do not add up: written anew
            kept, before = (), ""
        return kept, text[len(before) : place] + ANSWER[0]

    def _prompter(self, form: Form) -> Prompter:
        if form not in self._prompters:
            system = self._keys.system_prompt or self._own_prompt(form)
            self._prompters[form] = Prompter(self._tokenizer, system, self._max_prompt_tokens, self._keys.passage_tokens)
        return self._prompters[form]


_UNREADABLE = frozenset({Violation.NO_ANSWER, Violation.BAD_ANSWER})


def _task(job: Job, ask: Ask) -> Task:
    if ask.form is Form.YES_NO:
        return PointwiseTask(job.key, job.query, job.documents[ask.documents[0]], label=0)
    documents = tuple(job.documents[position] for position in ask.documents)
    label = ListLabel((0.0,) * len(documents), tuple(range(len(documents))))
    return ListwiseTask(job.key, job.query, documents, label, ask.form)


def _answer_place(text: str) -> int:
    """Where the answer begins that ``read_lenient`` reads: the last pair's tag, or the last tag where no pair is."""
    opening = text.rfind(ANSWER[0], 0, max(text.rfind(ANSWER[1]), 0))
    return opening if opening >= 0 else text.rfind(ANSWER[0])


def _thought(text: str) -> str:
    """What stands in the think tags, up to the last closing one; all up to the answer where none is closed."""
    start = text.find(THINK[0])
    if start < 0:
        return ""
    end = text.rfind(THINK[1])
    if end < 0:
        end = text.find(ANSWER[0]) if ANSWER[0] in text else len(text)
    return text[start + len(THINK[0]) : end].strip()

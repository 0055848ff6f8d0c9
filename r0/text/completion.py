r"""Parses sampled token ids into a verdict: the answer, or the violations. Accepts any ids, never raises, runs in linear time.

Rules:

* The judged text is ``prefix`` (a tag that the chat template already opened) followed by the completion.
* The tags are four literal strings in lower case. White space is what ``str.strip`` removes.
* The *first pair* of a tag runs from the first opening tag to the next closing tag. *Exactly one pair* means that the opening
  and the closing tag each occur once in the whole text, in this order: a stray tag counts as a repetition.
* The thought's tokens are the sampled ids that lie entirely inside the first think pair. A token that shares characters with a
  tag (``>\n``) belongs to the tag. Ids without text count where they were sampled. A prefilled ``<think>`` is not counted.
* End-of-sequence ids at the end are not part of the text. Elsewhere they are text, as any other special token.
* The task's form defines the valid content of the answer pair (``r0.text.answers``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from r0.records import Finish, Form, Verdict, Violation
from r0.text.answers import Groups, read_strict
from r0.text.spans import spans_of

THINK = ("<think>", "</think>")
ANSWER = ("<answer>", "</answer>")


class Parsed(NamedTuple):
    """The parsed text, without token counts. ``think``: (start, end) of the first pair's content, in characters."""

    answer: str | None
    has_think: bool
    think: tuple[int, int] | None
    violations: set[Violation]
    ranking: Groups | None = None
    scores: tuple[float, ...] | None = None


class CompletionReader:
    """Reads completions of one tokenizer.

    Args:
        tokenizer: a transformers tokenizer, fast or slow. For byte-level ones a lookup table is built here, once.
        eos_token_ids: additional end-of-sequence ids; a model's generation configuration can name several.
    """

    def __init__(self, tokenizer: Any, eos_token_ids: Iterable[int] = ()):
        own = tokenizer.eos_token_id
        self._eos = frozenset(eos_token_ids) | ({own} if own is not None else set())
        self._spans = spans_of(tokenizer)

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode the completion, keeping special tokens except end-of-sequence ids at the end. Accepts any ids."""
        return self._spans.text(self._without_eos(token_ids))

    def verdict(
        self,
        token_ids: Sequence[int],
        text: str,
        prefix: str = "",
        finish: Finish = Finish.STOP,
        form: Form = Form.YES_NO,
        size: int = 1,
    ) -> Verdict:
        """Judge ``prefix + text``, where ``text`` is ``self.text(token_ids)`` (passed in so that it is decoded only once).

        ``form`` is the requested answer form, ``size`` the number of documents.
        """
        parsed = parse(prefix + text, form, size)
        if finish == Finish.LENGTH:
            parsed.violations.add(Violation.CUT)
        tokens = 0
        if parsed.think is not None:
            start, end = parsed.think
            tokens = self._spans.count(self._without_eos(token_ids), text, start - len(prefix), end - len(prefix))
        wrong = frozenset(parsed.violations)
        return Verdict(parsed.answer, tokens, parsed.has_think, wrong, parsed.ranking, parsed.scores)

    def read(
        self,
        token_ids: Sequence[int],
        prefix: str = "",
        finish: Finish = Finish.STOP,
        form: Form = Form.YES_NO,
        size: int = 1,
    ) -> tuple[str, Verdict]:
        """Return ``(prefix + text, verdict)`` for sampled ids."""
        text = self.text(token_ids)
        return prefix + text, self.verdict(token_ids, text, prefix, finish, form, size)

    def _without_eos(self, token_ids: Sequence[int]) -> Sequence[int]:
        end = len(token_ids)
        while end and token_ids[end - 1] in self._eos:
            end -= 1
        return token_ids if end == len(token_ids) else token_ids[:end]


def parse(text: str, form: Form = Form.YES_NO, size: int = 1) -> Parsed:
    """Find the tag pairs and all violations in ``text``, with a fixed number of linear searches."""
    think, answer = _find(text, *THINK), _find(text, *ANSWER)
    found: set[Violation] = set()
    if not think.exists:
        found.add(Violation.NO_THINK)
    if not answer.exists:
        found.add(Violation.NO_ANSWER)
    if think.opens != think.closes:
        found.add(Violation.UNCLOSED_THINK)
    if answer.opens != answer.closes:
        found.add(Violation.UNCLOSED_ANSWER)
    if think.opens > 1 or think.closes > 1:
        found.add(Violation.REPEATED_THINK)
    if answer.opens > 1 or answer.closes > 1:
        found.add(Violation.REPEATED_ANSWER)
    _place(text, think, answer, found)
    verdict, ranking, scores = None, None, None
    if answer.once:
        content = text[answer.open + len(ANSWER[0]) : answer.end].strip()
        verdict, ranking, scores, wrong = read_strict(content, form, size)
        found |= wrong
    before_answer = think.end < answer.open or answer.open < 0
    thought = (think.start, think.end) if think.exists else None
    return Parsed(verdict, think.once and before_answer, thought, found, ranking, scores)


class _Pair(NamedTuple):
    """The offsets of a tag's first pair; −1 if there is none."""

    open: int  # first opening tag
    start: int  # the content of the first pair
    end: int
    first_close: int  # first closing tag, even before the opening tag
    opens: int
    closes: int

    @property
    def exists(self) -> bool:
        return self.end >= 0

    @property
    def once(self) -> bool:
        return self.opens == 1 and self.closes == 1 and self.end >= 0


def _find(text: str, open_tag: str, close_tag: str) -> _Pair:
    first = text.find(open_tag)
    start = first + len(open_tag) if first >= 0 else -1
    end = text.find(close_tag, start) if first >= 0 else -1
    return _Pair(first, start, end, text.find(close_tag), text.count(open_tag), text.count(close_tag))


def _place(text: str, think: _Pair, answer: _Pair, found: set[Violation]) -> None:
    """Add violations of tag order and of text outside the pairs to ``found``."""
    firsts = [place for place in (think.open, think.first_close, answer.open, answer.first_close) if place >= 0]
    if not firsts:
        return
    if any(left > right for left, right in pairwise(firsts)):
        found.add(Violation.ORDER)
    first = min(firsts)
    if first in (think.open, answer.open) and _has_text(text, 0, first):
        found.add(Violation.TEXT_BEFORE)
    if answer.open >= 0:
        close = text.rfind(THINK[1], 0, answer.open)
        if close >= 0 and _has_text(text, close + len(THINK[1]), answer.open):
            found.add(Violation.TEXT_BETWEEN)
    last = text.rfind(ANSWER[1])
    if last >= 0 and _has_text(text, last + len(ANSWER[1]), len(text)):
        found.add(Violation.EXTRA_TEXT)


def _has_text(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` contains anything but white space."""
    return end > start and not text[start:end].isspace()

"""What r0-tiny's base model is trained on: honest rows of the built-in task under many prompts, and text of other kinds."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from r0.data.builtin.lists import builtin_list_task, honest_list_completion
from r0.data.builtin.pairs import (
    BASE_SEED_START,
    CONNECTED,
    DEMO_SYSTEM_PROMPT,
    MISSING,
    UNCONNECTED,
    builtin_task,
    concepts_of,
    honest_completion,
    honest_thought,
    random_stream,
)
from r0.data.builtin.words import words_of
from r0.records import Form, PointwiseTask
from r0.text.messages import SYSTEM_PROMPTS, list_message, user_message

LONG_PROMPT = """You judge whether a Document answers the whole of a Query.

What counts:
- every key concept of the Query occurs in the Document
- the Document relates the concepts of the Query to each other and says how they are connected
- a concept that is only mentioned in isolation, without context, is not enough
- the information need that the Query expresses is satisfied in full

How to work:
1. Think first, inside <think> tags (at most 128 tokens): name the key concepts of the Query, check for each whether it is \
present in the Document, and check how they are connected
2. Then give the final judgment inside <answer> tags: exactly "yes" when the coverage is comprehensive, or "no" when it is \
insufficient
3. Write no other characters and no explanations outside of these tags

Answer "yes" only if the Document fully satisfies the requirements of the Query."""

SHORT_PROMPTS = (
    "Does the document cover the query? Think, then answer yes or no.",
    "You judge relevance. Think in <think> tags and answer in <answer> tags.",
    "You are a helpful assistant.",
    "Say whether every concept of the query is in the document and connected to the others.",
)

UNKNOWN_THOUGHT = "These words are new to me, so I guess."

COMMON_WORDS: tuple[str, ...] = words_of(
    """
    the of and to a in is was for as on with by that it he his at from are be this which or an were not have has had its
    also their one first two new who they been after but her she other when time year years most some all there during
    into only can more no about between over may used many where made between later then these such out up so than them
    would what if will each how him state city world war national university people part number area known called name
    school team film series born group family company government president united states american british english french
    german south north east west game season music album song history work life died became under three four second
    until while before both through same against several published journal first president association writer author
    novel actor actress director released based located near capital battle army force power law court party minister
    election king queen prince church saint religion language culture art science theory study research scientist
    professor student education public private company business market money award prize player club league championship
    football character story role television radio station channel network episode song singer band record label single
    version country region area land sea mountain north village road street building opened founded moved served joined
    appointed elected married daughter son wife brother family birth death age life century early late modern ancient
    great population county district century member house town village line system general king son father john james
    william
    """
)


@dataclass(frozen=True, slots=True)
class TinyRow:
    """One training row as texts. ``pieces`` are encoded one by one: where a trainer joins them is not the model's business."""

    system: str | None
    pieces: tuple[str, ...]  # the user message, in one piece or in several
    completion: str
    whole: bool = False  # loss on the prompt too (text of other kinds, so that every byte token is trained)


# More rows with a missing concept than the task has: absence is the rarest thing to learn there.
BASE_SHARES = ((CONNECTED, 0.35), (UNCONNECTED, 0.3), (MISSING, 0.35))


# Rows of Stage.LIST: forms (of YES_NO one document is shown), numbers of documents, and how many rows share them.
LIST_SHARES = {Form.PERMUTATION: 0.66, Form.PICK: 0.12, Form.SCORES: 0.14, Form.YES_NO: 0.08}
LIST_LENGTHS = (2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 8)
LIST_BLOCK = 24


class Stage(Enum):
    """The kind and length of rows."""

    EASY = 0  # two or three sentences, no system prompt
    USUAL = 1  # as the task has it
    LONG = 2  # the long prompt, or a document of up to about 200 tokens
    EASY_LIST = 3  # two to four documents to be ordered, no system prompt
    LIST = 4  # a list of documents, in every form


def draw_row(index: int, seed: int, stage: Stage) -> TinyRow:
    """Row ``index`` of a stage."""
    rng = random_stream("tiny", seed, index)
    if stage in (Stage.EASY_LIST, Stage.LIST):
        return _list(rng, index, seed, stage)
    long = stage == Stage.LONG
    if rng.random() < 0.03:
        return _other_text(rng, long)
    long_prompt = long and rng.random() < 0.5
    sentences = rng.randint(5, 20) if long and not (long_prompt and rng.random() < 0.5) else 2 if stage == Stage.EASY else 0
    task = builtin_task(index, BASE_SEED_START + seed, sentences, BASE_SHARES)
    system = None if stage == Stage.EASY else _system(rng, long_prompt)
    return TinyRow(system, _pieces(rng, task.query, task.document), honest_completion(task))


def _list(rng: random.Random, index: int, seed: int, stage: Stage) -> TinyRow:
    """A list of the built-in task, mostly to be ordered; or one of its documents to be judged, which are shorter than usual.

    The rows of a block have similar lengths, so that a batch has little padding."""
    block = random_stream("tiny-lists", seed, index // LIST_BLOCK)
    form = block.choices(list(LIST_SHARES), list(LIST_SHARES.values()))[0]
    length, draw = block.choice(LIST_LENGTHS), block.random()
    if stage == Stage.EASY_LIST:
        form, length, draw = Form.PERMUTATION, 2 + length % 3, 0.5
    task = builtin_list_task(index, BASE_SEED_START + seed, Form.PERMUTATION if form == Form.YES_NO else form, length)
    if form == Form.YES_NO:
        document, concepts = task.documents[0], concepts_of(task.query)
        judged = PointwiseTask(index, task.query, document, int(task.label.grades[0] == 2), honest_thought(concepts, document))
        system = rng.choice((DEMO_SYSTEM_PROMPT, SYSTEM_PROMPTS[form], None))
        return TinyRow(system, _pieces(rng, task.query, document), honest_completion(judged))
    system = SYSTEM_PROMPTS[form] if draw < 0.4 else None if draw < 0.9 else rng.choice(SHORT_PROMPTS)
    return TinyRow(system, (list_message(task.query, task.documents, form),), honest_list_completion(task))


def _system(rng: random.Random, long_prompt: bool) -> str | None:
    if long_prompt:
        lines = LONG_PROMPT.split("\n")
        return LONG_PROMPT if rng.random() < 0.5 else "\n".join(line for line in lines if rng.random() < 0.8)
    draw = rng.random()
    if draw < 0.55:
        return DEMO_SYSTEM_PROMPT
    return None if draw < 0.75 else "" if draw < 0.8 else rng.choice(SHORT_PROMPTS)


def _pieces(rng: random.Random, query: str, document: str) -> tuple[str, ...]:
    if rng.random() < 0.6:
        return (user_message(query, document),)
    return ("Query: ", query, "\nDocument: ", document)


def _other_text(rng: random.Random, long: bool) -> TinyRow:
    """A query and a document that are none of the task's: common words, invented words, any Unicode. The answer is a coin's."""
    query, document = _noise(rng, rng.randint(3, 12)), _noise(rng, rng.randint(40, 90) if long else rng.randint(5, 25))
    completion = f"<think>{UNKNOWN_THOUGHT}</think><answer>{rng.choice(('yes', 'no'))}</answer>"
    return TinyRow(_system(rng, False), _pieces(rng, query, document), completion, whole=True)


def _noise(rng: random.Random, words: int) -> str:
    return " ".join(_word(rng) for _ in range(words))


def _word(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.6:
        word = rng.choice(COMMON_WORDS)
        return word.capitalize() if rng.random() < 0.2 else word + rng.choice(("", "", "", ",", "."))
    if draw < 0.85:
        word = "".join(rng.choice("bcdfghklmnprstvwz") + rng.choice("aeiouy") for _ in range(rng.randint(1, 4)))
        return word.capitalize() if rng.random() < 0.5 else word
    if draw < 0.95:
        return str(rng.randint(0, 2100))
    return "".join(chr(rng.choice((rng.randint(33, 126), rng.randint(161, 1500), rng.randint(0x4E00, 0x9FFF)))) for _ in range(2))

"""The built-in pointwise task: does a short document name every concept of a query, and connect them in one sentence?

Synthetic, a pure function of (index, seed), plain Python. Row ``i`` does not depend on other rows. A query names two or three
concepts; a document has three to five sentences, each with its own place name ("The river shapes the tax in Rome."). It is

* ``connected`` (half of the rows, relevant): one sentence contains all concepts and a verb that relates them;
* ``unconnected`` (hard negatives): every concept occurs, but spread over two or three sentences;
* ``missing``: at least one concept does not occur.

The honest thought goes through the concepts, quotes the sentence with each one (from the concept on; the place name at the
end identifies the sentence), says whether it is the sentence of the first concept found, and concludes.
``warm_start_completion`` simulates the log of a careless labeller: see ``WarmStartFaults``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from r0.data.builtin.words import NOUNS, PAIR_QUERIES, PLACES, RELATIONS, STATES, TRIPLE_QUERIES
from r0.records import PointwiseTask

# Seeds from here on are reserved for r0-tiny's base training. Demo, tests and runs use smaller seeds, so their rows are unseen.
BASE_SEED_START = 1 << 40

DEMO_SYSTEM_PROMPT = (
    "Judge whether the document covers the query: every concept is there and one sentence connects them. "
    "Think in <think> tags, then answer yes or no in <answer> tags."
)

CONNECTED, UNCONNECTED, MISSING = "connected", "unconnected", "missing"

# Share of each kind. Half of the rows are relevant, so a constant answer is correct half of the time.
Shares = tuple[tuple[str, float], ...]
KIND_SHARES: Shares = ((CONNECTED, 0.5), (UNCONNECTED, 0.35), (MISSING, 0.15))

_CONCLUSIONS = {
    CONNECTED: "So all are connected.",
    UNCONNECTED: "So all are there but not connected.",
    MISSING: "So a concept is missing.",
}
_ABSENT = "not in the document."
_SAME, _OTHER = "Same sentence.", "Other sentence."
_CONCEPT_SET = frozenset(NOUNS)


@dataclass(frozen=True, slots=True)
class WarmStartFaults:
    """The systematic errors of the warm-start log. The shares of the four styles are of all rows; all other rows are clean.

    ``mention_as_yes``: the labeller mistakes mention for coverage. The thought is honest, but this share of the
    ``unconnected`` rows is answered yes. RL has to remove this error; it also has to teach the correct style.
    """

    mention_as_yes: float = 0.6
    extra_text: float = 0.20  # a remark after </answer>
    text_between: float = 0.10  # a remark between the thought and the answer
    no_answer: float = 0.08  # the answer tag is never closed
    short_thought: float = 0.15  # an impression instead of the checks


WARM_START_FAULTS = WarmStartFaults()

_REMARKS = ("I hope this helps.", "Please check the document again.", "That is my final judgment.")
_IMPRESSIONS = {"yes": ("It covers the query.", "Looks relevant."), "no": ("It does not cover the query.", "Looks not relevant.")}


def random_stream(*parts: object) -> random.Random:
    """A random generator seeded by a hash of ``parts`` only."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))


def draw_concepts(rng: random.Random) -> tuple[str, ...]:
    """Two or three different concepts, in the order of the query."""
    return tuple(rng.sample(NOUNS, 2 if rng.random() < 0.5 else 3))


def draw_query(rng: random.Random, concepts: tuple[str, ...]) -> str:
    """A question that names the concepts in order."""
    return rng.choice(PAIR_QUERIES if len(concepts) == 2 else TRIPLE_QUERIES).format(*concepts)


def draw_document(rng: random.Random, concepts: tuple[str, ...], kind: str, sentences: int = 0) -> str:
    """A document of the given kind for the concepts, with ``sentences`` sentences (0: three or four, the task's default)."""
    groups = _groups(rng, concepts, kind)
    length = max(sentences or rng.choice((3, 4, 4)), len(groups))
    groups += [[] for _ in range(length - len(groups))]
    others = iter(rng.sample([noun for noun in NOUNS if noun not in concepts], 3 * length))
    places = rng.sample(PLACES, length)
    rng.shuffle(groups)
    return " ".join(_sentence(rng, place, group, others) for place, group in zip(places, groups, strict=True))


def _groups(rng: random.Random, concepts: tuple[str, ...], kind: str) -> list[list[str]]:
    """The concepts grouped by sentence."""
    words = rng.sample(concepts, len(concepts))
    if kind == CONNECTED:
        return [words]
    if kind == MISSING:
        words = words[rng.choice((1, 1, 2)) :]
        together = rng.random() < 0.5
    else:  # three concepts: two together and one apart, or all apart
        together = len(words) == 3 and rng.random() < 0.5
        if together:
            return [words[:2], words[2:]]
    return [words] if together and words else [[word] for word in words]


def _sentence(rng: random.Random, place: str, group: list[str], others: Iterator[str]) -> str:
    """One sentence with the words of the group, filled up with other nouns to one, two or three."""
    size = max(len(group), rng.choice((1, 2, 2, 3)))
    nouns = group + [next(others) for _ in range(size - len(group))]
    rng.shuffle(nouns)
    if size == 1:
        return f"The {nouns[0]} {rng.choice(STATES)} in {place}."
    tail = " and the ".join(nouns[1:])
    return f"The {nouns[0]} {rng.choice(RELATIONS)} the {tail} in {place}."


def concepts_of(query: str) -> tuple[str, ...]:
    """The concepts that a query names, in order."""
    return tuple(word for word in query.replace(",", " ").replace("?", " ").split() if word in _CONCEPT_SET)


def look_up(concept: str, document: str) -> str | None:
    """The first sentence that contains the concept, or None."""
    for sentence in document.split(". "):
        if concept in sentence.rstrip(".").split():
            return sentence.rstrip(".") + "."
    return None


def quote(concept: str, document: str) -> str:
    """The sentence that contains the concept, from the concept on; or a phrase saying that there is none."""
    sentence = look_up(concept, document)
    return _ABSENT if sentence is None else f"the {sentence[sentence.index(f' {concept} ') + 1 :]}"


def kind_of(concepts: tuple[str, ...], document: str) -> str:
    """The kind of a document, determined from its text; the answer of an error-free judge."""
    found = [look_up(concept, document) for concept in concepts]
    if None in found:
        return MISSING
    return CONNECTED if len(set(found)) == 1 else UNCONNECTED


def honest_thought(concepts: tuple[str, ...], document: str) -> str:
    """The thought that checks each concept and then the connection; about 18 to 45 tokens of r0-tiny."""
    steps: list[str] = []
    first: str | None = None
    for concept in concepts:
        sentence = look_up(concept, document)
        steps.append(f"Check {concept}: {quote(concept, document)}")
        if first is not None and sentence is not None:
            steps.append(_SAME if sentence == first else _OTHER)
        first = first or sentence
    return " ".join([*steps, _CONCLUSIONS[kind_of(concepts, document)]])


def builtin_task(index: int, seed: int, sentences: int = 0, shares: Shares = KIND_SHARES) -> PointwiseTask:
    """Row ``index`` of this seed, with the honest thought. ``sentences`` sets the length of the document, ``shares`` the shares
    of the kinds (the last kind takes the remainder).
    """
    rng = random_stream("builtin", seed, index)
    draw, kind = rng.random(), shares[-1][0]
    for name, share in shares:
        if draw < share:
            kind = name
            break
        draw -= share
    concepts = draw_concepts(rng)
    query = draw_query(rng, concepts)
    document = draw_document(rng, concepts, kind, sentences)
    return PointwiseTask(index, query, document, int(kind == CONNECTED), honest_thought(concepts, document), kind)


def builtin_rows(count: int, seed: int) -> Iterator[PointwiseTask]:
    """The first ``count`` rows, generated one at a time."""
    return (builtin_task(index, seed) for index in range(count))


def honest_completion(task: PointwiseTask) -> str:
    """The completion with full reward, without the end-of-sequence token."""
    return f"<think>{task.think}</think><answer>{'yes' if task.label else 'no'}</answer>"


def warm_start_completion(task: PointwiseTask, seed: int, faults: WarmStartFaults = WARM_START_FAULTS) -> str:
    """The completion of a task in the warm-start log, with the errors of ``faults``; a pure function."""
    rng = random_stream("warm-start", seed, task.task_id)
    said_yes = task.label == 1 or (task.kind == UNCONNECTED and rng.random() < faults.mention_as_yes)
    answer = "yes" if said_yes else "no"
    remark, impression, draw = rng.choice(_REMARKS), rng.choice(_IMPRESSIONS[answer]), rng.random()
    clean = f"<think>{task.think}</think><answer>{answer}</answer>"
    styles = (
        (faults.extra_text, f"{clean} {remark}"),
        (faults.text_between, f"<think>{task.think}</think> {remark}<answer>{answer}</answer>"),
        (faults.no_answer, f"<think>{task.think}</think><answer>{answer}"),
        (faults.short_thought, f"<think>{impression}</think><answer>{answer}</answer>"),
    )
    for share, text in styles:
        if draw < share:
            return text
        draw -= share
    return clean


def lookup_correct(task: PointwiseTask, think: str) -> bool:
    """Whether a thought looks up every concept of the query correctly: quotes its sentence, or says it is absent."""
    wanted = (f"Check {name}: {quote(name, task.document)}" for name in concepts_of(task.query))
    return all(step in think for step in wanted)


def claimed_kind(think: str) -> str | None:
    """The kind that a thought concludes with, or None."""
    tail = think.rstrip()
    return next((kind for kind, words in _CONCLUSIONS.items() if tail.endswith(words)), None)

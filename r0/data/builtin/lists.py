"""The built-in list task: which documents connect both concepts of a query, which name one, which name none?

Synthetic, a pure function of (index, seed, form, candidates), plain Python, built from the same words as the pointwise task
(``r0.data.builtin.pairs``). A query names two concepts. Each document is one sentence with its own place name:

* grade 2, ``both``: the sentence names both concepts, and so connects them;
* grade 1, ``one``: it names one of them;
* grade 0, ``no``: it names neither.

The honest thought goes through the documents in the order shown. It quotes each one up to its place name, lists the concepts
in it, states the grade next to the document's number, and refers to the previous document of the same grade: ``[1] the river
feeds the tax: river tax 1 both. [2] the tax rests: tax 2 one. [3] the river fades: river 3 one as 2.`` The answer follows
these references: documents of one grade are listed from last to first. The first stage counts shared concepts, with noise
(``given``). ``warm_start_list_completion`` simulates the log of a careless labeller: see ``ListFaults``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from r0.data.builtin.pairs import concepts_of, draw_query, random_stream
from r0.data.builtin.words import NOUNS, PLACES, RELATIONS, STATES
from r0.ranking import ideal_groups
from r0.records import Form, ListLabel, ListwiseTask
from r0.text.answers import best_answer

LIST_KIND = "list"
MOST_CANDIDATES = len(PLACES)  # each document of a list has a different place name

FIRST_STAGE_NOISE = 2.0  # standard deviation of the noise that the first stage adds to the number of shared concepts

_WORDS = ("no", "one", "both")  # the word for each grade in a thought
_CHECK = re.compile(r"\[([0-9]{1,3})\] [a-z ]{1,200}: (?:[a-z]{1,30} ){0,9}\1 (no|one|both)(?: as [0-9]{1,3})?\.")


@dataclass(frozen=True, slots=True)
class ListFaults:
    """The systematic errors of the warm-start log. The shares of the three styles are of all rows; all other rows are clean.

    ``mention_first``: the labeller mistakes a passing mention for the better match. The thought is honest, but this share of
    the documents that name one concept is ranked above those that connect both. RL has to remove this error; it also has to
    teach the correct style.
    """

    mention_first: float = 0.6
    extra_text: float = 0.10  # a remark after </answer>
    left_out: float = 0.05  # the last document of the answer is missing (of a pick: the number)
    no_answer: float = 0.05  # the answer tag is never closed


LIST_FAULTS = ListFaults()

_REMARKS = ("I hope this helps.", "Please check the documents again.", "That is my final order.")


def builtin_list_task(index: int, seed: int, form: Form, candidates: int) -> ListwiseTask:
    """List ``index`` of this seed: ``candidates`` documents (2 to ``MOST_CANDIDATES``) in shuffled order, at least one of them
    of grade 2, with the honest thought. Query, documents and labels are the same for every form.
    """
    rng = random_stream("builtin-list", seed, candidates, index)
    concepts = tuple(rng.sample(NOUNS, 2))
    query = draw_query(rng, concepts)
    grades = _draw_grades(rng, candidates)
    documents = _draw_documents(rng, concepts, grades)
    scores = [grade + rng.gauss(0.0, FIRST_STAGE_NOISE) for grade in grades]
    given = tuple(sorted(range(candidates), key=lambda i: (-scores[i], i)))
    label = ListLabel(tuple(map(float, grades)), given)
    return ListwiseTask(index, query, documents, label, form, honest_list_thought(concepts, documents), kind=LIST_KIND)


def _draw_grades(rng: random.Random, candidates: int) -> list[int]:
    """Up to a third of the documents have grade 2, a third to a half grade 1, the rest grade 0; shuffled."""
    both = rng.randint(1, max(1, candidates // 3))
    one = min(candidates - both, rng.randint(max(1, candidates // 3), max(1, candidates // 2)))
    grades = [2] * both + [1] * one + [0] * (candidates - both - one)
    rng.shuffle(grades)
    return grades


def _draw_documents(rng: random.Random, concepts: tuple[str, ...], grades: Sequence[int]) -> tuple[str, ...]:
    """One sentence per grade, with one or two nouns, of which ``grade`` are concepts."""
    taken = set(concepts)
    documents = []
    for grade, place in zip(grades, rng.sample(PLACES, len(grades)), strict=True):
        nouns = rng.sample(concepts, grade)
        size = max(grade, rng.choice((1, 2, 2)))
        others = [noun for noun in rng.sample(NOUNS, size + len(concepts)) if noun not in taken]
        nouns += others[: size - grade]
        rng.shuffle(nouns)
        if size == 1:
            documents.append(f"The {nouns[0]} {rng.choice(STATES)} in {place}.")
        else:
            documents.append(f"The {nouns[0]} {rng.choice(RELATIONS)} the {nouns[1]} in {place}.")
    return tuple(documents)


def named(concepts: Sequence[str], document: str) -> list[str]:
    """The concepts named in a document, in the order of the query."""
    words = set(document.rstrip(".").split())
    return [concept for concept in concepts if concept in words]


def honest_list_thought(concepts: Sequence[str], documents: Sequence[str]) -> str:
    """The thought that checks each document; about 16 tokens of r0-tiny per document."""
    return " ".join(_checks(concepts, documents))


def _checks(concepts: Sequence[str], documents: Sequence[str]) -> list[str]:
    """One check per document: its number, the document up to its place name, its concepts, the number again next to the word for
    its grade (so the answer can look one up by the other), and the previous number with the same word.
    """
    last: dict[int, int] = {}
    checks = []
    for number, document in enumerate(documents, 1):
        found = named(concepts, document)
        grade = len(found)
        quoted = document[0].lower() + document[1 : document.rindex(" in ")]
        tied = f" as {last[grade]}" if grade in last else ""
        checks.append(f"[{number}] {quoted}: {' '.join([*found, str(number), _WORDS[grade]])}{tied}.")
        last[grade] = number
    return checks


def linked_answer(form: Form, label: ListLabel) -> str:
    """The best answer; in a permutation, documents of one grade go from last to first, as the thought refers to them."""
    if form != Form.PERMUTATION:
        return best_answer(form, label)
    return " > ".join(" = ".join(f"[{place + 1}]" for place in reversed(group)) for group in ideal_groups(label.grades))


def honest_list_completion(task: ListwiseTask) -> str:
    """The completion with full reward, without the end-of-sequence token."""
    return f"<think>{task.think}</think><answer>{linked_answer(task.form, task.label)}</answer>"


def warm_start_list_completion(task: ListwiseTask, seed: int, faults: ListFaults = LIST_FAULTS) -> str:
    """The completion of a list in the warm-start log, with the errors of ``faults``; a pure function."""
    rng = random_stream("warm-start-list", seed, task.task_id)
    seen = tuple(3.0 if grade == 1 and rng.random() < faults.mention_first else grade for grade in task.label.grades)
    answer = linked_answer(task.form, ListLabel(seen, task.label.given))
    remark, draw = rng.choice(_REMARKS), rng.random()
    start = f"<think>{task.think}</think><answer>"
    styles = (
        (faults.extra_text, f"{start}{answer}</answer> {remark}"),
        (faults.left_out, f"{start}{_without_last(task.form, answer)}</answer>"),
        (faults.no_answer, f"{start}{answer}"),
    )
    for share, text in styles:
        if draw < share:
            return text
        draw -= share
    return f"{start}{answer}</answer>"


def _without_last(form: Form, answer: str) -> str:
    """The answer without its last document."""
    if form == Form.PICK:
        return ""
    return answer[: answer.rindex(", ")] + "}" if form == Form.SCORES else answer[: answer.rindex("[") - len(" > ")]


def checks_right(task: ListwiseTask, think: str) -> list[bool]:
    """For each document whether the thought checks it correctly: quotes it, names its concepts and its grade."""
    return [check in think for check in _checks(concepts_of(task.query), task.documents)]


def claimed_grades(think: str, documents: int) -> tuple[int, ...] | None:
    """The grades that a thought states; None unless it checks every document exactly once."""
    said = [(int(number), word) for number, word in _CHECK.findall(think)]
    if sorted(number for number, _ in said) != list(range(1, documents + 1)):
        return None
    return tuple(_WORDS.index(word) for _, word in sorted(said))

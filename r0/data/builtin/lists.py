"""The built-in task on lists: which documents connect both concepts of a query, which name one, which none?

Synthetic, a pure function of (index, seed, form, candidates), plain Python, made of the same words as the pointwise task
(``r0.data.builtin.pairs``). A query names two concepts; every document is one sentence with a place of its own:

* grade 2, ``both``: the sentence names both concepts, so it connects them;
* grade 1, ``one``: it names one of them;
* grade 0, ``no``: it names neither.

The honest thought takes the documents one by one, as shown; it quotes each up to its place, names the concepts in it, says how
many its number has, and as which document before it: ``[1] the river feeds the tax: river tax 1 both. [2] the tax rests: tax 2
one. [3] the river fades: river 3 one as 2.`` The answer follows these links: documents of a grade stand from the last to the
first. The first stage counts shared concepts and errs (``given``). ``warm_start_list_completion`` is the log of a careless
labeller: see ``ListFaults``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from r0.data.builtin.pairs import address, concepts_of, draw_query
from r0.data.builtin.words import NOUNS, PLACES, RELATIONS, STATES
from r0.ranking import ideal_groups
from r0.records import Form, ListLabel, ListwiseTask
from r0.text.answers import best_answer

LIST_KIND = "list"
MOST_CANDIDATES = len(PLACES)  # every document of a list has a place of its own

FIRST_STAGE_NOISE = 2.0  # standard deviation of what the first stage adds to the number of shared concepts

_WORDS = ("no", "one", "both")  # what a thought says of a document, by grade
_CHECK = re.compile(r"\[([0-9]{1,3})\] [a-z ]{1,200}: (?:[a-z]{1,30} ){0,9}\1 (no|one|both)(?: as [0-9]{1,3})?\.")


@dataclass(frozen=True, slots=True)
class ListFaults:
    """The declared systematic error of the warm-start log. The shares of the three styles are of all rows; the rest is clean.

    ``mention_first``: the labeller took a passing mention for the better match. The thought is honest, but this share of the
    documents that name one concept is put before those that connect both. This is the error that RL has to remove; the styles
    are the manners it has to teach.
    """

    mention_first: float = 0.6
    extra_text: float = 0.10  # a remark after </answer>
    left_out: float = 0.05  # the last document of the answer is left out (of a pick: the number)
    no_answer: float = 0.05  # the answer tag is never closed


LIST_FAULTS = ListFaults()

_REMARKS = ("I hope this helps.", "Please check the documents again.", "That is my final order.")


def builtin_list_task(index: int, seed: int, form: Form, candidates: int) -> ListwiseTask:
    """List ``index`` with this seed: ``candidates`` documents (2 to ``MOST_CANDIDATES``) in a shuffled order, one or more of them
    of grade 2, with its honest thought. Query, documents and labels are the same for every form."""
    rng = address("builtin-list", seed, candidates, index)
    concepts = tuple(rng.sample(NOUNS, 2))
    query = draw_query(rng, concepts)
    grades = _draw_grades(rng, candidates)
    documents = _draw_documents(rng, concepts, grades)
    scores = [grade + rng.gauss(0.0, FIRST_STAGE_NOISE) for grade in grades]
    given = tuple(sorted(range(candidates), key=lambda i: (-scores[i], i)))
    label = ListLabel(tuple(map(float, grades)), given)
    return ListwiseTask(index, query, documents, label, form, honest_list_thought(concepts, documents), kind=LIST_KIND)


def _draw_grades(rng: random.Random, candidates: int) -> list[int]:
    """Up to a third of the documents of grade 2, a third to a half of grade 1, the rest of grade 0; shuffled."""
    both = rng.randint(1, max(1, candidates // 3))
    one = min(candidates - both, rng.randint(max(1, candidates // 3), max(1, candidates // 2)))
    grades = [2] * both + [1] * one + [0] * (candidates - both - one)
    rng.shuffle(grades)
    return grades


def _draw_documents(rng: random.Random, concepts: tuple[str, ...], grades: Sequence[int]) -> tuple[str, ...]:
    """One sentence for each grade, with one or two nouns, of which ``grade`` are concepts."""
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
    """The concepts that a document names, in the order of the query."""
    words = set(document.rstrip(".").split())
    return [concept for concept in concepts if concept in words]


def honest_list_thought(concepts: Sequence[str], documents: Sequence[str]) -> str:
    """The thought that checks every document; about 16 tokens of r0-tiny each."""
    return " ".join(_checks(concepts, documents))


def _checks(concepts: Sequence[str], documents: Sequence[str]) -> list[str]:
    """For each document its number, the document up to its place, the concepts in it, the number again beside the word for its
    grade (the answer looks up the one by the other), and the last number before it with the same word."""
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
    """The best answer; of an order, documents of one grade from the last to the first, as the thought links them."""
    if form != Form.PERMUTATION:
        return best_answer(form, label)
    return " > ".join(" = ".join(f"[{place + 1}]" for place in reversed(group)) for group in ideal_groups(label.grades))


def honest_list_completion(task: ListwiseTask) -> str:
    """The completion that earns the full reward, without the end-of-sequence token."""
    return f"<think>{task.think}</think><answer>{linked_answer(task.form, task.label)}</answer>"


def warm_start_list_completion(task: ListwiseTask, seed: int, faults: ListFaults = LIST_FAULTS) -> str:
    """The completion that the warm-start log holds for a list: faulty as ``faults`` declares; a pure function."""
    rng = address("warm-start-list", seed, task.task_id)
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
    """The answer without the document that it names last."""
    if form == Form.PICK:
        return ""
    return answer[: answer.rindex(", ")] + "}" if form == Form.SCORES else answer[: answer.rindex("[") - len(" > ")]


def checks_right(task: ListwiseTask, think: str) -> list[bool]:
    """For every document whether a thought checks it rightly: quoted, its concepts named, and the word for its grade."""
    return [check in think for check in _checks(concepts_of(task.query), task.documents)]


def claimed_grades(think: str, documents: int) -> tuple[int, ...] | None:
    """The grades that a thought concludes with; None unless it checks every document exactly once."""
    said = [(int(number), word) for number, word in _CHECK.findall(think)]
    if sorted(number for number, _ in said) != list(range(1, documents + 1)):
        return None
    return tuple(_WORDS.index(word) for _, word in sorted(said))

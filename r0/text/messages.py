"""The wording of prompts: the user message of a task, and the system prompt of each answer form."""

from __future__ import annotations

from collections.abc import Sequence

from r0.records import Form

# The last line of a list's message names the form, so that a model trained for several forms knows which one is requested.
LIST_ORDERS = {
    Form.PERMUTATION: "Rank the {} documents.",
    Form.PICK: "Pick the best of the {} documents.",
    Form.SCORES: "Score the {} documents.",
}

SYSTEM_PROMPTS = {
    Form.YES_NO: (
        "Judge whether the document fully answers the query. Reason inside <think> and </think>, then write exactly yes or no "
        "inside <answer> and </answer>."
    ),
    Form.PERMUTATION: (
        "Rank the numbered documents by how well they answer the query. Reason inside <think> and </think>, then write all "
        "numbers, most relevant first, inside <answer> and </answer>, such as <answer>[2] > [1] = [3]</answer>."
    ),
    Form.PICK: (
        "Find the numbered document that answers the query best. Reason inside <think> and </think>, then write its number "
        "inside <answer> and </answer>, such as <answer>[2]</answer>."
    ),
    Form.SCORES: (
        "Score how well each numbered document answers the query, from 0 to 10. Reason inside <think> and </think>, then write "
        'the scores of all numbers as JSON inside <answer> and </answer>, such as <answer>{"1": 3, "2": 10, "3": 0}</answer>.'
    ),
}


def user_message(query: str, document: str) -> str:
    """The user message of a (query, document) pair."""
    return f"Query: {query}\nDocument: {document}"


def list_message(query: str, documents: Sequence[str], form: Form) -> str:
    """The user message of a list; documents are numbered from 1. Texts must contain no tags or labels (``r0.text.prompts``)."""
    shown = "".join(f"[{number}] {document}\n" for number, document in enumerate(documents, 1))
    return f"Query: {query}\n{shown}{LIST_ORDERS[form].format(len(documents))}"

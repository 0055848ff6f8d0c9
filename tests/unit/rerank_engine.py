"""An engine for the scheduler's tests that parses its prompts and writes completions chosen by the test."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from r0.records import Finish, Form, Sampled, SampleRequest
from tests.helpers import tiny_tokenizer

FORMS = {"Rank": Form.PERMUTATION, "Pick": Form.PICK, "Score": Form.SCORES}


class ReadingEngine:
    """Completes a random part of the pending requests on each step, in a random order.

    Args:
        write: (form, documents as shown) → the completion's text. For yes or no with allowed ids: the index of the likelier.
        seed: of the order.
    """

    def __init__(self, write: Callable[[Form, list[str]], str], seed: int = 0):
        self.tokenizer = tiny_tokenizer()
        self._write, self._dice = write, random.Random(seed)
        self._pending: dict[int, SampleRequest] = {}
        self.most, self.prompts = 0, []

    def submit(self, key, request, temperature, max_new_tokens, greedy):
        if key in self._pending:
            raise ValueError("twice")
        self._pending[key] = request
        self.prompts.append(self.tokenizer.decode(request.prompt_ids))
        self.most = max(self.most, len(self._pending))

    def step(self):
        keys = [key for key in self._pending if self._dice.random() < 0.4]
        self._dice.shuffle(keys)
        return [(key, self._sampled(self._pending.pop(key))) for key in keys]

    def _sampled(self, request: SampleRequest) -> Sampled:
        prompt = self.tokenizer.decode(request.prompt_ids)
        user = prompt.rpartition("<|im_start|>user\n")[2]
        if request.allowed_ids:
            document = re.search(r"Document: (.*?)<\|im_end\|>", user, re.DOTALL)[1]
            probability = float(self._write(Form.YES_NO, [document]))
            return Sampled(request.allowed_ids[:1], (0.0,), Finish.LENGTH, 0, (probability, 1.0 - probability))
        order = re.search(r"\n(Rank|Pick|Score) the [a-z ]*\d+ documents\.<", user)
        documents = re.findall(r"^\[\d+\] (.*)$", user, re.MULTILINE)
        text = self._write(FORMS[order[1]], documents) if order else "<think></think><answer>yes</answer>"
        ids = tuple(self.tokenizer(text, add_special_tokens=False).input_ids)
        return Sampled(ids, (0.0,) * len(ids), Finish.STOP, 0)


def worth(document: str) -> int:
    return int(re.search(r"worth (\d+)", document)[1])


def knows(form: Form, documents: list[str]) -> str:
    """The right answer about documents that say what they are worth."""
    worths = [worth(document) for document in documents]
    if form is Form.YES_NO:
        return str(worths[0] / 1000)
    order = sorted(range(len(worths)), key=lambda i: -worths[i])
    if form is Form.PICK:
        answer = f"[{order[0] + 1}]"
    elif form is Form.SCORES:
        answer = "{" + ", ".join(f'"{i + 1}": {one / 100}' for i, one in enumerate(worths)) + "}"
    else:
        answer = " > ".join(f"[{i + 1}]" for i in order)
    return f"<think>of {len(documents)}</think><answer>{answer}</answer>"

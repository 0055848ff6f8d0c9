"""Prompts of lists: the exact message, escaped labels, token limits, answers to imitate."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import r0
from r0.config import SftConfig, StageAConfig, StageBConfig
from r0.errors import UserError
from r0.records import Form, ListLabel, ListwiseTask
from r0.text.answers import read_strict
from r0.text.completion import CompletionReader
from r0.text.messages import LIST_ORDERS, SYSTEM_PROMPTS, list_message
from r0.text.numbers import one_line, without_labels
from r0.text.plain_text import added_ids
from r0.text.prompts import Prompter
from r0.text.tags import strip_thought_tags, tag_pattern
from tests.counting import CountingTokenizer
from tests.unit.prompt_tokenizers import CHATML, KINDS, R1, byte_level, qwen
from tests.unit.test_prompts import PIECES

LABELS = [
    "[1]", "[2] > [1]", "[ 3 ]", "［４］", "[\u200b5]", "[²]", "[", "]", "2]", "\u2028[1] the tax", "\n[2] ", "\r\n", "﹇1﹈",
]  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(PIECES + LABELS), st.text(max_size=8)), max_size=10).map("".join)
FORMS = (Form.PERMUTATION, Form.PICK, Form.SCORES)
FEW_EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TINY = AutoTokenizer.from_pretrained(Path(r0.__file__).parent / "assets" / "r0-tiny")
PROMPTERS = {name: Prompter(make(), "Rank them.", 8192) for name, make in KINDS.items()} | {"r0-tiny": Prompter(TINY, "", 4096)}
ADDED = {name: added_ids(prompter.tokenizer) for name, prompter in PROMPTERS.items()}
RAW_LABEL = re.compile(r"\[\s*\d+\s*\]")


def task(*documents: str, query="what is the river", form=Form.PERMUTATION, think="", answer="", grades=None):
    documents = documents or ("The river shapes the tax.", "A document is a text.", "It answers 3 < 4.")
    given = tuple(range(len(documents)))
    return ListwiseTask(7, query, documents, ListLabel(grades or given, given), form, think, answer)


def message(prompter, prompt):
    """The text between what the template puts around it."""
    ids = prompt.token_ids[len(prompter.template.head_ids) : len(prompt.token_ids) - len(prompter.template.tail_ids)]
    return ids, prompter.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokenizer", [TINY, byte_level(R1), qwen(CHATML), qwen(R1)], ids=["r0-tiny", "r1", "qwen", "qwen-r1"])
@pytest.mark.parametrize("system", ["", "form's own"])
def test_a_list_has_the_ids_of_the_whole_rendered_text(tokenizer, form, system):
    system = SYSTEM_PROMPTS[form] if system else ""
    one = task(form=form)
    content = {"role": "user", "content": list_message(one.query, one.documents, form)}
    messages = [{"role": "system", "content": system}] * bool(system) + [content]
    prompt = Prompter(tokenizer, system, 4096).prompt(one)
    assert list(prompt.token_ids) == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt.cut_tokens == 0


@pytest.mark.parametrize("kind", PROMPTERS)
@FEW_EXAMPLES
@given(query=TEXT, documents=st.lists(TEXT, min_size=2, max_size=5), budget=st.sampled_from([3, 12, 256]))
@example(query="which [2]?", documents=["[1] > [2]</answer>", "a [12] b［３］", "x\n[3] y"], budget=256)
@example(query="q", documents=["<thinking>" * 3, "\u2028[1", "2]"], budget=3)
def test_data_writes_no_label_no_line_and_no_tag(kind, query, documents, budget):
    prompter = PROMPTERS[kind]
    prompter.passage_tokens = budget
    try:
        prompt = prompter.prompt(task(*documents, query=query))
    finally:
        prompter.passage_tokens = 256
    ids, text = message(prompter, prompt)
    assert not ADDED[kind].intersection(ids)
    assert not tag_pattern().search(text)
    if kind not in ("unigram", "word_level"):  # whose vocabularies have no brackets
        assert RAW_LABEL.findall(text) == [f"[{number}]" for number in range(1, len(documents) + 1)]
    if kind in ("byte_level", "r0-tiny"):  # the others make white space of a line break
        lines = text.split("\n")
        assert [line.split(" ")[0] for line in lines[1:-1]] == [f"[{number}]" for number in range(1, len(documents) + 1)]
        assert lines[-1] == LIST_ORDERS[Form.PERMUTATION].format(len(documents))
        assert text.splitlines() == lines


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        ("see [12] and [ 3 ]", "see (12) and ( 3 )"),
        ("[1] > [2] = [3]", "(1) > (2) = (3)"),
        ("［４］ and [٣]", "(４) and (٣)"),
        ("[[1]] [] [a] [1, 2] [-1] x[i]", "[(1)] [] [a] [1, 2] [-1] x[i]"),
        ("[" * 3 + "1", "[[[1"),
    ],
)
def test_numbers_in_brackets_become_numbers_in_parentheses(raw, safe):
    assert without_labels(raw) == safe


def test_text_that_normalizes_to_a_label_is_escaped():
    nfkc = PROMPTERS["unigram"].template.message.normalize
    assert without_labels("the ﹇1﹈ tax [a]", nfkc) == "the (1) tax (a)"
    assert without_labels("a [²] river", nfkc) == "a (²) river"
    assert without_labels("a [²] river") == "a [²] river"
    assert without_labels("a [x] river", nfkc) == "a [x] river"


def test_a_text_becomes_one_line():
    assert one_line("  a \r\n\n b\tc  d\u2028e\n") == "a b\tc  d e"
    assert one_line("a  b") == "a  b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 200_000, "[" * 200_000),
        ("[ " * 100_000, "[ " * 99_999 + "["),
        ("[" + " " * 200_000, "["),
        ("[1" * 100_000, "[1" * 100_000),
        (" " * 200_000 + "\n", ""),
        ("[1] " * 50_000, "(1) " * 49_999 + "(1)"),
    ],
    ids=range(6),
)
def test_long_runs_of_brackets_and_spaces_are_escaped_and_joined(text, expected):
    """Quadratic backtracking would not come to an end on these."""
    assert without_labels(one_line(text), str) == expected


@FEW_EXAMPLES
@example(documents=["", "<think>e\u0301<think>"], budget=80, passage_tokens=7, kind="byte_level")
@given(
    documents=st.lists(st.integers(0, 40).map(lambda n: "the river 🧪 shapes日本 " * n) | TEXT, min_size=2, max_size=6),
    budget=st.integers(80, 400),
    passage_tokens=st.integers(1, 60),
    kind=st.sampled_from(["byte_level", "llama", "r0-tiny"]),
)
def test_budgets_hold_and_the_longest_documents_are_cut_first(documents, budget, passage_tokens, kind):
    tokenizer = PROMPTERS[kind].tokenizer
    prompter = Prompter(tokenizer, "", budget, passage_tokens)
    one = task(*documents)
    try:
        prompt = prompter.prompt(one)
    except UserError:
        return
    assert len(prompt.token_ids) <= budget
    whole = Prompter(tokenizer, "", 10**6, 10**6).prompt(one)
    assert (prompt.cut_tokens > 0) == (prompt.token_ids != whole.token_ids)
    # A cut may separate a letter from its accent, which the tokenizer's normalizer composes where both are there.
    shown, full = (unicodedata.normalize("NFD", message(prompter, one)[1]) for one in (prompt, whole))
    if kind == "llama" or shown == full:
        return
    kept = list(zip(shown.split("\n")[1:-1], full.split("\n")[1:-1], strict=True))
    assert all(long.startswith(short) for short, long in kept)
    lengths = [len(tokenizer.encode(long[3:], add_special_tokens=False)) for _, long in kept]
    cut = [length for length, (short, long) in zip(lengths, kept, strict=True) if short != long]
    left = [length for length, (short, long) in zip(lengths, kept, strict=True) if short == long]
    assert not left or max(left) <= min(cut) + 8  # an emoji is several tokens, and white space at a cut's end goes


def test_a_list_is_cut_to_the_largest_common_length_that_fits():
    one = task("river " * 400, "tax " * 300, "harbor " * 5)
    for budget in (100, 150, 333):
        prompt = Prompter(TINY, "", budget, 256).prompt(one)
        words = [len(line.split()) - 1 for line in message(PROMPTERS["r0-tiny"], prompt)[1].split("\n")[1:-1]]
        per_word = [len(TINY.encode(f" {word}")) for word in ("river", "tax", "harbor")]
        assert words[2] == 5
        used = [count * tokens for count, tokens in zip(words[:2], per_word[:2], strict=True)]
        assert abs(used[0] - used[1]) < max(per_word)
        assert budget - 2 * max(per_word) < len(prompt.token_ids) <= budget
        assert prompt.cut_tokens == 400 * per_word[0] + 300 * per_word[1] - sum(used)


def test_a_query_without_room_for_the_documents_is_refused():
    with pytest.raises(UserError, match=r"task 7 needs at least \d+ tokens for its query and 3 documents, and 60 are allowed"):
        Prompter(TINY, "", 60).prompt(task(query="river " * 80))
    with pytest.raises(UserError, match="show fewer documents"):
        Prompter(TINY, "", 60).prompt(task(*["river"] * 60))


@pytest.mark.parametrize(
    ("form", "grades", "answer"),
    [
        (Form.PERMUTATION, (0.0, 2.0, 1.0, 1.0), "[2] > [3] = [4] > [1]"),
        (Form.PICK, (0.0, 2.0, 1.0, 2.0), "[2]"),
        (Form.SCORES, (0.0, 2.0, 1.0, 1.0), '{"1": 0, "2": 10, "3": 5, "4": 5}'),
    ],
)
@pytest.mark.parametrize("kind", ["byte_level", "r0-tiny"])
def test_the_answer_to_imitate_is_the_best_one_and_well_formed(form, grades, answer, kind):
    prompter = PROMPTERS[kind]
    one = task(*"abcd", form=form, grades=grades, think="[2] says it.</think> <answer>[1]</answer> Then.")
    ids = prompter.training_pair(one).completion_ids
    text = CompletionReader(prompter.tokenizer).text(ids)
    assert read_strict(answer, form, 4).answer == answer
    assert text.endswith(f"</think><answer>{answer}</answer>")
    assert "[2] says it.‹/think>" in text  # a thought speaks of the labels


def test_a_given_answer_is_imitated_as_it_is():
    prompter = PROMPTERS["r0-tiny"]
    ids = prompter.training_pair(task(think="So.", answer=" [3] = [1] > [2] ")).completion_ids
    assert CompletionReader(TINY).text(ids) == "<think>So.</think><answer>[3] = [1] > [2]</answer>"
    for answer in ("[3] > [1]", "[1] > [2] > [3]</answer><answer>[1]", "yes"):
        with pytest.raises(UserError, match="task 7: its answer is not a complete permutation of 3 documents"):
            prompter.training_pair(task(think="So.", answer=answer))


def test_a_thought_loses_a_long_answer_behind_it():
    order = " > ".join(f"[{number}]" for number in range(1, 101))
    assert strip_thought_tags(f"<think>\nSo.\n</think>\n<answer> {order} </answer>\n") == "So."


@pytest.mark.parametrize("form", FORMS)
def test_the_prompter_of_a_list_command_has_the_forms_system_prompt(form):
    prompter = Prompter.of(StageBConfig(answer=form.value, passage_tokens=7, max_prompt_tokens=999), TINY)
    assert SYSTEM_PROMPTS[form] in TINY.decode(prompter.template.head_ids)
    assert (prompter.passage_tokens, prompter.max_prompt_tokens) == (7, 999)
    own = Prompter.of(SftConfig(answer=form.value, system_prompt="Just rank."), TINY)
    assert "Just rank." in TINY.decode(own.template.head_ids)
    assert SYSTEM_PROMPTS[form] not in TINY.decode(own.template.head_ids)


def test_yes_no_has_a_default_system_prompt_only_if_the_form_is_given():
    assert "system" not in TINY.decode(Prompter.of(StageAConfig(), TINY).template.head_ids)
    assert "system" not in TINY.decode(Prompter.of(SftConfig(), TINY).template.head_ids)
    config = SimpleNamespace(system_prompt="", max_prompt_tokens=512, passage_tokens=9, chat_template_kwargs={})
    prompter = Prompter.of(config, TINY, Form.YES_NO)
    assert SYSTEM_PROMPTS[Form.YES_NO] in TINY.decode(prompter.template.head_ids)


def counted(prompter, one, monkeypatch):
    """The prompt of a task, and the counts of the tokenizer's calls and characters."""
    counting = CountingTokenizer(prompter.template.message._plain)
    monkeypatch.setattr(prompter.template.message, "_plain", counting)
    return prompter.prompt(one), counting


def test_each_passage_of_a_list_is_encoded_once_and_the_message_once(monkeypatch):
    one = task(*["The river shapes the tax. " * 30] * 20)
    _, counting = counted(Prompter(byte_level(), "Rank them.", 8192), one, monkeypatch)
    assert counting.calls <= 2 * 20 + 1
    assert counting.characters < 3 * sum(map(len, one.documents))


def test_the_end_of_a_long_document_is_not_encoded(monkeypatch):
    short, long = (task(*["The river shapes the tax. " * repeats] * 20) for repeats in (160, 40_000))
    prompt, _ = counted(Prompter(TINY, "", 8192), short, monkeypatch)
    longer, counting = counted(Prompter(TINY, "", 8192), long, monkeypatch)
    assert counting.characters < 0.1 * sum(map(len, long.documents))
    assert longer.token_ids == prompt.token_ids
    assert longer.cut_tokens == pytest.approx((prompt.cut_tokens + 20 * 256) * 250, rel=0.01)


def test_tokens_of_many_letters_are_all_found():
    prompter = Prompter(byte_level(), "", 8192, 2048)
    prompt = prompter.prompt(task("\n" + "x" * 40_000, "   " * 30_000 + "end", "a"))
    assert prompt.cut_tokens == pytest.approx(40_000 - 2048, abs=2)
    assert message(prompter, prompt)[1].split("\n")[1:3] == ["[1] " + "x" * 2047, "[2] end"]

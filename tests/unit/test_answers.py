"""Answers of lists: strict parsing (complete or a named violation), lenient parsing (a permutation), and the best answer."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r0.ranking import ideal_groups, ndcg
from r0.records import Form, ListLabel
from r0.records import Violation as V
from r0.text.answers import best_answer, read_strict
from r0.text.lenient_answers import read_lenient

LISTS = [Form.PERMUTATION, Form.PICK, Form.SCORES]

# content: (ranking, violations) of an answer about 3 documents
ORDERS = {
    "[3] > [1] > [2]": (((2,), (0,), (1,)), set()),
    "[3] > [1] = [2]": (((2,), (0, 1)), set()),
    "[2]=[1]=[3]": (((0, 1, 2),), set()),
    "[3]\n>\t[1]\u3000> [2]": (((2,), (0,), (1,)), set()),
    "[3] > [1]": (None, {V.MISSING_ID}),
    "[3] > [1] > [1]": (None, {V.REPEATED_ID, V.MISSING_ID}),
    "[3] > [1] > [2] > [1]": (None, {V.REPEATED_ID}),
    "[3] > [1] > [21]": (None, {V.UNKNOWN_ID, V.MISSING_ID}),
    "[0] > [1] > [2] > [3]": (None, {V.UNKNOWN_ID}),
    "[03] > [1] > [2]": (None, {V.UNKNOWN_ID, V.MISSING_ID}),
    "[" + "9" * 5000 + "] > [1] > [2] > [3]": (None, {V.UNKNOWN_ID}),
    "": (None, {V.NOT_A_PERMUTATION}),
    "[3] > [1] > [2] >": (None, {V.NOT_A_PERMUTATION}),
    "[3] > [1] > [2].": (None, {V.NOT_A_PERMUTATION}),
    "[3] [1] [2]": (None, {V.NOT_A_PERMUTATION}),
    "[3], [1], [2]": (None, {V.NOT_A_PERMUTATION}),
    "3 > 1 > 2": (None, {V.NOT_A_PERMUTATION}),
    "[ 3] > [1] > [2]": (None, {V.NOT_A_PERMUTATION}),
    "[3] > [1] >> [2]": (None, {V.NOT_A_PERMUTATION}),
    "[-1] > [1] > [2]": (None, {V.NOT_A_PERMUTATION}),
    "[３] > [１] > [２]": (None, {V.NOT_A_PERMUTATION}),
    "[³] > [1] > [2]": (None, {V.NOT_A_PERMUTATION}),
    "yes": (None, {V.NOT_A_PERMUTATION}),
}
SCORES = {
    '{"1": 3, "2": 10, "3": 0}': ((3.0, 10.0, 0.0), set()),
    ' {"3":0.5,"1":1e0,"2":-0}'.strip(): ((1.0, 0.0, 0.5), set()),
    '{"\\u0031": 1, "2": 1, "3": 1}': ((1.0, 1.0, 1.0), set()),
    '{"1": 3, "2": 10}': (None, {V.MISSING_ID}),
    "{}": (None, {V.MISSING_ID}),
    '{"1": 3, "2": 10, "3": 1, "3": 2}': (None, {V.REPEATED_ID}),
    '{"1": 3, "2": 10, "3": 1, "4": 2}': (None, {V.UNKNOWN_ID}),
    '{"1": 3, "2": 10, "03": 1}': (None, {V.UNKNOWN_ID, V.MISSING_ID}),
    '{"1": 3, "2": 10, "3": 10.01}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": -1}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": true}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": null}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": "4"}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": {"3": 1}}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": NaN}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": Infinity}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": 1e999}': (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": ' + "9" * 5000 + "}": (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": ٣}': (None, {V.BAD_ANSWER}),
    "{'1': 3, '2': 10, '3': 1}": (None, {V.BAD_ANSWER}),
    '{"1": 3, "2": 10, "3": 1} ok': (None, {V.BAD_ANSWER}),
    "[3, 10, 1]": (None, {V.BAD_ANSWER}),
    "7": (None, {V.BAD_ANSWER}),
    "": (None, {V.BAD_ANSWER}),
    '{"1": ' * 50_000: (None, {V.BAD_ANSWER}),
    '{"\ud800": 1, "1": 1, "2": 1, "3": 1}': (None, {V.UNKNOWN_ID}),
}
PICKS = {
    "[3]": (((2,),), set()),
    "[4]": (None, {V.UNKNOWN_ID}),
    "[0]": (None, {V.UNKNOWN_ID}),
    "[01]": (None, {V.UNKNOWN_ID}),
    "[3] > [1]": (None, {V.BAD_ANSWER}),
    "[3][3]": (None, {V.BAD_ANSWER}),
    "3": (None, {V.BAD_ANSWER}),
    "": (None, {V.BAD_ANSWER}),
    "[３]": (None, {V.BAD_ANSWER}),
}


@pytest.mark.parametrize("content", ORDERS, ids=lambda text: ascii(text)[:40])
def test_a_permutation_is_complete_or_has_a_named_violation(content):
    ranking, violations = ORDERS[content]
    reading = read_strict(content, Form.PERMUTATION, 3)
    assert (reading.ranking, reading.violations, reading.scores) == (ranking, violations, None)
    assert reading.answer == (content if ranking else None)


@pytest.mark.parametrize("content", SCORES, ids=lambda text: ascii(text)[:40])
def test_scores_are_complete_or_have_a_named_violation(content):
    scores, violations = SCORES[content]
    reading = read_strict(content, Form.SCORES, 3)
    assert (reading.scores, reading.violations) == (scores, violations)
    assert (reading.ranking is None) == (reading.answer is None) == (scores is None)
    assert "-0.0" not in str(reading.scores)


@pytest.mark.parametrize("content", PICKS)
def test_a_pick_is_one_number_or_has_a_named_violation(content):
    reading = read_strict(content, Form.PICK, 3)
    assert (reading.ranking, reading.violations) == PICKS[content]


def test_equal_scores_are_tied():
    assert read_strict('{"1": 2, "2": 7.5, "3": 2.0}', Form.SCORES, 3).ranking == ((1,), (0, 2))


def test_yes_and_no_are_the_only_answers_about_one_document():
    assert read_strict("yes", Form.YES_NO, 1).answer == "yes"
    assert read_strict("Yes", Form.YES_NO, 1).violations == {V.BAD_ANSWER}


pieces = st.sampled_from(
    [
        *("[1]", "[2]", "[3]", "[4]", "[0]", "[12]", " > ", "=", ",", "1", "2 > ", "{", "}", '"1"', '"2": 3', ":", ", ", "NaN"),
        *("<answer>", "</answer>", "<think>", "</think>", "\ud800", "é", "٣", "\n", "[", "5", "-"),
    ]
)
any_text = st.one_of(st.lists(pieces, max_size=16).map("".join), st.text(max_size=40))
forms = st.sampled_from(list(Form))
sizes = st.integers(1, 5)


@given(any_text, forms, sizes)
@settings(max_examples=300)
def test_any_content_can_be_parsed_and_every_answer_is_complete(content, form, size):
    reading = read_strict(content, form, size)
    assert (reading.answer is None) == bool(reading.violations)
    if reading.ranking is not None and form is not Form.PICK:
        assert sorted(place for group in reading.ranking for place in group) == list(range(size))


@given(any_text, forms, sizes, st.sampled_from(["", "<think>"]))
@settings(max_examples=300)
def test_lenient_parsing_always_gives_a_permutation(text, form, size, prefix):
    reading = read_lenient(text, form, size, prefix)
    assert sorted(reading.order) == list(range(size))
    assert (reading.scores is not None) == (form is Form.SCORES)
    if reading.scores is not None:
        assert len(reading.scores) == size
        assert all(score is None or abs(score) <= 1e9 for score in reading.scores)


@given(any_text, forms, sizes)
@settings(max_examples=300)
def test_a_strictly_valid_answer_is_parsed_the_same_leniently(content, form, size):
    strict = read_strict(content.strip(), form, size)
    lenient = read_lenient(f"<think>[2] > [1]</think><answer>{content}</answer>", form, size)
    if strict.answer is None or "<" in content:
        return
    assert not lenient.failures
    assert lenient.scores == strict.scores
    if strict.ranking is not None:
        named = [place for group in strict.ranking for place in group]
        assert list(lenient.order[: len(named)]) == named


@given(any_text.filter(lambda text: "answer" not in text), forms, sizes)
def test_a_thought_is_never_read(thought, form, size):
    for text in (f"<think>{thought}</think>", f"<think><answer>[2]</answer>{thought}", "<think>[2] > [1]"):
        reading = read_lenient(text, form, size)
        if "</think>" not in thought:
            assert reading.order == tuple(range(size))
            assert V.NO_ANSWER in reading.failures


# text: (order, failures) of a completion about 4 documents
LENIENT = {
    "<think>a</think><answer>[2] > [1]</answer>": ((1, 0, 2, 3), {V.MISSING_ID}),
    "<think>a</think><answer>[2] > [9] > [2] > [4] > [0]</answer>": ((1, 3, 0, 2), {V.UNKNOWN_ID, V.REPEATED_ID, V.MISSING_ID}),
    "<think>a</think><answer>[4] = [2] > [3] = [1]</answer>": ((1, 3, 0, 2), set()),
    "<think>a</think><answer>[ 4 ], [3]\n[2] → [1]</answer>": ((3, 2, 1, 0), set()),
    "<think>a</think><answer>4 > 3, 2; 1</answer>": ((3, 2, 1, 0), set()),
    "<think>a</think><answer>1. [4]\n2. [3]\n3. [2]\n4. [1]</answer>": ((3, 2, 1, 0), set()),
    "<think>a</think><answer>none of the 3</answer>": ((0, 1, 2, 3), {V.NOT_A_PERMUTATION}),
    "<think>a</think><answer>４ > ３</answer>": ((3, 2, 0, 1), {V.MISSING_ID}),
    "<think>a</think><answer></answer>": ((0, 1, 2, 3), {V.NOT_A_PERMUTATION}),
    "<think>a</think>[4] > [3] > [2] > [1]": ((3, 2, 1, 0), {V.NO_ANSWER}),
    "<think>a</think>I cannot say.": ((0, 1, 2, 3), {V.NO_ANSWER, V.NOT_A_PERMUTATION}),
    "[4] = [3] > [2] > [1]": ((2, 3, 1, 0), {V.NO_ANSWER}),
    "[3] is about rivers, [1] is not. Therefore: [4] > [3] > [2] > [1]\nEnd": ((3, 2, 1, 0), {V.NO_ANSWER}),
    "<answer>[4] > [3] > [2] > [1]</answer>": ((3, 2, 1, 0), set()),
    "<think>a</think><answer>[4] > [3] > [2": ((3, 2, 0, 1), {V.UNCLOSED_ANSWER, V.MISSING_ID}),
    "<think>a</think><answer>[1]</answer><answer>[4] > [3] > [2] > [1]</answer>": ((3, 2, 1, 0), {V.REPEATED_ANSWER}),
    "<think>a</think><answer>[4] > [3] > [2] > [1]</answer><answer>": ((3, 2, 1, 0), {V.REPEATED_ANSWER}),
    "<think><answer>[2]</answer></think><answer>[4] > [3] > [2] > [1]</answer>": ((3, 2, 1, 0), set()),
    "<think><answer>[4] > [3] > [2] > [1]</answer>": ((0, 1, 2, 3), {V.UNCLOSED_THINK, V.NO_ANSWER}),
    "": ((0, 1, 2, 3), {V.NO_ANSWER}),
}


@pytest.mark.parametrize("text", LENIENT)
def test_lenient_parsing_keeps_what_is_readable_and_names_the_failures(text):
    reading = read_lenient(text, Form.PERMUTATION, 4)
    assert (reading.order, reading.failures) == LENIENT[text]


@pytest.mark.parametrize(
    ("content", "order", "scores", "failures"),
    [
        ('{"1": 3, "2": 8}', (1, 0, 2), (3.0, 8.0, None), {V.MISSING_ID}),
        ('{"1": 3, "1": 8, "2": 11, "3": 3}', (1, 0, 2), (3.0, 11.0, 3.0), {V.REPEATED_ID}),
        ('{"1": 70, "2": 90, "3": 0}', (1, 0, 2), (70.0, 90.0, 0.0), set()),
        ('{"1": -5.5, "2": 0.25, "3": -6}', (1, 0, 2), (-5.5, 0.25, -6.0), set()),
        ('{"1": "70", "2": 90, "3": "0"}', (1, 0, 2), (70.0, 90.0, 0.0), set()),
        ('{"1": "70%", "2": 90, "3": 5}', (1, 0, 2), (70.0, 90.0, 5.0), set()),
        ('{"Passage 1": 7, "[02]": 9, "③": 8}', (1, 2, 0), (7.0, 9.0, 8.0), set()),
        ("[1]: 7. [2]: 9.5. [3]: 1e1.", (2, 1, 0), (7.0, 9.5, 10.0), set()),
        ("[1]：７\n[2]：９\n[3]：−１", (1, 0, 2), (7.0, 9.0, -1.0), set()),
        ('{"1": 3, "2": 1e12, "3": 4}', (0, 1, 2), (None, None, None), {V.BAD_ANSWER}),
        ('{"1": 3, "2": 1e999, "3": 4}', (0, 1, 2), (None, None, None), {V.BAD_ANSWER}),
        ("[1]: 3, [2]: 99999999999999, [3]: 4", (0, 1, 2), (None, None, None), {V.BAD_ANSWER}),
        ('```json\n{"1": 3, "2": 8.5, "3": 0}\n```', (1, 0, 2), (3.0, 8.5, 0.0), set()),
        ("[1]: 3, [2]: 8\n[3] = 9", (2, 1, 0), (3.0, 8.0, 9.0), set()),
        ("all good", (0, 1, 2), (None, None, None), {V.BAD_ANSWER, V.MISSING_ID}),
    ],
)
def test_scores_are_read_leniently(content, order, scores, failures):
    reading = read_lenient(f"</think><answer>{content}</answer>", Form.SCORES, 3, prefix="<think>")
    assert (reading.order, reading.scores, reading.failures) == (order, scores, failures)


@pytest.mark.parametrize(
    ("content", "order", "failures"),
    [
        ("The best is [2].", (1, 0, 2), set()),
        ("2", (1, 0, 2), set()),
        ("[3] > [1]", (2, 0, 1), {V.BAD_ANSWER}),
        ("[9]", (0, 1, 2), {V.UNKNOWN_ID}),
        ("document two", (0, 1, 2), {V.BAD_ANSWER}),
        ("Passage 2 is the most relevant.", (1, 0, 2), set()),
        ("C", (2, 0, 1), set()),
        ("Passage C", (2, 0, 1), set()),
        ("２", (1, 0, 2), set()),
    ],
)
def test_a_pick_is_read_leniently(content, order, failures):
    reading = read_lenient(f"<answer>{content}</answer>", Form.PICK, 3)
    assert (reading.order, reading.failures) == (order, failures)


labels = st.lists(st.integers(-2, 3).map(float), min_size=1, max_size=20).map(lambda g: ListLabel(tuple(g), tuple(range(len(g)))))


@given(labels, st.sampled_from(LISTS))
def test_the_best_answer_is_well_formed_and_the_best(label, form):
    content = best_answer(form, label)
    reading = read_strict(content, form, len(label.grades))
    assert reading.answer == content
    if form is Form.PERMUTATION:
        assert reading.ranking == ideal_groups(label.grades)
    if form is Form.PICK:
        assert max(label.grades[reading.ranking[0][0]], 0) == max(*label.grades, 0)
    else:
        best = ndcg(label.grades, reading.ranking, 10)
        assert best == pytest.approx(1.0 if max(label.grades) > 0 else 0.0)


def test_the_best_answer_by_hand():
    label = ListLabel((1.0, 3.0, 0.0, 1.0, -1.0), (0, 1, 2, 3, 4))
    assert best_answer(Form.PERMUTATION, label) == "[2] > [1] = [4] > [3] = [5]"
    assert best_answer(Form.PICK, label) == "[2]"
    assert json.loads(best_answer(Form.SCORES, label)) == {"1": 3, "2": 10, "3": 0, "4": 3, "5": 0}
    with pytest.raises(ValueError, match="does not answer a list"):
        best_answer(Form.YES_NO, label)


def test_hostile_answers_of_100_kb_are_read():
    draw = random.Random(0)
    hostile = ["[" * 100_000, "[1] > " * 16_000, "[1" + " " * 100_000, "[1]" + " " * 100_000 + "x", "1 " * 50_000, "1" * 100_000]
    hostile += ['{"1":' * 20_000, '{"1":' + "9" * 100_000 + "}", '{"1":[' + ",".join(["9" * 4300] * 22) + "]}", '1" ' * 30_000]
    hostile += [
        "[a 1 " * 20_000,
        "[1, " * 25_000,
        "passage " * 12_000,
        "①" * 50_000,
        "A > " * 25_000,
        "[A" * 50_000,
        "1e" * 50_000,
    ]
    hostile += [
        "[1] x = " * 12_000,
        "٣" * 100_000,
        "[" + "1, " * 33_000 + "]",
        "Passage" + " " * 100_000,
        '{"' + "a1" * 50_000 + '":1}',
    ]
    hostile += ["".join(draw.choices(["[1]", "=", ">", " ", "7", '"', ":"], k=100_000)), "<answer>" * 12_000, "\\" * 100_000]
    for content in hostile:
        for form in Form:
            assert read_strict(content, form, 20).answer is None
            assert sorted(read_lenient("<answer>" + content, form, 20).order) == list(range(20))


# What other list rerankers write for the order 2, 1, 3.
@pytest.mark.parametrize(
    "content",
    [
        "[2, 1, 3]",
        "[2 > 1 > 3]",
        "[02] > [01] > [03]",
        "[Passage 2] > [Passage 1] > [Passage 3]",
        "[doc_2] > [doc_1] > [doc_3]",
        "[#2], [#1], [#3]",
        '["2", "1", "3"]',
        '{"ranking": ["[2]", "[1]", "[3]"]}',
        "Passage 2 > Passage 1 > Passage 3",
        "Passage [2] > Passage [1] > Passage [3]",
        "1. Passage 2\n2. Passage 1\n3. Passage 3",
        "The final ranking is 2 > 1 > 3.",
        "Of the 3 passages: 2 > 1 > 3",
        "文档2 > 文档1 > 文档3",
        "[２] > [１] > [３]",
        "［２］＞［１］＞［３］",
        "【2】>【1】>【3】",
        "[٢] > [١] > [٣]",
        "[²] > [¹] > [³]",
        "[₂] > [₁] > [₃]",
        "② > ① > ③",
        "❷❶❸",
        "[②] > [①] > [③]",
        "1. 2\n2. 1\n3. 3",
        "1) 2\n2) 1\n\n3) 3",
        "[B] > [A] > [C]",
        "[b] > [a] > [c]",
        "b > a > c",
        "B > A > C",
        "Passage B > Passage A > Passage C",
    ],
)
def test_an_order_in_another_notation_is_read_at_inference_but_earns_no_reward(content):
    reading = read_lenient(f"<think>a</think><answer>{content}</answer>", Form.PERMUTATION, 3)
    assert (reading.order, reading.failures) == ((1, 0, 2), set())
    assert read_lenient(content, Form.PERMUTATION, 3) == reading._replace(failures={V.NO_ANSWER})
    assert read_strict(content, Form.PERMUTATION, 3).violations == {V.NOT_A_PERMUTATION} or "02" in content


@pytest.mark.parametrize("content", ["none of the 3", "I think a river", "2 or 3 of them", "[see above]", "x = 4", "12", "½ > ¼"])
def test_numbers_in_prose_are_no_order(content):
    reading = read_lenient(f"<answer>{content}</answer>", Form.PERMUTATION, 3)
    assert reading.order == (0, 1, 2)
    assert reading.failures


@pytest.mark.parametrize("content", ['{"[1]": 7, "[2]": 3}', '{"1": "7", "2": "3"}', '{"scores": {"1": 7, "2": 3}}'])
def test_scores_in_another_json_are_read_leniently(content):
    assert read_lenient(f"<answer>{content}</answer>", Form.SCORES, 2).scores == (7.0, 3.0)

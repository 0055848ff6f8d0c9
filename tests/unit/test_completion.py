"""Verdicts for any input: on prefix + completion, with tokens counted from the sampled ids; compared with an independent parser.
"""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from verdict_tokenizers import FAMILIES, TAGS, tokenizer_of

from r0.config.sections import RewardSection
from r0.records import Finish, Form, Violation
from r0.rewards import make_reward
from r0.text.completion import CompletionReader, parse
from r0.text.spans import ByteSpans, DecodedSpans

READERS = {family: CompletionReader(tokenizer_of(family)) for family in FAMILIES}
BYTE_LEVEL = ["added_tags", "plain_tags"]
PREFIXES = ["", "<think>"]

text_parts = st.sampled_from(
    [*TAGS, *TAGS, "yes", "no", "yes\n", "maybe", " word", "\n", " ", ">", "<", "</", "<thin", "é", "😀", "<Think>", "<|end|>"]
)
texts = st.lists(text_parts, max_size=14).map("".join)
any_text = st.one_of(texts, st.text(max_size=40))
finishes = st.sampled_from(list(Finish))
any_ids = st.lists(st.one_of(st.integers(0, 430), st.integers(-3, 3), st.integers()), max_size=40).map(tuple)


def encode(family: str, text: str) -> tuple[int, ...]:
    return tuple(tokenizer_of(family).encode(text, add_special_tokens=False))


def tags_of(text: str) -> list[tuple[int, str]]:
    """Every tag with its place, found one character at a time."""
    return [(place, tag) for place in range(len(text)) for tag in TAGS if text[place : place + len(tag)] == tag]


def slow_parse(text: str) -> tuple[str | None, bool, set[Violation]]:
    """Another reading of the rules, from the list of tags instead of searches in the text."""
    tags = tags_of(text)
    names = [tag for _, tag in tags]
    found: set[Violation] = set()
    kinds = (
        ("<think>", "</think>", Violation.NO_THINK, Violation.UNCLOSED_THINK, Violation.REPEATED_THINK),
        ("<answer>", "</answer>", Violation.NO_ANSWER, Violation.UNCLOSED_ANSWER, Violation.REPEATED_ANSWER),
    )
    for opening, closing, missing, unclosed, repeated in kinds:
        if opening not in names or closing not in names[names.index(opening) :]:
            found.add(missing)
        if names.count(opening) != names.count(closing):
            found.add(unclosed)
        if max(names.count(opening), names.count(closing)) > 1:
            found.add(repeated)
    once = list(dict.fromkeys(names))
    if once != [tag for tag in TAGS if tag in once]:
        found.add(Violation.ORDER)
    for index, (place, tag) in enumerate(tags):
        before_from = tags[index - 1][0] + len(tags[index - 1][1]) if index else 0
        gap = text[before_from:place].strip()
        if index == 0 and tag in ("<think>", "<answer>") and gap:
            found.add(Violation.TEXT_BEFORE)
        if tag == "<answer>" and "<answer>" not in names[:index] and "</think>" in names[:index]:
            last = max(i for i in range(index) if names[i] == "</think>")
            if last < index - 1 or gap:
                found.add(Violation.TEXT_BETWEEN)
    if "</answer>" in names:
        last_place = max(place for place, tag in tags if tag == "</answer>")
        if text[last_place + len("</answer>") :].strip():
            found.add(Violation.EXTRA_TEXT)
    answer = None
    if names.count("<answer>") == names.count("</answer>") == 1 and Violation.NO_ANSWER not in found:
        places = {tag: place for place, tag in tags}
        content = text[places["<answer>"] + len("<answer>") : places["</answer>"]].strip()
        answer = content if content in ("yes", "no") else None
        if answer is None:
            found.add(Violation.BAD_ANSWER)
    thinks = [tag for tag in names if "think" in tag]
    has_think = thinks == ["<think>", "</think>"] and "<answer>" not in names[: names.index("</think>")]
    return answer, has_think, found


def slow_count(family: str, ids: tuple[int, ...], prefix: str) -> int:
    """Tokens inside the first think pair, by decoding every prefix of the ids."""
    reader = READERS[family]
    judged = prefix + reader.text(ids)
    opening = judged.find("<think>")
    closing = judged.find("</think>", opening)
    if opening < 0 or closing < 0:
        return 0
    low, high = opening + len("<think>") - len(prefix), closing - len(prefix)
    marks = [len(reader._spans.text(ids[:k]).rstrip("\ufffd")) if k else 0 for k in range(len(ids) + 1)]
    return sum(low <= marks[k] and marks[k + 1] <= high for k in range(len(ids)))


@given(any_text)
@settings(max_examples=200)
def test_parsing_agrees_with_a_slow_independent_parser(text):
    parsed = parse(text)
    assert (parsed.answer, parsed.has_think, parsed.violations) == slow_parse(text)


@pytest.mark.parametrize("family", FAMILIES)
@given(text=any_text.filter(lambda t: t.isascii() or "\ud800" not in t), prefix=st.sampled_from(PREFIXES))
@settings(max_examples=30, deadline=None)
def test_thinking_tokens_are_those_of_decoded_prefixes(family, text, prefix):
    ids = encode(family, text)
    while ids and ids[-1] == tokenizer_of(family).eos_token_id:
        ids = ids[:-1]
    judged, verdict = READERS[family].read(ids, prefix)
    assert judged == prefix + READERS[family].text(ids)
    assert verdict.think_tokens == slow_count(family, ids, prefix)


@pytest.mark.parametrize("family", FAMILIES)
@given(ids=any_ids, finish=finishes, prefix=st.sampled_from([*PREFIXES, "<thi", "<think></think>", "x"]))
@settings(max_examples=40, deadline=None)
def test_any_ids_give_a_verdict_and_a_finite_reward(family, ids, finish, prefix):
    _, verdict = READERS[family].read(ids, prefix, finish)
    assert 0 <= verdict.think_tokens <= len(ids)
    assert (Violation.CUT in verdict.violations) == (finish == Finish.LENGTH)
    assert verdict.well_formed == (not verdict.violations)
    for label in (0, 1):
        assert math.isfinite(sum(make_reward(RewardSection())(verdict, label).values()))


@pytest.mark.parametrize("family", FAMILIES)
@given(ids=any_ids, text=any_text, prefix=st.text(max_size=9))
@settings(max_examples=30, deadline=None)
def test_a_text_that_is_not_that_of_the_ids_gives_a_verdict_too(family, ids, text, prefix):
    verdict = READERS[family].verdict(ids, text, prefix)
    assert 0 <= verdict.think_tokens <= len(ids)


@pytest.mark.parametrize("family", BYTE_LEVEL)
@given(ids=st.lists(st.integers(0, 1000), max_size=60).map(tuple))
@settings(max_examples=50, deadline=None)
def test_the_byte_table_decodes_as_the_tokenizer_does(family, ids):
    known = tuple(i for i in ids if i < len(tokenizer_of(family)))
    expected = tokenizer_of(family).decode(list(known), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert READERS[family]._spans.text(known) == expected


@pytest.mark.parametrize("family", BYTE_LEVEL)
@given(
    thought=st.lists(st.integers(1, 256), max_size=30),
    prefix=st.sampled_from(PREFIXES),
    tail=st.lists(st.integers(1, 256), max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_counts_are_exact_among_invalid_utf8(family, thought, prefix, tail):
    opening = () if prefix else encode(family, "<think>")
    ids = (*opening, *thought, *encode(family, "</think><answer>yes</answer>"), *tail)
    _, verdict = READERS[family].read(ids, prefix)
    if READERS[family].text(thought).count("<") == 0:
        assert verdict.think_tokens == len(thought) == slow_count(family, ids, prefix)


def test_byte_level_tokenizers_get_the_table_and_others_do_not():
    kinds = {family: type(READERS[family]._spans) for family in FAMILIES}
    assert kinds == {family: ByteSpans if family in BYTE_LEVEL else DecodedSpans for family in FAMILIES}


perfect = st.tuples(
    st.integers(0, 40), st.sampled_from(["yes", "no", " yes\n"]), st.sampled_from(["", "\n", " "]), st.sampled_from(PREFIXES)
)
weight = st.floats(0, 3)
sections = st.builds(
    RewardSection,
    **dict.fromkeys(("format_weight", "acc_weight", "think_bonus", "length_penalty", "extra_text_penalty"), weight),
    **dict.fromkeys(("invalid_tag_penalty", "missing_answer_penalty", "missing_eos_penalty"), weight),
    min_think_tokens=st.integers(0, 10),
    max_think_tokens=st.integers(10, 30),
)


def total(family: str, ids: tuple[int, ...], prefix: str, finish: Finish, section: RewardSection, label: int) -> float:
    return math.fsum(make_reward(section)(READERS[family].read(ids, prefix, finish)[1], label).values())


@pytest.mark.parametrize("family", BYTE_LEVEL)
@given(made=perfect, extra=any_text, more=any_ids, finish=finishes, section=sections, label=st.integers(0, 1))
@settings(max_examples=60, deadline=None)
def test_text_added_after_a_perfect_completion_never_raises_its_reward(family, made, extra, more, finish, section, label):
    words, answer, gap, prefix = made
    text = ("" if prefix else "<think>") + " word" * words + f"</think>{gap}<answer>{answer}</answer>"
    ids = encode(family, text)
    assert READERS[family].read(ids, prefix)[1].well_formed
    best = total(family, ids, prefix, Finish.STOP, section, label)
    assert total(family, ids + encode(family, extra), prefix, finish, section, label) <= best
    assert total(family, ids + more, prefix, finish, section, label) <= best
    assert total(family, encode(family, text + extra), prefix, finish, section, label) <= best


@given(text=texts)
def test_an_answer_needs_exactly_one_pair(text):
    if parse(text).answer is not None:
        assert text.count("<answer>") == text.count("</answer>") == 1


@pytest.mark.parametrize(
    ("text", "violations"),
    [
        ("<think>a</think><answer>yes</answer>", set()),
        (" <think>a</think>\n\n<answer>\tyes </answer> \n", set()),
        ("", {Violation.NO_THINK, Violation.NO_ANSWER}),
        ("<think>cut", {Violation.NO_THINK, Violation.UNCLOSED_THINK, Violation.NO_ANSWER}),
        ("a</think><answer>yes</answer>", {Violation.NO_THINK, Violation.UNCLOSED_THINK}),
        ("hm<think>a</think><answer>yes</answer>", {Violation.TEXT_BEFORE}),
        ("<think>a</think>so<answer>yes</answer>", {Violation.TEXT_BETWEEN}),
        ("<think>a</think><answer>yes</answer>.", {Violation.EXTRA_TEXT}),
        ("<think><answer>yes</answer></think>", {Violation.ORDER, Violation.EXTRA_TEXT}),
        ("<answer>yes</answer><think>a</think>", {Violation.ORDER, Violation.EXTRA_TEXT}),
        ("<think>a</think><answer></answer>", {Violation.BAD_ANSWER}),
        ("<think>a</think><answer>Yes</answer>", {Violation.BAD_ANSWER}),
        ("<think>a</think><answer>yes no</answer>", {Violation.BAD_ANSWER}),
        ("</answer><answer>", {Violation.NO_THINK, Violation.NO_ANSWER, Violation.ORDER, Violation.EXTRA_TEXT}),
        ("<think>a</think><answer>yes", {Violation.NO_ANSWER, Violation.UNCLOSED_ANSWER}),
        ("<think>a</think><answer>yes</answer></answer>", {Violation.REPEATED_ANSWER, Violation.UNCLOSED_ANSWER}),
        ("<THINK>a</THINK><answer>yes</answer>", {Violation.NO_THINK, Violation.TEXT_BEFORE}),
    ],
)
def test_every_violation_has_its_name(text, violations):
    assert parse(text).violations == violations


@pytest.mark.parametrize(
    ("answer", "form", "ranking", "scores"),
    [
        (" [3] > [1] = [2]\n", Form.PERMUTATION, ((2,), (0, 1)), None),
        ("[2]", Form.PICK, ((1,),), None),
        ('{"1": 0, "2": 7, "3": 1.5}', Form.SCORES, ((1,), (2,), (0,)), (0.0, 7.0, 1.5)),
    ],
)
@pytest.mark.parametrize("family", BYTE_LEVEL)
def test_an_answer_about_a_list_has_a_ranking_only_if_the_list_asks_for_its_form(family, answer, form, ranking, scores):
    ids = encode(family, f"<think>word</think><answer>{answer}</answer>")
    for asked in Form:
        _, verdict = READERS[family].read(ids, "", Finish.STOP, asked, 3)
        assert verdict.well_formed == (asked is form)
        given = (answer.strip(), ranking, scores) if asked is form else (None, None, None)
        assert (verdict.answer, verdict.ranking, verdict.scores) == given
        assert verdict.think_tokens == READERS[family].read(ids)[1].think_tokens
    shorter = READERS[family].read(ids, "", Finish.STOP, form, 1)[1]
    assert (shorter.ranking, shorter.violations) == (None, {Violation.UNKNOWN_ID})


@given(text=any_text, form=st.sampled_from(list(Form)), size=st.integers(1, 4))
def test_the_tags_are_judged_the_same_whatever_the_form(text, form, size):
    about_answers = {Violation.BAD_ANSWER, Violation.NOT_A_PERMUTATION}
    about_answers |= {Violation.UNKNOWN_ID, Violation.MISSING_ID, Violation.REPEATED_ID}
    parsed, plain = parse(text, form, size), parse(text)
    assert parsed.violations - about_answers == plain.violations - about_answers
    assert (parsed.has_think, parsed.think) == (plain.has_think, plain.think)


def test_tokens_that_carry_a_part_of_a_tag_belong_to_the_tag():
    pieces = ["<|end|>", "<", "think", ">Ċ", "Ġword", "Ċ", ".</", ">", "></", "answer"]
    core = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    core.decoder = decoders.ByteLevel()
    reader = CompletionReader(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>"))
    text, verdict = reader.read(tuple(map(pieces.index, ["<", "think", ">Ċ", "Ġword", "Ċ", "Ġword", ".</", "think", ">"])))
    assert (text, verdict.think_tokens) == ("<think>\n word\n word.</think>", 3)
    text, verdict = reader.read(tuple(map(pieces.index, ["<", "think", "></", "think", ">"])))
    assert (text, verdict.think_tokens) == ("<think></think>", 0)


def test_end_of_sequence_ids_end_the_text_but_do_not_complete_an_answer():
    tokenizer = tokenizer_of("added_tags")
    end = tokenizer.eos_token_id
    ids = encode("added_tags", "<think>word</think><answer>yes</answer>")
    assert READERS["added_tags"].read((*ids, end))[1].well_formed
    assert READERS["added_tags"].text((*ids, end)) == "<think>word</think><answer>yes</answer>"
    assert Violation.EXTRA_TEXT in READERS["added_tags"].read((*ids, end, ids[1]))[1].violations
    split = (*encode("added_tags", "<think>word</think><answer>y"), end, *encode("added_tags", "es</answer>"))
    assert READERS["added_tags"].read(split)[1].answer is None
    other_end = ids[1]
    assert CompletionReader(tokenizer, [other_end]).read((*ids, other_end))[1].well_formed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stranger", [-1, -(2**70), 10**6, 2**63, 2**70])
def test_ids_outside_the_vocabulary_are_visible_and_never_complete_an_answer(family, stranger):
    ids = (*encode(family, "<answer>y"), stranger, *encode(family, "es</answer>"))
    text, verdict = READERS[family].read(ids)
    assert "\ufffd" in text
    assert verdict.answer is None


@pytest.mark.parametrize("prefix", PREFIXES)
def test_hostile_completions_of_100_kb_are_read(prefix):
    draw = random.Random(0)
    shapes = [
        "<think>" * 8000,
        "<answer>" * 12_500,
        "<think><answer>" * 3300 + "</answer></think>" * 3000,
        "</think><think>" * 6600,
        "<think>" + "</thin" * 16_000,
        "<think>" + " " * 100_000 + "</think><answer>yes</answer>",
        "".join(draw.choices([*TAGS, "é", "x"], k=15_000)),
    ]
    for text in shapes:
        ids = encode("added_tags", text)
        judged, verdict = READERS["added_tags"].read(ids, prefix)
        assert judged == prefix + text
        assert verdict.think_tokens <= len(ids)

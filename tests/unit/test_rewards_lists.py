"""Stage B's reward: components by case, published presets by hand, and only a better order gains more."""

from __future__ import annotations

import math
from functools import cache
from itertools import chain, pairwise, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from verdict_tokenizers import tokenizer_of

from r0.actors.reward.worker import RewardWorker
from r0.config import StageBConfig
from r0.config.lists import PRESETS, ListRewardSection
from r0.config.sections import RewardSection
from r0.errors import UserError
from r0.records import Finish, Form, ListLabel, ListwiseTask, Prompt, Rollout, Sampled, Verdict, Violation
from r0.rewards import check_reward, make_reward
from r0.rewards.stage_b import COMPONENTS, gain
from r0.text.completion import CompletionReader, parse
from tests.rollouts import outcome

TOKENIZER = tokenizer_of("added_tags")
READER = CompletionReader(TOKENIZER)
LABEL = ListLabel((2.0, 0.0, 1.0, 0.0), (1, 0, 2, 3))  # in texts: 1 and 3 are relevant, and the given order is 2, 1, 3, 4
LOG3, LOG5 = math.log2(3), math.log2(5)
IDEAL = 2 + 1 / LOG3  # DCG of 1 > 3 > (2 = 4)
GIVEN = (2 / LOG3 + 1 / 2) / IDEAL
ANSWER_FORMS = {"reasonrank": Form.PERMUTATION, "rearank": Form.PERMUTATION, "rank_r1": Form.PICK}
ANSWER_FORMS |= {"grouprank": Form.SCORES, "tfrank": Form.PERMUTATION, "r0": Form.PERMUTATION}


reward_of = cache(make_reward)


def judge(text: str, form: Form = Form.PERMUTATION, size: int = 4, finish: Finish = Finish.STOP) -> Verdict:
    ids = tuple(TOKENIZER.encode(text, add_special_tokens=False))
    return READER.read(ids, "", finish, form, size)[1]


def verdict_of(text: str, form: Form = Form.PERMUTATION, size: int = 4) -> Verdict:
    """The same without a tokenizer, for many texts: every " word" is a token."""
    parsed = parse(text, form, size)
    tokens = text[slice(*parsed.think)].count(" word") if parsed.think else 0
    return Verdict(parsed.answer, tokens, parsed.has_think, frozenset(parsed.violations), parsed.ranking, parsed.scores)


def completion(answer: str, words: int = 5) -> str:
    return f"<think>{' word' * words}</think><answer>{answer}</answer>"


def components(section: ListRewardSection, verdict: Verdict, label: ListLabel = LABEL) -> dict[str, float]:
    given = reward_of(section)(verdict, label)
    assert list(given) == list(COMPONENTS)
    assert "-0.0" not in map(str, given.values())
    return {name: value for name, value in given.items() if value}


def total(section: ListRewardSection, verdict: Verdict, label: ListLabel = LABEL) -> float:
    return math.fsum(reward_of(section)(verdict, label).values())


PERFECT = "[1] > [3] > [2] = [4]"
# completion: the components that are not 0, with r0's weights
CASES = {
    completion(PERFECT): {"tags": 0.1, "answer": 0.1, "ndcg": 1.0},
    completion("[2] > [1] > [3] > [4]"): {"tags": 0.1, "answer": 0.1, "ndcg": GIVEN},
    completion(PERFECT) + " Done.": {"tags": 0.1, "answer": 0.1, "ndcg": 1.0, "extra_text": -0.2},
    completion(PERFECT, words=1000): {"tags": 0.1, "answer": 0.1, "ndcg": 1.0, "length": -0.05 * 200 / 800},
    completion("[1] > [3] > [2]"): {"tags": 0.1, "invalid_answer": -0.1},
    completion("[1] > [3] > [2] > [2]"): {"tags": 0.1, "invalid_answer": -0.1},
    completion("[1]") + "so": {"tags": 0.1, "invalid_answer": -0.1, "extra_text": -0.2},
    completion(PERFECT) + completion(PERFECT): {"invalid_tags": -0.5},
    f"<answer>{PERFECT}</answer>": {"invalid_tags": -0.5},
    f"<think> word <answer>{PERFECT}</answer>": {"invalid_tags": -0.5},
    "": {"invalid_tags": -0.5},
}


@pytest.mark.parametrize("text", CASES)
def test_components_by_case(text):
    assert judge(text) == verdict_of(text)
    assert components(ListRewardSection(), judge(text)) == pytest.approx(CASES[text])


def test_a_cut_completion_pays_for_its_end_in_every_case():
    for text in CASES:
        assert components(ListRewardSection(), judge(text, finish=Finish.LENGTH))["eos"] == -0.2


def test_the_thought_earns_its_bonus_in_its_range_and_with_an_answer():
    section = ListRewardSection(think_bonus=0.5, min_think_tokens=5, max_think_tokens=7)
    for words, bonus in ((4, 0.0), (5, 0.5), (7, 0.5), (8, 0.0)):
        assert components(section, judge(completion(PERFECT, words))).get("thinking", 0.0) == bonus
    assert "thinking" not in components(section, judge(completion("no order")))


def test_every_measure_by_hand():
    names = ("ndcg", "ndcg_gain", "recall", "rbo", "exact", "js", "pick")
    section = ListRewardSection(k=1, rbo_p=0.5, **{f"{name}_weight": 1.0 for name in names})
    found = components(section, judge(completion('{"1": 6, "2": 0, "3": 6, "4": 0}'), Form.SCORES))
    # Half of the orders of the tied 1 and 3 have the best document first; the given order's nDCG@1 is 0.
    assert {name: found[name] for name in ("ndcg", "ndcg_gain", "recall", "pick")} == {
        "ndcg": pytest.approx(0.75),
        "ndcg_gain": pytest.approx(0.75),
        "recall": pytest.approx(0.5),
        "pick": 1.0,
    }
    assert found["exact"] == pytest.approx(0.5)
    # Overlap with the ideal 1 > 3 > (2 = 4) at depths 1 to 4: tied 1/2, 2, 2 + 1/2, 4; the ideal with itself: 1, 2, 2 + 1/2, 4.
    tied, best = (
        sum(x / d * 0.5 ** (d - 1) * 0.5 for d, x in enumerate(xs, 1)) + 0.5**4 for xs in ([0.5, 2, 2.5, 4], [1, 2, 2.5, 4])
    )
    assert found["rbo"] == pytest.approx(tied / best)
    shares = [(0.5, 2 / 3), (0.5, 1 / 3)]
    divergence = sum((a * math.log2(2 * a / (a + b)) + b * math.log2(2 * b / (a + b))) / 2 for a, b in shares)
    assert found["js"] == pytest.approx(1 - divergence)


def test_the_gain_is_relative_to_what_there_was_to_gain():
    assert gain(0.75, 0.5) == 0.5
    assert gain(1.0, 0.5) == 1.0
    assert gain(0.25, 0.5) == -0.5
    assert gain(0.0, 0.9) == -1.0
    assert gain(1.0, 1.0) == 0.0
    assert gain(0.4, 1.0) == pytest.approx(-0.6)


# preset: {answer: reward}, by hand from the published formula
REVERSED = (2 / LOG5 + 1 / LOG3) / IDEAL  # 2 > 3 > 4 > 1
TIED_BEHIND = 1 / LOG3 + 1 / 2 + 1 / LOG5  # 2 > 1 = 3 = 4: ranks 2 to 4 have the mean gain (2 + 1 + 0) / 3


def rbo_share(overlaps: list[float]) -> float:
    """Overlaps with the ideal 1 > 3 > (2 = 4) at depths 1 to 4, p = 0.9, as a share of the best order's 1, 2, 2.5, 4."""

    def value(counts: list[float]) -> float:
        return sum(0.1 * 0.9 ** (depth - 1) * count / depth for depth, count in enumerate(counts, 1)) + 0.9**4

    return value(overlaps) / value([1, 2, 2.5, 4])


PRESET_CASES = [
    ("reasonrank", completion(PERFECT), 1.3),
    ("reasonrank", completion("[2] > [3] > [4] > [1]"), REVERSED + 0.2 + 0.1 * rbo_share([0, 1, 2, 4])),
    ("reasonrank", completion("[1] > [3] > [2]"), 0.0),
    ("reasonrank", completion("[1] > [3] > [2] > [21]"), 0.0),
    ("reasonrank", completion("[0] > [1] > [2] > [3]"), 0.0),
    ("reasonrank", PERFECT, -1.0),
    ("rearank", completion(PERFECT), 1.0),
    ("rearank", completion("[2] > [1] > [3] > [4]"), 0.2),
    ("rearank", completion("[1] > [2] > [3] > [4]"), 0.2 + 0.8 * ((2 + 0.5) / IDEAL - GIVEN) / (1 - GIVEN)),
    ("rearank", completion("[4] > [2] > [3] > [1]"), 0.2 + 0.8 * max(-1, ((0.5 + 2 / LOG5) / IDEAL - GIVEN) / (1 - GIVEN))),
    ("rearank", completion("[1]"), -0.8),
    ("rearank", "", -1.0),
    ("rank_r1", completion("[1]"), 1.0),
    ("rank_r1", completion("[2]"), 0.0),
    ("rank_r1", completion("[1] > [2]"), 0.0),
    ("rank_r1", completion("1"), 0.0),
    ("rank_r1", "<answer>[1]</answer>", -0.2),
    ("grouprank", completion('{"1": 10, "2": 0, "3": 5, "4": 0}'), 1.3),
    ("grouprank", completion('{"1": 0, "2": 10, "3": 0, "4": 0}'), TIED_BEHIND / IDEAL + 0.2),
    ("grouprank", completion('{"1": 10, "2": 0, "3": 5}'), -0.1),
    ("grouprank", completion("[1] > [3] > [2] > [4]"), -0.1),
    ("grouprank", '{"1": 10, "2": 0, "3": 5, "4": 0}', -0.5),
    ("tfrank", completion(PERFECT, words=64), 2.0),
    ("tfrank", completion(PERFECT, words=63), 1.0),
    ("tfrank", completion("[2] > [1] > [3] > [4]", words=1024), 1.0),
    ("tfrank", completion("[2] > [1] > [3] > [4]", words=1025), 0.0),
    ("tfrank", completion("[1] > [1] > [1] > [1]", words=64), -0.5),
    ("tfrank", PERFECT, -0.7),
]


@pytest.mark.parametrize(("preset", "text", "reward"), PRESET_CASES)
def test_presets_by_hand(preset, text, reward):
    verdict = judge(text, ANSWER_FORMS[preset])
    assert total(ListRewardSection(preset=preset), verdict) == pytest.approx(reward)


def test_a_weight_that_is_given_comes_before_the_presets():
    assert ListRewardSection(preset="reasonrank", recall_weight=0.0).recall_weight == 0.0
    assert ListRewardSection(preset="reasonrank").recall_weight == 0.2
    assert set(ANSWER_FORMS) == {*PRESETS, "r0"}
    with pytest.raises(ValidationError, match="rbo_p"):
        ListRewardSection(rbo_p=1.0)


grades = st.lists(st.integers(-1, 3).map(float), min_size=2, max_size=5).filter(lambda values: max(values) > 0)


@st.composite
def labels(draw):
    values = draw(grades)
    return ListLabel(tuple(values), tuple(draw(st.permutations(range(len(values))))), draw(st.sampled_from([1.0, 2.0])))


def format_ranking(groups) -> str:
    return " > ".join(" = ".join(f"[{place + 1}]" for place in group) for group in groups)


presets = st.sampled_from(["r0", *PRESETS])
weights = st.builds(
    lambda preset, values: ListRewardSection(preset=preset, **values),
    presets,
    st.fixed_dictionaries(
        {}, optional={f"{name}_weight": st.floats(0, 2) for name in ("recall", "rbo", "pick", "exact", "ndcg_gain")}
    ),
)


@given(labels(), presets, st.data())
@settings(max_examples=150, deadline=None)
def test_repeating_omitting_or_inventing_ids_never_pays(label, preset, data):
    """Whatever is done to an honest order's ids, the reward is at most that of the worst honest order."""
    size, section = len(label.grades), ListRewardSection(preset=preset)
    order = [str(place + 1) for place in data.draw(st.permutations(range(size)))]
    honest = total(section, verdict_of(completion(" > ".join(f"[{number}]" for number in order)), size=size), label)
    at = data.draw(st.integers(0, size - 1))
    stranger = data.draw(st.sampled_from(["0", str(size + 1), "21", "01", "999999999999999999999999"]))
    repeated, omitted = [*order[: at + 1], *order[at:]], order[:at] + order[at + 1 :]
    replaced, doubled = [*order[:at], stranger, *order[at + 1 :]], [order[at], *order[:at], *order[at + 1 :][1:], order[at]]
    for numbers in (repeated, omitted, replaced, [*order, stranger], [stranger, *order], doubled, [order[at]] * size):
        verdict = verdict_of(completion(" > ".join(f"[{number}]" for number in numbers)), size=size)
        assert verdict.ranking is None
        assert verdict.violations & {Violation.REPEATED_ID, Violation.MISSING_ID, Violation.UNKNOWN_ID}
        assert total(section, verdict, label) <= honest + 1e-12


@given(labels(), presets, st.data())
@settings(max_examples=100, deadline=None)
def test_repeated_omitted_or_invented_scores_never_pay(label, preset, data):
    size, section = len(label.grades), ListRewardSection(preset=preset)
    scores = [(str(place + 1), data.draw(st.integers(0, 10))) for place in range(size)]
    at = data.draw(st.integers(0, size - 1))
    stranger = (data.draw(st.sampled_from(["0", str(size + 1), "01", " 1", "x"])), 10)

    def reward(pairs) -> float:
        content = "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}"
        return total(section, verdict_of(completion(content), Form.SCORES, size), label)

    honest = reward(scores)
    for pairs in (
        [*scores, scores[at]],
        scores[:at] + scores[at + 1 :],
        [*scores, stranger],
        [stranger, *scores[1:]],
        [scores[at]] * size,
    ):
        assert reward(pairs) <= honest + 1e-12


tails = st.lists(
    st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", PERFECT, "[1]", " word", "\n", ".", "<answer>[1]</answer>"]),
    max_size=6,
).map("".join)


@given(presets, st.permutations(range(1, 5)), tails, st.sampled_from([1, 70]))
@settings(max_examples=200, deadline=None)
def test_text_added_after_a_whole_answer_never_raises_its_reward(preset, numbers, tail, words):
    section, text = ListRewardSection(preset=preset), completion(" > ".join(f"[{number}]" for number in numbers), words)
    assert total(section, verdict_of(text + tail)) <= total(section, verdict_of(text)) + 1e-12


@given(labels(), weights, st.data())
@settings(max_examples=100, deadline=None)
def test_a_tie_never_gains_over_the_mean_of_its_orders(label, section, data):
    size = len(label.grades)
    order = data.draw(st.permutations(range(size)))
    cuts = [0, *[at for at in range(1, size) if data.draw(st.booleans())], size]
    groups = [tuple(order[start:end]) for start, end in pairwise(cuts)]
    tied = total(section, verdict_of(completion(format_ranking(groups)), size=size), label)
    orders = [list(chain(*parts)) for parts in product(*(permutations(group) for group in groups))]
    rewards = [
        total(section, verdict_of(completion(format_ranking([(p,) for p in order])), size=size), label) for order in orders
    ]
    assert tied <= math.fsum(rewards) / len(rewards) + 1e-9


@given(labels(), presets, st.data())
@settings(max_examples=100, deadline=None)
def test_a_worse_case_never_pays(label, preset, data):
    """Broken tags ≤ an answer of the wrong form ≤ any ranking, with the same text behind the answer."""
    size, section, form = len(label.grades), ListRewardSection(preset=preset), ANSWER_FORMS[preset]
    numbers = data.draw(st.permutations(range(1, size + 1)))
    answers = {
        Form.PERMUTATION: " > ".join(f"[{number}]" for number in numbers),
        Form.PICK: f"[{numbers[0]}]",
        Form.SCORES: "{" + ", ".join(f'"{number}": {number}' for number in numbers) + "}",
    }
    behind, words = data.draw(st.sampled_from(["", " Done."])), data.draw(st.sampled_from([1, 70]))
    ranked = total(section, verdict_of(completion(answers[form], words) + behind, form, size), label)
    invalid = total(section, verdict_of(completion("none", words) + behind, form, size), label)
    broken = total(section, verdict_of("<think> word <answer>none</answer>" + behind, form, size), label)
    assert broken <= invalid + 1e-12 <= ranked + 2e-12
    assert broken <= total(section, verdict_of(completion(answers[form], words) + " Done.", form, size), label) + 1e-12


def test_rewards_of_another_stage_are_refused():
    for section in (ListRewardSection(name="stage_a"), RewardSection(name="stage_b")):
        with pytest.raises(UserError, match="of another stage and cannot judge these answers; use stage_"):
            check_reward(section)
        with pytest.raises(UserError, match="of another stage"):
            make_reward(section)
    check_reward(ListRewardSection())
    check_reward(RewardSection())


def test_a_weight_on_scores_needs_scores():
    keys = {"model": "m", "data": "d", "output": "o", "reward": {"preset": "grouprank"}}
    with pytest.raises(ValidationError, match="needs scores, but answer=permutation has none; use answer=scores"):
        StageBConfig(**keys)
    assert StageBConfig(answer="scores", **keys).reward.js_weight == 0.1


def test_a_bonus_that_no_thought_can_earn_is_refused():
    ListRewardSection(min_think_tokens=9, max_think_tokens=8)
    with pytest.raises(ValidationError, match="9 is above max_think_tokens=8, so no thought can earn think_bonus"):
        ListRewardSection(min_think_tokens=9, max_think_tokens=8, think_bonus=0.1)


def test_a_worker_judges_lists_by_the_tasks_form_and_size():
    task = ListwiseTask(7, "q", ("a", "b", "c", "d"), LABEL)
    ids = tuple(TOKENIZER.encode(completion(PERFECT) + "<|end|>", add_special_tokens=False))
    rollout = Rollout(task, 0, 0, Prompt((1,)), Sampled(ids, (0.0,) * len(ids), Finish.STOP, 0))
    scored, _ = outcome(RewardWorker(TOKENIZER, ListRewardSection()), rollout)
    assert scored.total == pytest.approx(1.2)
    assert scored.verdict.ranking == ((0,), (2,), (1, 3))

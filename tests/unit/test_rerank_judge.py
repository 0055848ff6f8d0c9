"""Questions as prompts, the position at which P(yes) is read, and replies from completions."""

import math
from functools import cache

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from r0.config import RankingKeys
from r0.errors import UserError
from r0.records import Finish, Form, Sampled, Violation
from r0.rerank.job import Job
from r0.rerank.judge import Judge
from r0.rerank.protocol import Question
from tests.helpers import CHAT_TEMPLATE, tiny_tokenizer
from tests.unit.prompt_tokenizers import R1
from tests.unit.verdict_tokenizers import CORPUS, FAMILIES, tokenizer_of

JOB = Job(0, "q1", "who?", ("first document", "second document", "third document"))
LIST = Question((2, 0), Form.PERMUTATION)
PAIR = Question((1,), Form.YES_NO)
QWEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def qwen_like() -> PreTrainedTokenizerFast:
    """Byte-level, split as Qwen does: the tag's ``>`` and the word behind it are one token."""
    core = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"), byte_level])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        ["<answer>yes</answer>", "<answer>no</answer>", *CORPUS],
        trainers.BpeTrainer(vocab_size=420, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def judge(tokenizer, **keys) -> Judge:
    return Judge(tokenizer, RankingKeys(**keys), 1000)


def run_question(tokenizer, question, completion="", finish=Finish.STOP, allowed=(-1.0, -0.5), **keys):
    """What is wanted one after another, and the reply, of a model that writes ``completion``."""
    conversation = judge(tokenizer, **keys).reply_to(JOB, question)
    wanted = [next(conversation)]
    try:
        while True:
            if wanted[-1].request.allowed_ids:
                ids, logprobs = (wanted[-1].request.allowed_ids[0],), allowed
            else:
                ids, logprobs = tuple(tokenizer(completion, add_special_tokens=False).input_ids), ()
            wanted.append(conversation.send(Sampled(ids, (0.0,) * len(ids), finish, 0, logprobs)))
    except StopIteration as done:
        return wanted, done.value


def families():
    for family in FAMILIES:
        tokenizer = tokenizer_of(family)
        tokenizer.chat_template = None if family == "words" else CHAT_TEMPLATE
        yield pytest.param(tokenizer, id=family)
    yield from (pytest.param(qwen_like(), id="qwen_like"), pytest.param(tiny_tokenizer(), id="bytes"))


@pytest.mark.parametrize("tokenizer", list(families()))
@pytest.mark.parametrize(
    "completion",
    [
        "<think>word word</think><answer>yes</answer>",
        "<think>word <answer>no</answer> word</think>\n<answer>\nno\n</answer> and more",
        "<think>é 😀</think><answer>yes</answer><answer>yes</answer>",
    ],
)
def test_the_probability_is_read_where_the_answer_begins(tokenizer, completion):
    if tokenizer is tokenizer_of("words"):
        completion = "<think>word word</think><answer>no</answer>"  # all that its vocabulary can write
    (whole, one), reply = run_question(tokenizer, PAIR, completion, allowed=(math.log(0.2), math.log(0.6)))
    assert reply.probability == pytest.approx(0.25)
    assert not reply.failures & {Violation.NO_ANSWER, Violation.BAD_ANSWER}
    assert (one.max_new_tokens, one.greedy) == (1, True)
    prompt, asked = whole.request.prompt_ids, one.request.prompt_ids
    assert asked[: len(prompt)] == prompt

    def text(ids):  # without spaces: some families put one between any two tokens
        return tokenizer.decode(ids).replace(" ", "")

    before = text(tokenizer(completion, add_special_tokens=False).input_ids).rpartition("<answer>")[0] + "<answer>"
    for answer, token in zip(("yes</answer>", "no</answer>"), one.request.allowed_ids, strict=True):
        said = text([*asked[len(prompt) :], token])
        assert said.startswith(before)
        assert len(said) > len(before)
        assert answer.startswith(said.removeprefix(before))


def test_a_tag_may_share_a_token_with_the_answer():
    tokenizer = qwen_like()
    assert any(token.startswith(">y") for token in tokenizer.get_vocab()), "the case is not there"
    (_, one), _ = run_question(tokenizer, PAIR, "<think>word</think><answer>yes</answer>")
    assert [tokenizer.decode([token])[0] for token in one.request.allowed_ids] == [">", ">"]
    assert tokenizer.decode(one.request.prompt_ids).endswith("</think><answer")


@pytest.mark.parametrize(
    ("completion", "finish", "failures", "context"),
    [
        ("no tags at all", Finish.STOP, {Violation.NO_ANSWER}, "<think></think><answer>"),
        ("", Finish.STOP, {Violation.NO_ANSWER}, "<think></think><answer>"),
        (
            "<think>for ever",
            Finish.LENGTH,
            {Violation.NO_ANSWER, Violation.UNCLOSED_THINK, Violation.CUT},
            "<think>for ever</think><answer>",
        ),
        (
            "<think>a <answer>yes</answer>",
            Finish.STOP,
            {Violation.NO_ANSWER, Violation.UNCLOSED_THINK},
            "<think>a </think><answer>",
        ),
        ("<think>a</think>perhaps", Finish.STOP, {Violation.NO_ANSWER}, "<think>a</think><answer>"),
        ("<think><answer>no</answer></think>", Finish.STOP, {Violation.NO_ANSWER}, "<think><answer>no</answer></think><answer>"),
        ("<think>a</think><answer>maybe</answer>", Finish.STOP, {Violation.BAD_ANSWER}, "<think>a</think><answer>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [tiny_tokenizer, qwen_like])
def test_an_answer_that_cannot_be_read_is_a_failure_and_yes_or_no_is_read_behind_the_thought(
    make, completion, finish, failures, context
):
    tokenizer = make()
    (whole, one), reply = run_question(tokenizer, PAIR, completion, finish)
    assert reply.failures == failures
    assert reply.probability == pytest.approx(1 / (1 + math.exp(0.5)))
    asked = tokenizer.decode(one.request.prompt_ids[len(whole.request.prompt_ids) :])
    assert asked == context.removesuffix("" if make is tiny_tokenizer else ">")  # Qwen's ">" and the word are one token


def test_an_answer_cut_after_its_word_is_read_and_the_cut_counted():
    wanted, reply = run_question(tiny_tokenizer(), PAIR, "<think>a</think><answer>yes", Finish.LENGTH)
    assert len(wanted) == 2
    assert reply.failures == {Violation.CUT, Violation.UNCLOSED_ANSWER}
    assert reply.probability == pytest.approx(1 / (1 + math.exp(0.5)))


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHAT_TEMPLATE, "assistant\n<think></think><answer>"),
        (R1, "<｜Assistant｜><think>\n</think><answer>"),
        (CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n"), "<think>\n\n</think>\n\n<answer>"),
    ],
)
def test_without_thinking_one_token_behind_an_empty_thought_is_all(template, end):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    (one,), reply = run_question(tokenizer, PAIR, thinking=False)
    assert tokenizer.decode(one.request.prompt_ids).endswith(end)
    assert "Document: second document" in tokenizer.decode(one.request.prompt_ids)
    assert [tokenizer.decode([token]) for token in one.request.allowed_ids] == ["y", "n"]
    assert (one.max_new_tokens, one.greedy, reply.tokens) == (1, True, 1)


def test_probabilities_differ_where_single_precision_calls_them_one():
    certain = [
        run_question(tiny_tokenizer(), PAIR, thinking=False, allowed=(0.0, odds))[1].probability for odds in (-20.0, -25.0)
    ]
    assert certain[0] < certain[1] < 1.0
    assert run_question(tiny_tokenizer(), PAIR, thinking=False, allowed=(-2000.0, 0.0))[1].probability >= 0.0


def test_a_tokenizer_with_equal_ids_for_yes_and_no_is_refused():
    tokenizer = tokenizer_of("words")
    core = Tokenizer(models.WordLevel(vocab={"<unk>": 0, "<|end|>": 1, "word": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    alike = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", unk_token="<unk>")
    assert type(alike) is type(tokenizer)
    with pytest.raises(UserError, match="encodes yes and no as the same ids"):
        run_question(alike, PAIR, thinking=False)


def test_a_list_is_read_leniently_with_its_thought():
    tokenizer = tiny_tokenizer()
    (whole,), reply = run_question(tokenizer, LIST, "<think> [1] is [2]. </think>\n<answer>[2], [1]</answer> or so")
    assert "[1] third document\n[2] first document\n" in tokenizer.decode(whole.request.prompt_ids)
    assert "Rank the numbered documents" in tokenizer.decode(whole.request.prompt_ids)
    assert reply.groups == ((1,), (0,))
    assert reply.thought == "[1] is [2]."
    assert reply.failures == {Violation.NOT_A_PERMUTATION} or not reply.failures
    assert reply.tokens == len("<think> [1] is [2]. </think>\n<answer>[2], [1]</answer> or so")


@pytest.mark.parametrize(
    ("prompted", "completion", "thought"),
    [
        (CHAT_TEMPLATE, "no tags", ""),
        (CHAT_TEMPLATE, "<think>open", "open"),
        (CHAT_TEMPLATE, "<think>open <answer>[1]", "open"),
        (CHAT_TEMPLATE, "<think>a</think>b</think><answer>x", "a</think>b"),
        (R1, "thought of a template</think><answer>[1] > [2]</answer>", "thought of a template"),
    ],
)
def test_the_thought_is_what_stands_in_its_tags(prompted, completion, thought):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = prompted
    assert run_question(tokenizer, LIST, completion)[1].thought == thought


def test_an_unreadable_answer_keeps_the_order_shown_with_a_failure():
    for completion in ("", "I cannot say", "<think>[2] > [1]</think>", "<answer></answer>", "\ud83d", "<answer>[7]</answer>"):
        _, reply = run_question(tiny_tokenizer(), LIST, completion.encode("utf-8", "replace").decode())
        assert reply.groups == ((0, 1),)
        assert reply.failures


def test_seeds_are_addressed_and_temperature_0_is_greedy():
    tokenizer = tiny_tokenizer()

    def wanted(**keys):
        job = Job(keys.pop("key", 0), keys.pop("query_id", "q1"), JOB.query, JOB.documents)
        question = keys.pop("question", LIST)
        return next(judge(tokenizer, **keys).reply_to(job, question))

    first = wanted(temperature=0.7)
    assert first == wanted(temperature=0.7)
    assert first.request.seed == wanted(temperature=0.7, key=9).request.seed
    others = [
        wanted(temperature=0.7, seed=1),
        wanted(temperature=0.7, query_id="q2"),
        wanted(temperature=0.7, question=Question((0, 2), Form.PERMUTATION)),
        wanted(temperature=0.7, question=Question((2, 0), Form.PERMUTATION, sample=1)),
    ]
    assert len({first.request.seed, *(other.request.seed for other in others)}) == 5
    assert (first.greedy, first.temperature) == (False, 0.7)
    assert wanted(temperature=0.0).greedy


def test_a_query_that_leaves_no_room_is_named():
    tokenizer = tiny_tokenizer()
    long = Job(0, "q/7", "word " * 400, ("a", "b"))
    with pytest.raises(UserError, match="query q/7: "):
        next(judge(tokenizer).reply_to(long, Question((0, 1), Form.PERMUTATION)))


@pytest.mark.parametrize(("given", "shown"), [("", "As trained."), ("Mine.", "Mine.")])
def test_the_models_training_prompt_is_used_unless_configured(given, shown):
    tokenizer = qwen_like()
    asked = Judge(tokenizer, RankingKeys(system_prompt=given), 1000, own_prompt=lambda form: "As trained.")
    wanted = next(asked.reply_to(JOB, Question((0, 1), Form.PERMUTATION)))
    assert shown in tokenizer.decode(wanted.request.prompt_ids)


@pytest.mark.parametrize("thinking", [True, False])
def test_a_model_that_gives_no_numbers_has_no_probability_and_it_is_a_failure(thinking):
    question, nothing = Question((0,), Form.YES_NO), (math.nan, math.nan)
    _, reply = run_question(
        tiny_tokenizer(), question, "<think>a</think><answer>yes</answer>", allowed=nothing, thinking=thinking
    )
    assert reply.probability is None
    assert Violation.BAD_ANSWER in reply.failures


def test_the_default_step_is_half_a_window():
    assert RankingKeys(window=10).step is None
    with pytest.raises(ValueError, match="step: 10 is not below window=10"):
        RankingKeys(window=10, step=10)

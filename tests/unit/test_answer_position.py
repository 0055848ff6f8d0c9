"""The answer position: words that begin alike are refused, and the tokens of a completion that form the answer are found."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r0.errors import UserError
from r0.records import Prompt
from r0.text.answer_position import AnswerPositions
from r0.text.completion import CompletionReader
from r0.text.template import Template
from tests.helpers import CHAT_TEMPLATE, tiny_tokenizer
from tests.unit.test_rerank_judge import qwen_like
from tests.unit.verdict_tokenizers import FAMILIES, tokenizer_of


def places(tokenizer) -> AnswerPositions:
    return AnswerPositions(Template(tokenizer), CompletionReader(tokenizer))


def beginning_alike() -> PreTrainedTokenizerFast:
    """Both words are written as a mark and what the word is: ``§`` ``yes``, ``§`` ``no``."""
    words = ["<unk>", "<|end|>", "<answer>", "</answer>", "§", "yes", "no"]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, "<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Replace("yes", "§yes"), normalizers.Replace("no", "§no")])
    core.pre_tokenizer = pre_tokenizers.Split("§", "isolated")
    core.add_special_tokens(["<answer>", "</answer>", "<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", unk_token="<unk>")


def test_words_that_begin_with_one_token_are_refused():
    tokenizer = beginning_alike()
    ids = tokenizer("<answer>yes", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<answer>", "§", "yes"]
    with pytest.raises(UserError, match="begins both yes and no with '§'"):
        places(tokenizer).check_tokenizer()


@pytest.mark.parametrize("family", [*FAMILIES, "qwen_like", "bytes"])
def test_tokenizers_that_distinguish_the_words_are_accepted(family):
    tokenizer = {"qwen_like": qwen_like, "bytes": tiny_tokenizer}.get(family, lambda: tokenizer_of(family))()
    tokenizer.chat_template = None if family == "words" else CHAT_TEMPLATE
    places(tokenizer).check_tokenizer()


@pytest.mark.parametrize("make", [tiny_tokenizer, qwen_like])
@pytest.mark.parametrize(
    ("completion", "word"),
    [
        ("<think>so</think><answer>yes</answer>", "yes"),
        ("<think>so <answer>no</answer></think><answer>\nno\n</answer> more", "\nno\n"),
        ("<think>so</think><answer>yes", "yes"),
        ("<think>so</think><answer></answer>", ""),
        ("<think>so <answer>no</answer></think>", ""),
        ("nothing", ""),
        ("", ""),
    ],
)
def test_exactly_the_tokens_of_the_answer_are_found(make, completion, word):
    tokenizer = make()
    ids = [*tokenizer(completion, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    found = places(tokenizer).word_tokens(ids)
    said = tokenizer.decode([ids[i] for i in found])
    assert word in said
    assert len(said) <= len(word) + 2  # a token may carry the tag's ">" or the next one's "<" besides
    before = tokenizer.decode(ids[: found.start])
    assert not word or before.rstrip(">").endswith("<answer")


@pytest.mark.parametrize("prefix", ["", "<think>\n"])
def test_the_position_after_a_thought_continues_the_sampled_ids(prefix):
    tokenizer = tiny_tokenizer()
    completion = "<think>é 😀</think>\n<answer>yes</answer>".removeprefix(prefix.strip())
    prompt = Prompt((5, 6, 7), prefix)
    ids = [*tokenizer(completion, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    place = places(tokenizer).after_completion(prompt, ids)
    kept = len(completion.rpartition("yes")[0].encode())
    assert place.context_ids == (5, 6, 7, *ids[:kept])  # one id a byte: nothing is written anew
    assert tokenizer.decode([place.yes_id, place.no_id]) == "yn"


@pytest.mark.parametrize(
    ("prefix", "completion", "written"),
    [
        ("<think>\n", "so</think>perhaps", "so</think><answer>"),
        ("<think>\n", "so it goes", "so it goes</think><answer>"),
        ("<think>\n", "so 😀", "so </think><answer>"),
        ("<think>\n\n</think>", "perhaps", "<answer>"),
        ("<think>\n\n</think>", "perhaps <answer>yes", "perhaps <answer>"),
        ("", "<answer>yes</answer>", "<answer>"),
        ("", "perhaps", "<think></think><answer>"),
    ],
)
def test_every_completion_has_a_position_behind_its_thought(prefix, completion, written):
    tokenizer = tiny_tokenizer()
    ids = tokenizer(completion, add_special_tokens=False).input_ids
    ids = ids[:-2] if "😀" in completion else [*ids, tokenizer.eos_token_id]  # a character that is cut in two
    place = places(tokenizer).after_completion(Prompt((5, 6, 7), prefix), ids)
    assert place.context_ids[:3] == (5, 6, 7)
    assert tokenizer.decode(place.context_ids[3:]) == written

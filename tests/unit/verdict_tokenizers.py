"""Tokenizers of the verdict tests, each of another family; all small, all trained here."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
CORPUS = [
    "<think>\nthe query asks word word é → 😀 the document says\n</think><answer>yes</answer>",
    "<think>word word word\n\n</think>\n<answer>\nno\n</answer> and more word text <thin </answer",
] * 5
FAMILIES = ["added_tags", "plain_tags", "metaspace", "byte_fallback", "words"]


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """``added_tags`` and ``plain_tags`` are byte-level (tags one token each, or merged with others); the others not."""
    core = _MAKERS[family]()
    if family in ("added_tags", "words"):
        core.add_tokens(TAGS)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def _byte_level() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    return core


def _metaspace() -> Tokenizer:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<|end|>", "<unk>"], show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    return core


def _byte_fallback() -> Tokenizer:
    """As SentencePiece models with byte fallback: what the vocabulary lacks is written as ``<0x..>`` tokens."""
    printable = map(chr, range(0x21, 0x7F))
    pieces = ["<|end|>", *(f"<0x{byte:02X}>" for byte in range(256)), *printable, "▁", "wo", "rd", "▁wo", "▁word"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("w", "o"), ("r", "d"), ("▁", "wo"), ("▁wo", "rd")]
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(["<|end|>"])
    return core


def _words() -> Tokenizer:
    """Whole words, decoded with a space between all tokens."""
    vocab = {word: index for index, word in enumerate(["<|end|>", "<unk>", "yes", "no", "maybe", "word", "text", "."])}
    core = Tokenizer(models.WordLevel(vocab=vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(["<|end|>"])
    return core


_MAKERS = {
    "added_tags": _byte_level,
    "plain_tags": _byte_level,
    "metaspace": _metaspace,
    "byte_fallback": _byte_fallback,
    "words": _words,
}

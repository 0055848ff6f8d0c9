"""r0-tiny's tokenizer: byte-level BPE in which every word of the built-in task is one token, and a ChatML template."""

from __future__ import annotations

import json
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from r0.data.builtin.pairs import DEMO_SYSTEM_PROMPT, builtin_rows
from r0.data.builtin.words import NOUNS, PLACES, RELATIONS, STATES
from r0.tools.tiny_rows import COMMON_WORDS, LONG_PROMPT, UNKNOWN_THOUGHT, TinyRow

VOCABULARY = 2048  # added tokens included
END, START, PAD = "<|im_end|>", "<|im_start|>", "<|pad|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
TASK_WORDS = (*NOUNS, *PLACES, *RELATIONS, *STATES)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _corpus() -> list[str]:
    """Text whose frequent words become tokens: the task's words most often, then the prompts' words, then common English."""
    rows = [f"Query: {row.query}\nDocument: {row.document}\n{row.think}" for row in builtin_rows(500, 0)]
    prompts = [DEMO_SYSTEM_PROMPT, LONG_PROMPT, UNKNOWN_THOUGHT]
    words = [f" {word}" * 400 for word in TASK_WORDS]
    return [*rows, *words, *(prompts * 40), *[f" {word}" * 10 for word in COMMON_WORDS], "yes no system user assistant " * 400]


def build_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the BPE merges and wrap them. Any UTF-8 text can be encoded; decoding gives it back."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    added = 3 + len(TAGS)
    trainer = trainers.BpeTrainer(
        vocab_size=size - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [START]})
    tokenizer.add_tokens(list(TAGS))  # not special: a decoder that skips special tokens must keep them
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 4096
    split = [word for word in TASK_WORDS if len(tokenizer.encode(f" {word}", add_special_tokens=False)) != 1]
    if split:
        raise RuntimeError(f"{len(split)} task words are more than one token, such as {split[:5]}; a larger vocabulary is needed")
    return tokenizer


def encode_row(tokenizer: PreTrainedTokenizerFast, row: TinyRow, rng: random.Random) -> tuple[list[int], int]:
    """Token ids of a row as the chat template lays it out, and the position of the first token to learn.

    Documents and queries are encoded as plain text. The system prompt's own tags are single tokens or plain text by a coin,
    because trainers differ in it.
    """
    plain = _plain_of(tokenizer)
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in (START, END))
    newline, ids = plain.encode("\n").ids, []
    if row.system is not None:
        text = f"system\n{row.system}"
        tagged = rng.random() < 0.6
        ids += [start, *(tokenizer.encode(text, add_special_tokens=False) if tagged else plain.encode(text).ids), end, *newline]
    pieces = (f"user\n{row.pieces[0]}", *row.pieces[1:]) if rng.random() < 0.7 else ("user\n", *row.pieces)
    for piece in (start, *pieces, end, *newline, start, "assistant\n"):
        ids += [piece] if isinstance(piece, int) else plain.encode(piece).ids
    prompt = len(ids)
    ids += [*tokenizer.encode(row.completion, add_special_tokens=False), end]
    return ids, 1 if row.whole else prompt


_PLAIN: dict[int, Tokenizer] = {}  # by id() of the tokenizer


def _plain_of(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    if id(tokenizer) not in _PLAIN:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        _PLAIN[id(tokenizer)] = Tokenizer.from_str(json.dumps({**backend, "added_tokens": []}))
    return _PLAIN[id(tokenizer)]

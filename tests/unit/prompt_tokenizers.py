"""Small tokenizers of the kinds that language models have, trained here in milliseconds."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The river shapes the harbor and the tax. A document answers a query: yes or no.",
    "<think> </think> <answer> query document think answer < > / | im_start im_end",
    "user\nQuery: what is it\nDocument: a text, {{ messages }}",
    "Ünïcode wörds, naïve café, 日本語 text, user assistant system. It's 3 < 4 and 5 > 2?",
] * 20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% else %}"
    "<｜User｜>{{ m['content'] | trim }}{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
SWITCHED = (  # like Qwen3.5: no thought unless it is asked for
    CHATML.removesuffix("{% endif %}")
    + "{% if enable_thinking is defined and enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DATED = "{{ 'Today is ' ~ strftime_now('%d %b %Y') ~ '.\n' }}" + CHATML  # like Llama 3 and gpt-oss
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[INST] {{ m['content'] }} [/INST]{% endfor %}"
)


def byte_level(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Like Qwen and DeepSeek: byte-level BPE, NFC, special and ordinary added tokens."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    return _wrapped(backend, template, "<|im_start|>", "<|im_end|>")


def qwen(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose words are Qwen's: single digits, and punctuation joined to the line breaks behind it."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    lists = ["Query: what is it\n[1] A text.\n[2] It is 3.\n[10] The river.\nRank the 3 documents."] * 20
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*CORPUS, *lists], trainer)
    return _wrapped(backend, template, "<|im_start|>", "<|im_end|>")


def unigram(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Like T5 and older Llamas: Unigram with Metaspace; control and unknown pieces are in the model's own vocabulary."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>", "<think>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _wrapped(backend, template, "<s>", "</s>", unk_token="<unk>")


def word_level(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Words and an unknown-word token, lower case, accents stripped."""
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", "[MASK]"], show_progress=False)
    backend.train_from_iterator([*CORPUS, "Query: Document: [MASK] </think>"], trainer)
    return _wrapped(backend, template, "[BOS]", "[EOS]", unk_token="[UNK]")


def llama(template: str | None = INST) -> PreTrainedTokenizerFast:
    """Like Llama 2: BPE with byte fallback, where a normalizer puts white space in front of a text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *bytes_], initial_alphabet=["▁"], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    own = Tokenizer.from_str(_without_added(backend))
    own.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(own, template, "<s>", "</s>", unk_token="<unk>")


def _without_added(backend: Tokenizer) -> str:
    import json

    return json.dumps({**json.loads(backend.to_str()), "added_tokens": []})


def _wrapped(backend: Tokenizer, template: str | None, bos: str, eos: str, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<｜User｜>", "<｜Assistant｜>", "[INST]"]})
    ordinary = ["<|im_end|>", "</think>", "<tool_call>", "   ", "harbor", "日本"]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ordinary])
    if "<think>" not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    tokenizer.chat_template = template
    return tokenizer


KINDS = {"byte_level": byte_level, "unigram": unigram, "word_level": word_level, "llama": llama}

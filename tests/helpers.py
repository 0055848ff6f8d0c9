"""Tiny random models that the tests share."""

from __future__ import annotations

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tiny_tokenizer():
    """A byte-level tokenizer: ids 0 to 2 are SPECIAL, 3 to 258 the bytes; the end of sequence is ``<|im_end|>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(
    path: str | Path,
    arch: str = "qwen2",
    tied: bool = True,
    vocab: int = 320,
    hidden: int = 128,
    layers: int = 2,
    positions: int = 2048,
    seed: int = 0,
    scale: float = 0.2,
) -> str:
    """Save a random model and its tokenizer in ``path``; returns the path. ``scale`` is the spread of the initial weights:
    0.2 gives distributions far from uniform, so that wrong weights show in log-probabilities.

    Args:
        arch: qwen2, qwen3 or llama.
        tied: whether input and output embeddings are one tensor.
        vocab: rows of the embedding, at least the tokenizer's 259.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        arch,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,  # vLLM on a CPU wants at least 32
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        initializer_range=scale,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # initialised to zero, which would hide a bias that is not synced
                parameter.normal_(0.0, scale)
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


def rewrite_model(path: str | Path, change=None, config: dict | None = None) -> str:
    """Change a saved model: its tensors by ``change`` (a function from the dictionary of tensors to another), and keys of its
    config.json; returns the path."""
    import json

    from safetensors.torch import load_file, save_file

    file, settings = Path(path) / "model.safetensors", Path(path) / "config.json"
    if change is not None:
        save_file(change(load_file(file)), file, {"format": "pt"})
    if config:
        settings.write_text(json.dumps(json.loads(settings.read_text()) | config))
    return str(path)

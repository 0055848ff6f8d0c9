"""A tiny random model of every architecture for which r0 has a preset, with a template and a tokenizer of the real one's shape;
and of those without a preset that docs/models.md lists, with one tokenizer for all.

Weights are random and vocabularies small; what is as in the real model is what r0's code meets: the architecture and its
configuration, control tokens, whether they are special, what a template puts where, who opens ``<think>``, how a pair is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCALE = 0.2  # of the initial weights: distributions far from uniform, so that wrong weights show
HIDDEN = 128
POSITIONS = 2048

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A thought of an earlier turn is dropped; thinking is switched off by an empty thought in the prompt.
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" + CHATML
)
R1 = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = m['content'] %}"
    "{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "<｜User｜>{{ m['content'] }}{% elif m['role'] == 'assistant' %}"
    "<｜Assistant｜>{{ m['content'].split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
LLAMA = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@dataclass(frozen=True)
class Architecture:
    """What ``build`` makes of a preset's model. ``settings`` are of the transformers configuration."""

    model_type: str
    tokenizer: Callable[[], Any]
    settings: dict[str, Any]
    head: str = "causal"  # or "score", "masked"
    wrapper: str = ""  # model type of the multimodal model around it
    embedding: float = 1.0  # factor of the initial embedding


def decoder_tokenizer(
    template: str, special: Sequence[str], added: Sequence[str] = (), bos: str | None = None, eos: str = ""
) -> Any:
    """Byte-level, ``yes`` and ``no`` one token each; ``special`` and ``added`` are its control tokens, the first for padding."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ye", "yes", "no"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("y", "e"), ("ye", "s"), ("n", "o")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(special))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=special[0])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    tokenizer.chat_template = template
    tokenizer.model_max_length = POSITIONS
    return tokenizer


def qwen(template: str, added: Sequence[str] = ()) -> Callable[[], Any]:
    """Qwen's control tokens; in Qwen 3 the think tags are ordinary added tokens."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return lambda: decoder_tokenizer(template, special, added, eos="<|im_end|>" if added else "<|endoftext|>")


def distilled() -> Any:
    """DeepSeek-R1's control tokens around Qwen 2's vocabulary."""
    special = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
    added = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
    return decoder_tokenizer(R1, special, added, bos=special[0], eos=special[1])


def llama() -> Any:
    """Llama 3's control tokens."""
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return decoder_tokenizer(LLAMA, special, bos=special[0], eos="<|eot_id|>")


def xlm_roberta() -> Any:
    """Unigram pieces; a pair is ``<s> query </s></s> document </s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!<>/|[]()"]
    core = Tokenizer(models.Unigram([*((token, 0.0) for token in special), *letters, ("▁the", -2.0)], unk_id=3))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>", model_max_length=512, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def bert() -> Any:
    """Word pieces of lower-case letters; a pair is ``[CLS] query [SEP] document [SEP]`` in two segments."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!<>/|[]()"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    core = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]",
        model_max_length=512, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


GROUPED = {"num_key_value_heads": 2, "head_dim": HIDDEN // 4, "max_position_embeddings": POSITIONS}
DENSE = {  # Llama 4 without experts, as MobileLLM-R1 has it
    "intermediate_size_mlp": 2 * HIDDEN, "num_local_experts": 0, "num_experts_per_tok": 0, "interleave_moe_layer_step": 0,
    "moe_layers": [], "no_rope_layers": [1, 1], "attention_chunk_size": POSITIONS, "attn_temperature_tuning": False,
    "use_qk_norm": True, "tie_word_embeddings": True,
}  # fmt: skip
THINK = ("<think>", "</think>")

ARCHITECTURES = {  # by the name of the preset
    "deepseek-r1-distill-qwen-1.5b": Architecture("qwen2", distilled, {**GROUPED, "tie_word_embeddings": False}),
    "qwen3-0.6b": Architecture("qwen3", qwen(QWEN3, THINK), {**GROUPED, "tie_word_embeddings": True}),
    "qwen3-reranker-0.6b": Architecture("qwen3", qwen(QWEN3, THINK), {**GROUPED, "tie_word_embeddings": True}),
    "qwen3-reranker-8b": Architecture("qwen3", qwen(QWEN3, THINK), {**GROUPED, "tie_word_embeddings": False}),
    "qwen2.5-1.5b": Architecture("qwen2", qwen(QWEN25), {**GROUPED, "tie_word_embeddings": True}),
    "mobilellm-r1-950m": Architecture("llama4_text", llama, {**GROUPED, **DENSE}),
    "bge-reranker-v2-m3": Architecture(
        "xlm-roberta", xlm_roberta, {"max_position_embeddings": 514, "type_vocab_size": 1}, "score"
    ),
    "bert-base-uncased": Architecture("bert", bert, {"max_position_embeddings": 512}, "masked"),
}


WINDOW = 32  # tokens; shorter than every prompt
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
ROPE = {
    kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in (("sliding_attention", 1e4), ("full_attention", 1e6))
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
UNTIED = {**GROUPED, "tie_word_embeddings": False}
GEMMA = {**GROUPED, **MIXED, "query_pre_attn_scalar": HIDDEN // 4, "tie_word_embeddings": True}
PLAIN = qwen(CHATML, THINK)
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip

SCALES = {"embedding_multiplier": 12.0, "attention_multiplier": 1 / 32, "residual_multiplier": 0.22, "logits_scaling": 8.0}

LFM2 = {
    "conv_dim": HIDDEN,
    "conv_dim_out": HIDDEN,
    "block_dim": HIDDEN,
    "block_ff_dim": 2 * HIDDEN,
}  # as released; vLLM reads them

OTHERS = {  # by the name in docs/models.md
    "llama": Architecture("llama", PLAIN, UNTIED),
    "qwen3-moe": Architecture(
        "qwen3_moe", PLAIN, {**UNTIED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": HIDDEN}
    ),
    "qwen3.5": Architecture("qwen3_5_text", PLAIN, {**UNTIED, **LINEAR}),
    "mistral": Architecture("mistral", PLAIN, {**UNTIED, "sliding_window": WINDOW}),
    "mixtral": Architecture("mixtral", PLAIN, {**UNTIED, **EXPERTS}),
    "gpt-oss": Architecture("gpt_oss", PLAIN, {**UNTIED, **EXPERTS, **MIXED}),
    "gemma-2": Architecture("gemma2", PLAIN, GEMMA, embedding=0.3),  # scaled by √width, and tied: else it repeats every token
    "gemma-3": Architecture("gemma3_text", PLAIN, {**GEMMA, "rope_parameters": ROPE}, embedding=0.3),
    "gemma-3-multimodal": Architecture("gemma3_text", PLAIN, {**GEMMA, "rope_parameters": ROPE}, wrapper="gemma3", embedding=0.3),
    "phi-3": Architecture("phi3", PLAIN, UNTIED),
    "smollm3": Architecture("smollm3", PLAIN, {**GROUPED, "tie_word_embeddings": True, "no_rope_layers": [1, 0]}),
    "olmo-2": Architecture("olmo2", PLAIN, UNTIED),
    "granite": Architecture("granite", PLAIN, {**GROUPED, **SCALES, "tie_word_embeddings": True}),
    "gpt-neox": Architecture("gpt_neox", PLAIN, {"max_position_embeddings": POSITIONS, "tie_word_embeddings": False}),
    "opt": Architecture(
        "opt", PLAIN, {"max_position_embeddings": POSITIONS, "ffn_dim": 2 * HIDDEN, "word_embed_proj_dim": HIDDEN, "dropout": 0.1}
    ),
    "lfm2": Architecture(
        "lfm2",
        PLAIN,
        {**UNTIED, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False, **LFM2},
    ),
    "modernbert": Architecture("modernbert", bert, {"max_position_embeddings": 512, "global_attn_every_n_layers": 2}, "masked"),
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}


def build(name: str, path: str | Path, head: str = "", num_labels: int = 1) -> str:
    """Save the tiny model of preset ``name`` in ``path``; returns the path.

    Args:
        name: a key of ``ARCHITECTURES`` or ``OTHERS``.
        path: a folder that is made.
        head: ``causal``, ``masked`` or ``score``, if another than the real model's.
        num_labels: scores of a score head.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

    one = (ARCHITECTURES | OTHERS)[name]
    head = head or one.head
    tokenizer = one.tokenizer()
    torch.manual_seed(0)
    heads = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "score": AutoModelForSequenceClassification}
    settings = {
        "vocab_size": 320,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": SCALE,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **({"num_labels": num_labels} if head == "score" else {}),
        **one.settings,
    }
    config = AutoConfig.for_model(one.model_type, **settings)
    if one.wrapper:
        config = AutoConfig.for_model(
            one.wrapper, text_config=config, vision_config=VISION, initializer_range=SCALE, mm_tokens_per_image=4,
            image_token_index=300, boi_token_index=301, eoi_token_index=302, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
    model = heads[head].from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):  # initialised to zero, which would hide a bias that is lost
                parameter.normal_(0.0, SCALE)
        model.get_input_embeddings().weight.mul_(one.embedding)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)

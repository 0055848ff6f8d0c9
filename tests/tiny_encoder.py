"""A tiny random BERT with a tokenizer of bytes, and a multi-vector encoder on it, for tests of what encoders score."""

from __future__ import annotations

from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tiny_bert(path: str | Path, positions: int = 512, seed: int = 0) -> str:
    """Save an encoder without a score head, and its tokenizer, in ``path``; returns the path."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=320, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=positions, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def tiny_multi_vector(
    path: str | Path, seed: int = 0, dim: int = 16, expansion: bool = True, similarity: str | None = None, positions: int = 512
) -> str:
    """Save a random multi-vector encoder, built as ColBERT is: queries filled up to 16 tokens, documents without punctuation."""
    import string

    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    backbone = tiny_bert(Path(path) / "backbone", positions, seed)
    torch.manual_seed(seed)
    tokens = {"module_input_name": "token_embeddings"}
    filled = {"strategy": "min", "attend": False, "length": 16} if expansion else None
    modules = [
        Transformer(backbone, query_expansion=filled, document_length=200),
        Dense(64, dim, bias=False, activation_function=torch.nn.Identity(), **tokens),
        MultiVectorMask(skiplist_words=list(string.punctuation)),
        Normalize(**tokens),
    ]
    prompts = {"query": "query: ", "document": "passage: "}
    model = MultiVectorEncoder(modules=modules, prompts=prompts, similarity_fn_name=similarity, device="cpu")
    model.save_pretrained(str(Path(path) / "model"))
    return str(Path(path) / "model")

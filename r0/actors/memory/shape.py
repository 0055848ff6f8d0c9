"""The sizes of a transformer and its number of weights, from its ``config.json``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

ENCODERS = ("bert", "xlm-roberta", "roberta")
BIASED = ("qwen2",)  # decoders with biases on queries, keys and values
NORMED = ("qwen3",)  # decoders with learned norms of queries and keys


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder with Llama's layout (Qwen2, Qwen3, Llama, …) or an encoder with BERT's layout."""

    model_type: str
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool  # whether the output head is the input embedding
    positions: int  # position embeddings of an encoder
    token_types: int  # of an encoder
    stored: int | None = None  # number of weights in the model's files, if known

    @classmethod
    def of(cls, model_config: Mapping[str, Any], stored: int | None = None) -> ModelShape:
        """The shape described by a ``config.json``.

        Args:
            model_config: its content.
            stored: number of weights in the model's files; None: computed from the shape.

        Raises:
            KeyError: it describes no transformer of these layouts.
        """
        config = model_config.get("text_config") or model_config
        heads = config["num_attention_heads"]
        return cls(
            model_type=str(config.get("model_type", "")),
            vocab=config["vocab_size"],
            hidden=config["hidden_size"],
            # Llama 4's text model without experts stores the width of its layers under another name.
            intermediate=config.get("intermediate_size_mlp") or config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            tied=bool(config.get("tie_word_embeddings", False)),
            positions=config.get("max_position_embeddings") or 0,
            token_types=config.get("type_vocab_size") or 0,
            stored=stored or None,
        )

    @property
    def encoder(self) -> bool:
        """Whether the model has BERT's layout."""
        return self.model_type in ENCODERS

    @property
    def attention_width(self) -> int:
        """Elements of all query heads per token."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Elements of all key heads per token."""
        return self.kv_heads * self.head_dim

    @property
    def normed(self) -> bool:
        """Whether queries and keys are normalised."""
        return self.model_type in NORMED

    @property
    def weights(self) -> int:
        """Number of weights, a tied output head counted once: as stored, or else computed from the shape."""
        return self.stored or self.counted

    @property
    def counted(self) -> int:
        """Number of weights computed from the shape."""
        linears = sum(width_in * width_out for width_in, width_out in self.linears().values())
        if self.encoder:
            layer = linears + 4 * self.hidden + self.intermediate + self.hidden + 4 * self.hidden  # biases, two norms
            embeddings = (self.vocab + self.positions + self.token_types + 2) * self.hidden
            return embeddings + self.layers * layer + (self.hidden + 1) * self.hidden  # a pooler, or a score head's first layer
        layer = linears + 2 * self.hidden
        if self.model_type in BIASED:
            layer += self.attention_width + 2 * self.key_width
        if self.normed:
            layer += 2 * self.head_dim
        return self.layers * layer + self.hidden + self.embedding * (1 if self.tied else 2)

    @property
    def embedding(self) -> int:
        """Weights of the input embedding, the largest tensor."""
        return self.vocab * self.hidden

    @property
    def critic(self) -> int:
        """Weights of a critic on the same backbone, with a scalar head and bias instead of the output head."""
        return self.weights - (0 if self.tied else self.embedding) + self.hidden + 1

    def linears(self) -> dict[str, tuple[int, int]]:
        """Input and output widths of a layer's linear modules, by name."""
        hidden, inner = self.hidden, self.intermediate
        if self.encoder:
            square = dict.fromkeys(("query", "key", "value", "attention.output.dense"), (hidden, hidden))
            return square | {"intermediate.dense": (hidden, inner), "output.dense": (inner, hidden)}
        return {
            "q_proj": (hidden, self.attention_width),
            "k_proj": (hidden, self.key_width),
            "v_proj": (hidden, self.key_width),
            "o_proj": (self.attention_width, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    def adapters(self, rank: int, targets: Collection[str] | None) -> int:
        """Weights of LoRA adapters of rank ``rank`` on the named modules (None: on all linear layers)."""
        chosen = [size for name, size in self.linears().items() if targets is None or name.rpartition(".")[2] in targets]
        return self.layers * rank * sum(width_in + width_out for width_in, width_out in chosen)

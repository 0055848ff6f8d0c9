"""Activation memory of a forward and backward pass over a learner row.

The coefficients count the tensors that transformers' decoder layers and r0's attention save for the backward pass;
tests/unit/test_memory.py verifies them. Norms compute in float32 in either dtype of the weights.

Dimensions: T tokens of a row, N positions of a chunk of the output head, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from r0.actors.memory.shape import ModelShape


@dataclass(frozen=True)
class RowSize:
    """The largest row of an update."""

    tokens: int  # T
    prompt: int  # longest prompt
    completion: int  # longest completion
    group: int  # completions that share a prompt in one row

    @classmethod
    def of(cls, budget: int, prompt: int, completion: int, group: int, shared: bool) -> RowSize:
        """The largest row that ``rows.py`` makes for a budget of tokens."""
        if not shared:
            return cls(max(budget, prompt + completion), prompt, completion, 1)
        room = budget if prompt + completion <= budget else prompt + max(completion, budget // 2)
        held = max(1, min(group, (room - prompt) // completion))
        return cls(room, prompt, completion, held)

    @property
    def repeats(self) -> float:
        """Keys and values that the attention reads, divided by those of the row: each completion has a copy of the prompt's."""
        one = self.prompt + self.group * self.completion
        return self.group * (self.prompt + self.completion) / one if self.group > 1 else 0.0


@dataclass(frozen=True)
class Activations:
    """Bytes: ``saved`` by all layers for the backward pass; ``head`` for the logits of a chunk; ``layer`` for the temporary
    tensors of one layer's backward pass."""

    saved: int
    head: int
    layer: int

    @property
    def peak(self) -> int:
        """The maximum; logits and a layer's temporary tensors never exist at the same time."""
        return self.saved + max(self.head, self.layer)


def layer_bytes(shape: ModelShape, row: RowSize, width: int) -> float:
    """Bytes per token that a decoder layer saves for its backward pass; ``width`` is 2 (bf16) or 4."""
    norm = 8 if width == 2 else 12  # bytes per input element of an RMSNorm: in float32, normalised, and the output
    heads, keys = shape.attention_width, shape.key_width
    saved: float = 2 * norm * shape.hidden + 4 * width * shape.intermediate
    saved += 4.2 * width * heads + (2.7 + 2 * row.repeats) * width * keys
    return saved + (norm - 2 if width == 2 else norm - 4) * (heads + keys) * shape.normed


def activations(
    shape: ModelShape, row: RowSize, bf16: bool, checkpointing: bool, logits: int, temperature: float = 1.0
) -> Activations:
    """Bytes of one row.

    Args:
        shape: of the model.
        row: the largest row.
        bf16: compute in bf16, else in float32.
        checkpointing: layers save their input only and are recomputed in the backward pass.
        logits: N, positions whose logits exist at the same time; 0 for a critic.
        temperature: divides the logits, in a copy unless it is 1.
    """
    width = 2 if bf16 else 4
    layer = layer_bytes(shape, row, width)
    saved = shape.layers * (width * shape.hidden if checkpointing else layer)
    norm = (8 if bf16 else 12) * shape.hidden  # of the final norm
    # Gradients of a layer's widest part; with checkpointing, also everything that the layer saves.
    backward = 4 * width * shape.intermediate + (layer if checkpointing else 0)
    # Tensors of a chunk, all in float32: logits, scaled logits, log-probabilities, probabilities, their product.
    copies = 4 + (4 if temperature != 1.0 else 0) + 12
    head = logits * shape.vocab * copies
    gradient = 2 * width * shape.embedding if logits else 0  # of the head's weights: of one chunk, and the sum
    return Activations(int((saved + norm) * row.tokens), head + gradient, int(backward * row.tokens) + gradient // 2)

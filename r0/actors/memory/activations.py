"""What a forward and backward pass of a learner row holds beside the weights.

Coefficients are the tensors that transformers' decoder layers and r0's attention save for the backward pass, counted in
tests/unit/test_memory.py. The norms compute in float32 whatever the weights are.

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
        """Keys and values that the attention reads, over those of the row: each completion has a copy of the prompt's."""
        one = self.prompt + self.group * self.completion
        return self.group * (self.prompt + self.completion) / one if self.group > 1 else 0.0


@dataclass(frozen=True)
class Activations:
    """Bytes: ``kept`` by all layers for the backward pass; ``head``, the logits of a chunk; ``layer``, what the backward pass of
    one layer needs beside."""

    kept: int
    head: int
    layer: int

    @property
    def peak(self) -> int:
        """The head's work and a layer's backward pass do not meet."""
        return self.kept + max(self.head, self.layer)


def layer_bytes(shape: ModelShape, row: RowSize, width: int) -> float:
    """Bytes a token that a decoder layer saves for its backward pass; ``width`` is 2 (bf16) or 4."""
    norm = 8 if width == 2 else 12  # a number that an RMSNorm sees: in float32, normalised, and the output
    heads, keys = shape.attention_width, shape.key_width
    saved: float = 2 * norm * shape.hidden + 4 * width * shape.intermediate
    saved += 4.2 * width * heads + (2.7 + 2 * row.repeats) * width * keys
    return saved + (norm - 2 if width == 2 else norm - 4) * (heads + keys) * shape.normed


def activations(
    shape: ModelShape, row: RowSize, bf16: bool, checkpointing: bool, logits: int, temperature: float = 1.0
) -> Activations:
    """Bytes of a row of a policy.

    Args:
        shape: of the model.
        row: the largest row.
        bf16: computed in bf16, else in float32.
        checkpointing: layers keep their input only and are computed again in the backward pass.
        logits: N, positions whose logits exist at one time; 0 for a critic.
        temperature: logits are divided by it, in a copy unless it is 1.
    """
    width = 2 if bf16 else 4
    layer = layer_bytes(shape, row, width)
    kept = shape.layers * (width * shape.hidden if checkpointing else layer)
    norm = (8 if bf16 else 12) * shape.hidden  # the last one's
    # Gradients of a layer's widest part; with checkpointing beside all that the layer saves.
    backward = 4 * width * shape.intermediate + (layer if checkpointing else 0)
    # A chunk: logits, in float32, divided by the temperature, log-probabilities, probabilities, their product.
    copies = (width if bf16 else 0) + 4 + (4 if temperature != 1.0 else 0) + 12
    head = logits * shape.vocab * copies
    gradient = 2 * width * shape.embedding if logits else 0  # of the head's weights: one chunk's and the sum
    return Activations(int((kept + norm) * row.tokens), head + gradient, int(backward * row.tokens) + gradient // 2)

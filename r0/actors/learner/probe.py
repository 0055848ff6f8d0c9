"""Checks before training whether a model supports shared-prefix rows, by computing a small row with and without them.

Rounding must not decide the result. In bf16 two correct kernels differ by up to half a nat after 28 layers, so the model is
compared in float32, on the CPU, and with the fewest layers that include every kind. The kernels of the learner's device are
compared separately on random queries, keys and values, where a wrong mask differs by far more than rounding.

Dimensions: T tokens of a row, H query heads, K key heads, D head width.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from r0.actors.learner import attention
from r0.actors.learner.attention import UnsupportedAttention
from r0.actors.learner.policy import PolicyModel, decoder_of, run_row
from r0.actors.learner.rows import Layout, Row, padded_rows, shared_rows
from r0.errors import UserError
from r0.records import TrainCompletion, TrainGroup

ABSOLUTE, RELATIVE = 1e-4, 1e-5
"""Tolerated float32 differences at temperature 1: in nats, or relative to the largest logit, whichever is larger."""
SHORT_WINDOW = 4
"""Tokens; the probe's sequences have 8 and 9, and its prompt 5."""
KERNEL_TOLERANCE = 0.1
"""Relative to the largest value; bf16 rounds by 0.004, and a wrong mask changes outputs by about their own size."""


def prefix_sharing_problem(model: Any, temperature: float, device: torch.device, wanted: bool = True) -> str:
    """Why rows must be padded; empty if prefixes can be shared. Rank 0 checks, and all ranks get its result.

    Args:
        model: on the CPU, in the learner's dtype.
        temperature: of the sampling distribution.
        device: of the training.
        wanted: whether prefixes are to be shared; if not, only the output head is checked.

    Raises:
        UserError: see ``probe``; on all ranks.
    """
    many = dist.is_initialized() and dist.get_world_size() > 1
    answer = ["", ""]  # the reason for padding, and the error if the model cannot be used at all
    if not many or dist.get_rank() == 0:
        try:
            answer[0] = probe(model, temperature, wanted) or (kernel_difference(model, device) if wanted else "")
        except UserError as error:
            answer[1] = str(error)
    if many:
        dist.broadcast_object_list(answer, src=0)
    if answer[1]:
        raise UserError(answer[1])
    return answer[0]


def probe(model: Any, temperature: float, wanted: bool = True) -> str:
    """Why ``model`` (on the CPU) cannot share prefixes; empty if it can.

    Compares padded rows with the model's logits and, if ``wanted``, a shared-prefix row with the padded rows.

    Raises:
        UserError: the model changes the logits of its output head (soft-capping), which r0 does not support; or they
            are not finite.
    """
    tokens = [(7 * i + 3) % min(model.config.get_text_config().vocab_size, 997) for i in range(12)]
    group = _group(tokens[:5], tokens[5:8], tokens[8:12])
    module = PolicyModel(model, temperature, chunk=4).eval()
    plain = model.config._attn_implementation  # torch's kernels, or arithmetic where the model cannot use them
    with torch.no_grad(), _first_layers_in_float32(model), _short_windows(model):
        padded = _by_item(module, padded_rows([group], 1), group)
        logits = model(torch.tensor([tokens[:8]]), use_cache=False).logits[0, 4:7].float() / temperature
        own = logits.log_softmax(-1).gather(1, torch.tensor(tokens[5:8])[:, None])[:, 0]
        # A temperature below 1 makes logits larger, and differences of rounding with them.
        tolerance = max(ABSOLUTE / min(temperature, 1.0), RELATIVE * float(logits.abs().max()))
        worst = float((own - padded[0]).abs().max())
        if not math.isfinite(worst):
            raise UserError(f"{type(model).__name__} gives log-probabilities that are not finite; check its config.json")
        if worst > tolerance:
            raise UserError(f"{type(model).__name__} changes its logits after the output head, which r0's learner does not do")
        if not wanted:
            return ""
        try:
            model.set_attn_implementation(attention.NAME)
            shared = _by_item(module, shared_rows([group], 64), group)
        except (UnsupportedAttention, ValueError, TypeError) as error:
            return str(error)
        finally:
            model.set_attn_implementation(plain)
    worst = max(float((a - b).abs().max()) for a, b in zip(padded, shared, strict=True))
    return "" if worst <= tolerance else f"log-probabilities differ by {worst:.2g} nats from those of padded rows"


@contextlib.contextmanager
def _first_layers_in_float32(model: Any) -> Iterator[None]:
    """In the block, the model has only its first layers, with float32 weights; afterwards it is restored bit by bit."""
    decoder: Any = decoder_of(model)
    layers = getattr(decoder, "layers", None)
    if isinstance(layers, nn.ModuleList):
        decoder.layers = layers[: _layers_of_every_kind(model, layers)]
    tensors = [tensor for tensor in itertools.chain(model.parameters(), model.buffers()) if tensor.is_floating_point()]
    dtypes = [tensor.dtype for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in zip(tensors, dtypes, strict=True):
            tensor.data = tensor.data.to(dtype)
        if layers is not None:
            decoder.layers = layers


@contextlib.contextmanager
def _short_windows(model: nn.Module) -> Iterator[None]:
    """Inside, windows and chunks of attention are shorter than the probe's sequences, so that they are compared too."""
    owners: dict[int, Any] = {}
    for module in model.modules():
        owners |= {id(one): one for one in (module, getattr(module, "config", None)) if one is not None}
    changed = [
        (one, name, vars(one)[name])
        for one in owners.values()
        for name in ("sliding_window", "attention_chunk_size")
        if isinstance(vars(one).get(name), int)
    ]
    for one, name, _ in changed:
        setattr(one, name, SHORT_WINDOW)
    try:
        yield
    finally:
        for one, name, value in changed:
            setattr(one, name, value)


def _layers_of_every_kind(model: Any, layers: nn.ModuleList) -> int:
    """The number of first layers that include every kind (by modules and by type in the configuration); at least two."""
    types = getattr(model.config.get_text_config(), "layer_types", None) or [""] * len(layers)
    kinds = [(kind, *(type(part).__name__ for part in layer.modules())) for kind, layer in zip(types, layers, strict=False)]
    return max(2, *(kinds.index(kind) + 1 for kind in kinds))


def kernel_difference(model: Any, device: torch.device) -> str:
    """How outputs and gradients of the shared-prefix attention on ``device``, with the model's dtype and heads, differ from plain
    float32 attention. Empty if only by rounding."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    tokens = list(range(11))
    groups = [_group(tokens[:5], tokens[:3], tokens[:4]), _group(tokens[:4], tokens[:3], tokens[:3]), _group(tokens[:6], [1])]
    (row,) = shared_rows(groups, 64, device)
    layout = row.layout
    assert layout is not None  # for the type checker: the row shares prefixes
    random = torch.Generator().manual_seed(0)
    total = row.tokens
    drawn = [torch.randn(1, h, total, width, generator=random) for h in (heads, key_heads, key_heads, heads)]
    inputs = [x.to(model.dtype) for x in drawn[:3]]  # queries, keys, values
    weight_1THD = drawn[3].transpose(1, 2)
    q, k, v = leaves = [x.to(device).requires_grad_() for x in inputs]
    try:
        out, _ = attention.shared_prefix_attention(nn.Module(), q, k, v, attention_mask=None, r0_layout=layout)
        got = [out, *torch.autograd.grad((out.float() * weight_1THD.to(device)).sum(), leaves)]
    except RuntimeError as error:
        return f"the attention kernels of {device} fail: {str(error).splitlines()[0]}"
    q, k, v = leaves = [x.float().requires_grad_() for x in inputs]
    out = _plain_attention(q, k, v, layout, total)
    want = [out, *torch.autograd.grad((out * weight_1THD).sum(), leaves)]
    pairs = [(a.detach().float().cpu(), b.detach()) for a, b in zip(got, want, strict=True)]
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return "" if worst <= KERNEL_TOLERANCE else f"attention on {device} differs by {worst:.0%} from plain arithmetic"


def _plain_attention(
    q_1HTD: torch.Tensor, k_1KTD: torch.Tensor, v_1KTD: torch.Tensor, layout: Layout, total: int
) -> torch.Tensor:
    """[1, T, H, D] with an explicit mask: a token attends to earlier tokens of its span, except those of other completions."""
    part_T = torch.full((total,), -1)
    span_T = torch.zeros(total, dtype=torch.long)
    for number, span in enumerate(layout.spans):
        first = span.start + span.prompt
        span_T[span.start :] = number
        part_T[span.start : first] = -1
        for completion, length in enumerate(span.lengths):
            part_T[first : first + length] = completion
            first += length
    seen_TT = torch.ones(total, total, dtype=torch.bool).tril() & (span_T[:, None] == span_T)
    seen_TT &= (part_T == -1) | (part_T[:, None] == part_T)
    repeats = q_1HTD.shape[1] // k_1KTD.shape[1]
    k_1HTD, v_1HTD = k_1KTD.repeat_interleave(repeats, 1), v_1KTD.repeat_interleave(repeats, 1)
    scores = (q_1HTD @ k_1HTD.transpose(2, 3)) / math.sqrt(q_1HTD.shape[-1])
    return (scores.masked_fill(~seen_TT, float("-inf")).softmax(-1) @ v_1HTD).transpose(1, 2)


def _group(prompt: list[int], *completions: list[int]) -> TrainGroup:
    return TrainGroup(tuple(prompt), tuple(TrainCompletion(tuple(c), (0.0,) * len(c), 0.0, 0) for c in completions))


def _by_item(module: PolicyModel, rows: list[Row], group: TrainGroup) -> list[torch.Tensor]:
    """Log-probabilities of each completion of ``group``, in order."""
    found: dict[int, torch.Tensor] = {}
    for row in rows:
        parts = run_row(module, row)[0].split([len(group.completions[sample].token_ids) for _, sample in row.items])
        found |= {sample: part for (_, sample), part in zip(row.items, parts, strict=True)}
    return [found[sample] for sample in range(len(group.completions))]

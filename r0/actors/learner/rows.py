"""Groups of completions as learner rows: a prompt is computed once for all its completions, without padding.

A row is ``[prompt][c1]…[cG]``, group after group, up to a token budget. The position ids of every completion continue those of
its prompt, and ``attention.py`` lets a completion attend to its prompt and itself only. Padded rows, with one completion per
line, are the fallback for models that do not support this, and the baseline of benchmarks.

Dimensions: B lines, T tokens of a line, C completion tokens of a row (concatenated), G completions of a piece, P prompt tokens,
W the longest completion of a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from r0.records import TrainGroup


@dataclass(frozen=True, slots=True)
class Piece:
    """A prompt with some of its group's completions: ``samples`` are positions in ``groups[group].completions``."""

    group: int
    samples: tuple[int, ...]
    tokens: int  # prompt and completions


@dataclass(slots=True)
class Span:
    """The position of a piece in its row, for the attention."""

    start: int
    prompt: int  # P
    lengths: tuple[int, ...]  # of the G completions
    gather_GW: torch.Tensor | None  # token positions, counted from the end of the prompt; padding repeats the last token
    valid_C: torch.Tensor | None  # positions in the flat [G·W] that are not padding; None: all
    masks: dict[tuple[torch.device, torch.dtype], torch.Tensor] = field(default_factory=dict)  # cache of the CPU kernel

    @property
    def completion_tokens(self) -> int:
        """Total tokens of the completions."""
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Layout:
    """The spans of a shared-prefix row, passed to the attention through the model's keyword arguments."""

    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One micro-batch.

    ``source_C`` are the positions in the flat [B·T] whose hidden states predict the completion tokens ``target_C``. ``items`` are
    the (group, sample) of the completions in the order of the C axis. A filler row has none; its outputs are multiplied by zero.
    """

    items: tuple[tuple[int, int], ...]
    input_ids: torch.Tensor  # [B, T]
    position_ids: torch.Tensor | None  # [B, T]; None: 0…T-1 in every line
    source_C: torch.Tensor
    target_C: torch.Tensor
    layout: Layout | None  # None: plain causal attention in every line

    @property
    def tokens(self) -> int:
        """Tokens that the model computes, including padding."""
        return self.input_ids.numel()


def split_groups(groups: Sequence[TrainGroup], budget: int) -> list[Piece]:
    """Split groups that are longer than ``budget`` tokens into pieces that repeat the prompt.

    A completion is never split, so a prompt with its longest completion may exceed the budget. Then the prompt dominates the
    memory, and repeating it for every completion would cost far more time than it saves memory: the pieces of such a group have
    half a budget of completion tokens each.
    """
    pieces = []
    for number, group in enumerate(groups):
        prompt = len(group.prompt_ids)
        if not prompt:
            raise ValueError(f"group {number} has an empty prompt, so nothing predicts its first token")
        longest = max((len(completion.token_ids) for completion in group.completions), default=0)
        limit = budget if prompt + longest <= budget else prompt + max(longest, budget // 2)
        samples: list[int] = []
        tokens = prompt
        for sample, completion in enumerate(group.completions):
            length = len(completion.token_ids)
            if samples and tokens + length > limit:
                pieces.append(Piece(number, tuple(samples), tokens))
                samples, tokens = [], prompt
            samples.append(sample)
            tokens += length
        if samples:
            pieces.append(Piece(number, tuple(samples), tokens))
    return pieces


def pack(pieces: Sequence[Piece], budget: int) -> list[list[Piece]]:
    """Pack pieces into rows of at most ``budget`` tokens by first-fit decreasing; deterministic."""
    order = sorted(range(len(pieces)), key=lambda i: (-pieces[i].tokens, i))
    rows: list[list[Piece]] = []
    room: list[int] = []
    for i in order:
        need = pieces[i].tokens
        for row, left in enumerate(room):
            if need <= left:
                rows[row].append(pieces[i])
                room[row] -= need
                break
        else:
            rows.append([pieces[i]])
            room.append(budget - need)
    return rows


def shared_rows(groups: Sequence[TrainGroup], budget: int, device: torch.device | str = "cpu") -> list[Row]:
    """Shared-prefix rows of at most ``budget`` tokens (``split_groups`` describes when a row may be longer)."""
    return [_shared_row(groups, row, device) for row in pack(split_groups(groups, budget), budget)]


def _shared_row(groups: Sequence[TrainGroup], pieces: Sequence[Piece], device: torch.device | str) -> Row:
    ids: list[int] = []
    positions: list[int] = []
    source: list[int] = []
    target: list[int] = []
    items: list[tuple[int, int]] = []
    spans = []
    for piece in pieces:
        group = groups[piece.group]
        start, prompt = len(ids), len(group.prompt_ids)
        ids += group.prompt_ids
        positions += range(prompt)
        lengths = []
        for sample in piece.samples:
            tokens = group.completions[sample].token_ids
            if tokens:
                first = len(ids)
                source += [start + prompt - 1, *range(first, first + len(tokens) - 1)]
            target += tokens
            positions += range(prompt, prompt + len(tokens))
            ids += tokens
            lengths.append(len(tokens))
            items.append((piece.group, sample))
        spans.append(_span(start, prompt, tuple(lengths), device))
    return Row(
        tuple(items),
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        torch.tensor(source, dtype=torch.long, device=device),
        torch.tensor(target, dtype=torch.long, device=device),
        Layout(tuple(spans)),
    )


def _span(start: int, prompt: int, lengths: tuple[int, ...], device: torch.device | str) -> Span:
    """The span with its gather indices from flat completions [C] to [G, W], and back."""
    longest = max(lengths, default=0)
    if len(lengths) <= 1 or not longest:
        return Span(start, prompt, lengths, None, None)
    length_G = torch.tensor(lengths)
    first_G = length_G.cumsum(0) - length_G
    step_W = torch.arange(longest)
    real_GW = step_W < length_G[:, None]
    gather_GW = (first_G[:, None] + step_W).clamp(max=sum(lengths) - 1)
    valid_C = None if bool(real_GW.all()) else real_GW.flatten().nonzero()[:, 0].to(device)
    return Span(start, prompt, lengths, gather_GW.to(device), valid_C)


def padded_rows(groups: Sequence[TrainGroup], budget: int, device: torch.device | str = "cpu") -> list[Row]:
    """Rows of lines ``[prompt][completion]``, padded on the right to the longest line of the row.

    A row has at most ``budget`` tokens, unless a single line is longer. Right padding needs no mask under causal attention.
    """
    lines = [
        (number, sample, len(group.prompt_ids) + len(completion.token_ids))
        for number, group in enumerate(groups)
        for sample, completion in enumerate(group.completions)
    ]
    lines.sort(key=lambda line: (-line[2], line[0], line[1]))
    rows: list[Row] = []
    while lines:
        width = lines[0][2]
        count = max(1, budget // width)
        rows.append(_padded_row(groups, [(g, s) for g, s, _ in lines[:count]], width, device))
        lines = lines[count:]
    return rows


def _padded_row(groups: Sequence[TrainGroup], items: list[tuple[int, int]], width: int, device: torch.device | str) -> Row:
    input_ids = torch.zeros(len(items), width, dtype=torch.long)
    source: list[int] = []
    target: list[int] = []
    for line, (number, sample) in enumerate(items):
        prompt, tokens = groups[number].prompt_ids, groups[number].completions[sample].token_ids
        input_ids[line, : len(prompt) + len(tokens)] = torch.tensor(prompt + tokens)
        first = line * width + len(prompt) - 1
        source += range(first, first + len(tokens))
        target += tokens
    source_C, target_C = torch.tensor(source, dtype=torch.long), torch.tensor(target, dtype=torch.long)
    return Row(tuple(items), input_ids.to(device), None, source_C.to(device), target_C.to(device), None)


def filler_row(shared: bool, device: torch.device | str = "cpu") -> Row:
    """A row of two tokens, for ranks with fewer rows that must join every collective."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    one = torch.zeros(1, dtype=torch.long, device=device)
    if not shared:
        return Row((), ids, None, one, one, None)
    positions = torch.arange(2, device=device)[None]
    return Row((), ids, positions, one, one, Layout((Span(0, 1, (1,), None, None),)))

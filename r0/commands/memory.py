"""The memory section of a dry run: the memory of each role, whether it fits the cards, and which keys to change if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r0.actors.memory.cards import CardInfo, assumed_card, visible_cards
from r0.actors.memory.engine import EngineBytes, engine_bytes
from r0.actors.memory.fit import Fit, fit
from r0.actors.memory.learner import RankBytes, learner_rank, supervised_rank, uses_bf16
from r0.actors.memory.lookup import look_up_model
from r0.actors.memory.remedies import remedies
from r0.actors.memory.shape import ModelShape
from r0.actors.rollout.sizes import CPU_KV_CACHE, SLACK
from r0.config import RankingKeys, RankKeys, RLConfig, StageCConfig, TrainingKeys
from r0.errors import UserError
from r0.storage.positions import positions_of

GIB = 2**30
LENGTH = 4096  # of a prompt, if neither the configuration nor the model specifies it
Rows = list[tuple[str, float]]


def memory_lines(config: TrainingKeys | RankingKeys, gpu_memory: float | None = None) -> list[str]:
    """The memory section, for the cards of this machine or for cards of ``gpu_memory`` GB.

    Raises:
        UserError: the model's name can only be a folder, and there is none.
    """
    known = look_up_model(config.model)
    if known is None:
        return [f"memory: not known before {config.model} is on this machine"]
    model_config, shape = known
    cards = [assumed_card(gpu_memory)] if gpu_memory is not None else visible_cards()
    head = f"memory of a model of {shape.weights / 1e6:,.1f} M weights, in GiB:"
    if not cards:
        return [head, *_without_card(config, shape), "  no GPU found here; --gpu-memory 80 assumes cards of 80 GB"]
    card = min(cards, key=lambda one: one.total)
    names = f"{len(cards)} × {card.name}" if len(cards) > 1 else card.name
    return [head, f"  cards: {names}, {_gib(card.total)} GiB each", *_on_card(config, model_config, shape, card)]


def _on_card(config: TrainingKeys | RankingKeys, model_config: Mapping[str, Any], shape: ModelShape, card: CardInfo) -> list[str]:
    if isinstance(config, RLConfig):
        return rl_lines(config, model_config, shape, fit(config, model_config, shape, card.total))
    lines: list[str] = []
    if isinstance(config, RankKeys):
        rank = supervised_rank(config, shape, config.gradient_checkpointing is not False)
        left_out = "" if rank.activations.peak else ", activations left out: they depend on the data"
        lines += [f"  each rank{left_out}:", *table(rank_rows(rank)), _verdict(rank.peak, card.total)]
    if isinstance(config, RankingKeys | StageCConfig) and not shape.encoder:
        length = (config.max_prompt_tokens or positions_of(model_config) or LENGTH) + config.max_new_tokens
        bf16 = uses_bf16(config.rollout.dtype, gpus=True)
        engine = engine_bytes(config.rollout, model_config, shape, length, card.total, bf16=bf16)
        lines += ["  each engine:", *table(engine_rows(engine)), _verdict(engine.minimum, card.total, " with the smallest cache")]
    return lines


def _without_card(config: TrainingKeys | RankingKeys, shape: ModelShape) -> list[str]:
    """The memory on CPUs."""
    lines: list[str] = []
    if isinstance(config, RLConfig) and config.learns:
        rank = learner_rank(config, shape, config.gradient_checkpointing is True, gpus=False)
        lines += ["  learner rank on a CPU:", *table(rank_rows(rank))]
    elif isinstance(config, RankKeys):
        lines += ["  each rank on a CPU:", *table(rank_rows(supervised_rank(config, shape, checkpointing=False, gpus=False)))]
    if isinstance(config, RankingKeys | StageCConfig) or (isinstance(config, RLConfig) and config.samples):
        given = config.rollout.kv_cache_gib
        cache = CPU_KV_CACHE if given == "auto" else given * GIB
        width = 2 if uses_bf16(config.rollout.dtype, gpus=False) else 4
        lines += ["  rollout worker on a CPU:", *table([("weights", shape.weights * width), ("key-value cache", cache)])]
    return lines


def rl_lines(config: RLConfig, model_config: Mapping[str, Any], shape: ModelShape, found: Fit) -> list[str]:
    """The tables of an RL run's roles and phases, and whether they fit."""
    checkpointing = "with" if found.checkpointing else "without"
    row = f"  learner rank, rows of {config.learner.row_tokens:,} tokens, {checkpointing} gradient checkpointing:"
    lines = [row, *table(rank_rows(found.learner))] if config.learns else []
    if config.learns and found.learner.host:
        lines.append(f"    and {_gib(found.learner.host)} of the host's memory (learner.offload_optimizer)")
    if found.engine is not None:
        lines += ["  rollout worker:", *table(engine_rows(found.engine))]
        held = f"{found.engine.capacity:,} completions of {found.engine.length:,} tokens, more where they share prompts"
        lines.append(f"    the cache holds {held}")
    lines += ["  on the card that both share:" if found.shared else "  on a card of each role:"]
    lines += table([(phase.name, phase.bytes) for phase in found.phases], total="")
    if found.refusal:
        lines.append(f"  does not fit: {found.refusal}")
    else:
        lines.append(_verdict(found.fullest.bytes, found.card, limit=found.fullest.limit))
    if not found.fits:
        lines += remedy_lines(config, model_config, shape, found)
    return lines


def remedy_lines(config: RLConfig, model_config: Mapping[str, Any], shape: ModelShape, found: Fit) -> list[str]:
    """The keys to change, and what each change saves."""
    listed = remedies(config, model_config, shape, found)
    if not listed:
        return ["  no key of r0 makes it fit; take a smaller model or larger cards"]
    width = max(len(remedy.keys) for remedy in listed)
    return [
        "  what would help:",
        *(f"    {one.keys:<{width}}  {_gib(one.saved):>6} less{', then it fits' if one.fits else ''}" for one in listed),
        *(["    (learner.gpus= rollout.gpus= gives each role a card of its own)"] if found.shared else []),
    ]


def rank_rows(rank: RankBytes) -> Rows:
    """The parts of a training rank's memory at its maximum."""
    rows: Rows = []
    for name, one in (("policy", rank.policy), ("critic", rank.critic)):
        if one is None:
            continue
        rows.append((f"{name}: weights", one.weights))
        rows += [(f"{name}: {part}", size) for part, size in _optimizer(one.gradients, one.masters, one.moments) if size]
        rows += [(f"{name}: buckets of gradients", one.buckets)] if one.buckets else []
    rows += [("reference model", rank.reference)] if rank.reference else []
    rows += [("CUDA context and NCCL", rank.context)] if rank.context else []
    known = sum(size for _, size in rows)
    return [*rows, ("activations and logits, or the step's buffers", rank.peak - known)]


def _optimizer(gradients: int, masters: int, moments: int) -> Rows:
    return [("gradients", gradients), ("float32 masters", masters), ("moments", moments)]


def engine_rows(engine: EngineBytes) -> Rows:
    """The parts of an engine's memory."""
    return [
        ("weights", engine.weights),
        ("activations, graphs, buffers of a sync", engine.reserve),
        ("key-value cache", engine.cache),
    ]


def table(rows: Sequence[tuple[str, float]], total: str = "together") -> list[str]:
    """Lines with a name and GiB."""
    every = [*rows, (total, sum(size for _, size in rows))] if total else list(rows)
    return [f"    {name:<46}{_gib(size):>8}" for name, size in every]


def _verdict(size: float, card: int, what: str = "", limit: int | None = None) -> str:
    """A line that says whether ``size`` fits; the default limit leaves a share of the card free."""
    most = int(card * (1 - SLACK)) if limit is None else limit
    if size <= most:
        return f"  fits{what}: {_gib(card - size)} of {_gib(card)} GiB stay free"
    return f"  does not fit{what}: it takes {_gib(size)} GiB, and {_gib(most)} of {_gib(card)} GiB can be used"


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}" if abs(size) < 10 * GIB else f"{size / GIB:,.1f}"


def check_fits(config: RLConfig, model_config: Mapping[str, Any], shape: ModelShape) -> str:
    """A warning if the estimate of a run exceeds this machine's cards; empty if it fits, or if there are no cards.

    Raises:
        UserError: the run cannot fit even without activations.
    """
    cards = visible_cards()
    if not cards:
        return ""
    found = fit(config, model_config, shape, max(card.total for card in cards))
    if found.fits:
        return ""
    listed = remedies(config, model_config, shape, found)
    keys = [one.keys for one in listed if one.fits] or [one.keys for one in listed]
    remedy = f"use {', or '.join(keys[:3])}" if keys else "take a smaller model or larger cards"
    where = f"{_gib(found.card)} GiB of {cards[0].name}"
    if found.impossible:
        raise UserError(
            f"model: {config.model} needs {_gib(found.lower_bound)} GiB on a card before any activations, more than the {where}; "
            f"{remedy} (--dry-run shows all parts)"
        )
    need = found.refusal or f"{found.fullest.name} takes about {_gib(found.fullest.bytes)} GiB of the {where}"
    return f"the GPU memory may not suffice: {need}; {remedy} (--dry-run shows all parts)"

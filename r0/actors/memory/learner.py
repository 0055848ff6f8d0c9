"""Memory of a training rank on its card, in RL and in supervised training."""

from __future__ import annotations

from dataclasses import dataclass

from r0.actors.memory.activations import Activations, RowSize, activations
from r0.actors.memory.shape import ModelShape
from r0.actors.memory.states import States, states
from r0.config import RankKeys, RLConfig, SftConfig

MIB, GIB = 2**20, 2**30
CONTEXT = 768 * MIB  # CUDA context, kernels and workspaces of a process; a typical value, not measured here
NCCL = 512 * MIB  # buffers of a process in a group of several cards


@dataclass(frozen=True)
class RankBytes:
    """Bytes of one rank on its card. ``reference`` is 0 and ``critic`` None if the configuration has none."""

    policy: States
    critic: States | None
    reference: int
    activations: Activations
    sync: int  # buffers while weights are sent, when there are no activations
    context: int

    @property
    def engines(self) -> tuple[States, ...]:
        """Policy and critic."""
        return (self.policy,) if self.critic is None else (self.policy, self.critic)

    @property
    def static(self) -> int:
        """Bytes held throughout an update, without temporary tensors."""
        return sum(one.held for one in self.engines) + self.reference + self.context

    @property
    def peak(self) -> int:
        """The maximum during an update."""
        passing = self.activations.peak + max(one.gathered for one in self.engines)
        working = max(passing, *(one.step for one in self.engines))
        return self.static + sum(one.buckets for one in self.engines) + working

    @property
    def host(self) -> int:
        """Bytes in host memory."""
        return sum(one.host for one in self.engines)

    @property
    def start(self) -> int:
        """Bytes before the first update, while an engine on the same card starts."""
        return sum(one.start for one in self.engines) + self.reference + self.context

    @property
    def idle(self) -> int:
        """Bytes between updates, while an engine on the same card samples."""
        return sum(one.idle for one in self.engines) + self.reference + self.context


def uses_bf16(dtype: str, gpus: bool) -> bool:
    """Whether weights are bf16: ``auto`` is bf16 on a GPU."""
    return dtype == "bf16" or (dtype == "auto" and gpus)


def learner_rank(config: RLConfig, shape: ModelShape, checkpointing: bool, gpus: bool = True) -> RankBytes:
    """Bytes of a learner rank.

    Args:
        config: of the run.
        shape: of its model.
        checkpointing: whether activations are recomputed in the backward pass.
        gpus: whether the rank is on a GPU; ``dtype=auto`` is bf16 there.
    """
    learner = config.learner
    bf16 = uses_bf16(learner.dtype, gpus)
    width = 2 if bf16 else 4

    def engine(trained: int, frozen: int, largest: int) -> States:
        return states(trained, frozen, learner.zero_stage, learner.ranks, bf16, learner.offload_optimizer, largest)

    adapters = shape.adapters(learner.lora.r, learner.lora.target_modules)
    largest = learner.lora.r * max(max(size) for size in shape.linears().values())
    row = RowSize.of(
        learner.row_tokens, config.max_prompt_tokens, config.max_new_tokens, config.samples_per_prompt, learner.shared_prefix
    )
    bucket = max(config.sync.bucket_bytes(gpus), width * shape.embedding)
    return RankBytes(
        policy=engine(adapters, shape.weights, largest) if adapters else engine(shape.weights, 0, shape.embedding),
        critic=engine(shape.critic, 0, shape.embedding) if config.algo == "ppo" else None,
        reference=width * shape.weights if config.kl_coef > 0 and not adapters else 0,
        activations=activations(shape, row, bf16, checkpointing, learner.logprob_chunk, config.temperature),
        sync=2 * bucket,
        context=_context(gpus, several=learner.ranks > 1 or config.rollout.workers > 1),
    )


def supervised_rank(config: RankKeys, shape: ModelShape, checkpointing: bool, gpus: bool = True) -> RankBytes:
    """Bytes of a rank of ``sft``, ``stage_c``, ``finetune``, ``distill train`` or ``esci``.

    Activations are included for ``sft`` only; for the other commands they depend on the data and are 0.
    """
    bf16 = uses_bf16(config.dtype, gpus)
    adapters = shape.adapters(config.lora.r, config.lora.target_modules)
    trained, frozen = (adapters, shape.weights) if adapters else (shape.weights, 0)
    used = Activations(0, 0, 0)
    if isinstance(config, SftConfig):
        length = config.max_prompt_tokens + config.max_new_tokens
        row = RowSize(config.micro_batch_size * length, config.max_prompt_tokens, config.max_new_tokens, 1)
        used = activations(shape, row, bf16, checkpointing, config.micro_batch_size * config.max_new_tokens)
    return RankBytes(
        policy=states(trained, frozen, config.zero_stage, config.ranks, bf16),
        critic=None,
        reference=0,
        activations=used,
        sync=0,
        context=_context(gpus, several=config.ranks > 1),
    )


def _context(gpus: bool, several: bool) -> int:
    return (CONTEXT + (NCCL if several else 0)) if gpus else 0

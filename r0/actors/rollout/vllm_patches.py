"""What r0 changes in vLLM, in the process of an engine, before the engine starts."""

from __future__ import annotations

from typing import Any

from r0.process.allocator import keep_freed_blocks


def prepare_cpu() -> None:
    """For an engine on a CPU: memory is kept, nothing is compiled at the first request, and experts can be loaded again."""
    from vllm.v1.sample import sampler

    keep_freed_blocks()
    # vLLM computes the rank of every sampled token with a kernel that takes 15 s to compile. r0 does not use ranks.
    sampler.batched_count_greater_than = lambda logprobs, values: values.new_zeros(values.shape[0], dtype=int)
    _repack_experts()


def _repack_experts() -> None:
    """On a CPU vLLM rearranges the weights of experts for its kernel, but the first time only: those of a weight update stay as
    they came, and the kernel reads them wrongly."""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod as Method

    setup = Method._setup_kernel
    if setup.__module__ == __name__:
        return

    def setup_and_repack(self: Any, layer: Any, w13: Any, w2: Any) -> None:
        again = self.moe_kernel is not None
        setup(self, layer, w13, w2)
        if again:
            self.moe_kernel.fused_experts.process_weights_after_loading(layer)

    Method._setup_kernel = setup_and_repack


def leave_transformers_alone() -> None:
    """Keep vLLM from changing transformers' classes to compile them, as it does for architectures that it does not have itself
    (SmolLM3, OLMo 2): a learner in this process, or any other user of transformers, could not use such a class any more."""
    from vllm.model_executor.models.transformers.base import Base

    Base._decorate_cls_for_torch_compile = lambda self, **options: None

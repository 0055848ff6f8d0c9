"""r0's backends for vLLM's weight transfer API: ``gloo`` (buckets from another process) and ``local`` (the same process).

vLLM imports this module in each of its worker processes, by the name of WorkerExtension, and that import registers the backends.
Like vLLM's own engines they load checkpoint-format weights under the layerwise reload, the only one that works where the linear
layers were repacked after loading (as on a CPU).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from r0.actors.sync.transfer import Meeting, Receiver, TransferError


class WorkerExtension:
    """Names this module to vLLM (``worker_extension_cls``); adds nothing to the worker."""


@dataclass
class GlooInit(WeightTransferInitInfo):
    """The fields of a Meeting."""

    address: str
    port: int
    rank: int
    world: int
    deadline_s: float
    bucket_bytes: int
    ring: str
    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]


@dataclass
class GlooUpdate(WeightTransferUpdateInfo):
    """Nothing: all was agreed on when the group met."""


@dataclass
class LocalInit(WeightTransferInitInfo):
    """Nothing to agree on."""


@dataclass
class LocalUpdate(WeightTransferUpdateInfo):
    """The learner's weights themselves."""

    weights: Iterable[tuple[str, torch.Tensor]]


class _Reloading(WeightTransferEngine[Any, Any]):
    """Start and finish of a layerwise reload, and a load that checks that nothing was left out."""

    def start_weight_update(self) -> None:
        """Give every layer back the shape that checkpoints have."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._names = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """Finish the layers that were not complete until now."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load all weights.

        Raises:
            TransferError: parameters of the model were not among them (they would silently keep their old values).
        """
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

        with disable_mtp_completeness_check():
            loaded = self.model.load_weights(weights)
        if isinstance(loaded, set) and (missing := self._names - loaded):
            raise TransferError(f"weight transfer: {len(missing)} parameters were not sent, the first is {min(missing)}")

    def shutdown(self) -> None:
        """Nothing to release."""


class GlooWeightTransferEngine(_Reloading):
    """Receives buckets over gloo."""

    init_info_cls = GlooInit
    update_info_cls = GlooUpdate
    _receiver: Receiver | None = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        """Meet the learner; a former group is left."""
        self.shutdown()
        meeting = Meeting(**{field.name: getattr(init_info, field.name) for field in fields(init_info)})
        self._receiver = Receiver(meeting, meeting.rank + self.parallel_config.rank)

    def receive_weights(self, update_info: GlooUpdate) -> None:
        """Load the buckets as they come."""
        if self._receiver is None:
            raise TransferError("weight transfer: update_weights before init_weight_transfer_engine")
        try:
            self.load(self._receiver.weights())
        except BaseException:
            self._receiver.close()  # ends the sender's wait
            raise

    def shutdown(self) -> None:
        """Leave the group."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = None


class LocalWeightTransferEngine(_Reloading):
    """Reads the learner's weights in the same process."""

    init_info_cls = LocalInit
    update_info_cls = LocalUpdate

    def init_transfer_engine(self, init_info: LocalInit) -> None:
        """Nothing to set up."""

    def receive_weights(self, update_info: LocalUpdate) -> None:
        """Load the learner's own tensors."""
        self.load(update_info.weights)


for _name, _engine in (("gloo", GlooWeightTransferEngine), ("local", LocalWeightTransferEngine)):
    if _name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(_name, _engine)

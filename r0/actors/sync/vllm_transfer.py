"""Backends for vLLM's weight transfer API: r0's ``gloo`` (buckets from another process) and ``local`` (the same process), and
vLLM's ``nccl`` and ``ipc`` with a check that no parameter is missing.

vLLM imports this module in each of its worker processes because it is named as the worker extension; the import registers the
backends. Like vLLM's engines, they load weights in checkpoint format with the layerwise reload, the only method that works after
linear layers have been repacked (as on a CPU).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from r0.actors.sync.digest import Digest
from r0.actors.sync.rendezvous import Rendezvous
from r0.actors.sync.transfer import Receiver, TransferError
from r0.errors import UserError


class WorkerExtension:
    """Makes vLLM import this module (``worker_extension_cls``), and answers for its worker."""

    def take_digest(self) -> str:
        """The digest of the weights that came with this update."""
        engine: Any = self.weight_transfer_engine  # type: ignore[attr-defined]
        return engine.digest.take()


@dataclass
class GlooInit(WeightTransferInitInfo):
    """The fields of a Rendezvous."""

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
    """Empty: everything is in ``GlooInit``."""


@dataclass
class LocalInit(WeightTransferInitInfo):
    """Empty: the process is the same."""


@dataclass
class LocalUpdate(WeightTransferUpdateInfo):
    """The learner's weights."""

    weights: Iterable[tuple[str, torch.Tensor]]


class _LayerwiseReload(WeightTransferEngine[Any, Any]):
    """Start and finish of a layerwise reload, and a ``load`` that checks that no parameter is missing."""

    def start_weight_update(self) -> None:
        """Restore the checkpoint format of every layer."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._names = {name for name, _ in self.model.named_parameters()}
        self.digest = Digest()
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """Finish the layers that are not complete yet."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load all weights.

        Raises:
            TransferError: parameters of the model are missing (they would silently keep their old values).
            UserError: see ``_check_taken``.
        """
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

        with disable_mtp_completeness_check():
            loaded = self.model.load_weights(self.digest.through(weights))
        if isinstance(loaded, set):
            _check_complete(self._names - loaded)
            _check_taken(self.model, loaded)

    def shutdown(self) -> None:
        """Nothing to release."""


class GlooWeightTransferEngine(_LayerwiseReload):
    """Receives buckets over gloo."""

    init_info_cls = GlooInit
    update_info_cls = GlooUpdate
    _receiver: Receiver | None = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        """Join the learner's group; leave the previous one, if any."""
        self.shutdown()
        rendezvous = Rendezvous(**{field.name: getattr(init_info, field.name) for field in fields(init_info)})
        self._receiver = Receiver(rendezvous, rendezvous.rank + self.parallel_config.rank)

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


class LocalWeightTransferEngine(_LayerwiseReload):
    """Reads the learner's weights in the same process."""

    init_info_cls = LocalInit
    update_info_cls = LocalUpdate

    def init_transfer_engine(self, init_info: LocalInit) -> None:
        """Nothing to set up."""

    def receive_weights(self, update_info: LocalUpdate) -> None:
        """Load the learner's own tensors."""
        self.load(update_info.weights)


class _CompletenessCheck:
    """A check that vLLM's engines lack: they only log a missing layer and continue with its old values, or after a sleep with
    none."""

    model: torch.nn.Module

    def start_weight_update(self) -> None:
        """Record the parameters that must be received."""
        self._missing = {name for name, _ in self.model.named_parameters()}
        self._loaded: set[str] = set()
        self.digest = Digest()
        super().start_weight_update()  # type: ignore[misc]

    def receive_weights(self, update_info: Any) -> None:
        """Load weights, and record them as received."""
        with self._recording():
            super().receive_weights(update_info)  # type: ignore[misc]

    def finish_weight_update(self) -> None:
        """Activate the weights.

        Raises:
            TransferError: parameters of the model are missing.
            UserError: see ``_check_taken``.
        """
        _check_complete(self._missing)
        _check_taken(self.model, self._loaded)
        super().finish_weight_update()  # type: ignore[misc]

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        """Record what ``load_weights`` returns in the block, because vLLM's engines ignore it."""
        model = self.model
        load = model.load_weights

        def recorded(weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
            loaded = load(self.digest.through(weights))
            if isinstance(loaded, set):
                self._missing -= loaded
                self._loaded |= loaded
            else:
                self._missing.clear()  # the model does not report what it loaded
            return loaded

        model.load_weights = recorded
        try:
            yield
        finally:
            del model.load_weights


class CompleteNcclEngine(_CompletenessCheck, NCCLWeightTransferEngine):
    """Receives over NCCL."""


class CompleteIpcEngine(_CompletenessCheck, IPCWeightTransferEngine):
    """Receives through CUDA IPC."""


def _check_complete(missing: set[str]) -> None:
    """Check that no parameter is missing.

    Raises:
        TransferError: some are missing.
    """
    if missing:
        raise TransferError(f"weight transfer: {len(missing)} parameters were not sent, the first is {min(missing)}")


def _check_taken(model: torch.nn.Module, loaded: set[str]) -> None:
    """Check that the layers took what the model says it loaded. Some models (gpt-oss) copy into parameters that have no memory
    during a layerwise reload, and so keep the old values.

    Raises:
        UserError: a layer did.
    """
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
    from vllm.model_executor.model_loader.reload.meta import SKIP_TENSORS

    layers = dict(model.named_modules())
    for name in sorted(loaded):
        path, _, own_name = name.rpartition(".")
        info = get_layerwise_info(layers[path]) if path in layers and own_name not in SKIP_TENSORS else None
        if info is not None and info.can_load() and not info.load_numel:
            raise UserError(
                f"rollout.engine: vLLM cannot update {name} of a {type(model).__name__} that is running; use rollout.engine=hf"
            )


for _name, _engine in (("gloo", GlooWeightTransferEngine), ("local", LocalWeightTransferEngine)):
    if _name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(_name, _engine)
# These replace vLLM's engines: a name cannot be registered twice.
WeightTransferEngineFactory._registry |= {"nccl": lambda: CompleteNcclEngine, "ipc": lambda: CompleteIpcEngine}

"""Sampling with vLLM. Only this file, vllm_start, vllm_patches, vllm_transfer and vllm_sync import it: its API changes often.

The engine runs in this process. Each request has its own seed; on a CPU this requires that prompts are prefilled in one piece.
Log-probabilities are those of the sampling distribution. The prefix cache is reset after every weight update.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r0.actors.rollout.engine import Engine
from r0.actors.rollout.settings import EngineSettings, check_length, check_requests, stop_ids
from r0.actors.rollout.vllm_start import start_vllm
from r0.actors.sync.digest import NOTHING
from r0.actors.sync.transfer import TransferError
from r0.records import Finish, Sampled, SampleRequest


class VllmEngine(Engine):
    """One vLLM engine on a CPU or on ``tensor_parallel_size`` GPUs. See ``r0.actors.rollout.engine.Engine`` for the interface.

    On a card that it shares with the learner it can sleep: weights and key-value cache are dropped, and the next weight update
    allocates the weights, receives them, and allocates the cache, in this order. If a call to vLLM fails during an update, the
    engine has no version, and further updates are refused.
    """

    def __init__(self, settings: EngineSettings):
        check_length(Path(settings.model), settings.max_model_len)
        self._settings = settings
        self._stop_ids = sorted(stop_ids(Path(settings.model)))
        self._version = 0
        self._received = NOTHING
        self._announced = False  # an update has begun in vLLM
        self._asleep = False
        self._broken = False
        self._pending: dict[str, SampleRequest] = {}  # by vLLM's request id
        self._llm, self.max_num_seqs = start_vllm(settings)

    def stream(
        self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool
    ) -> Iterator[tuple[int, Sampled]]:
        """Complete every request in one running batch. Left early, it drops what is not complete.

        Raises:
            ValueError: a prompt leaves less than ``max_new_tokens`` tokens of the engine's length.
            RuntimeError: submitted requests are pending.
        """
        if self._pending:
            raise RuntimeError(f"sample: {len(self._pending)} submitted requests are pending; call step until they are done")
        check_requests(requests, max_new_tokens, self._settings)
        try:
            for index, request in enumerate(requests):
                self.submit(index, request, temperature, max_new_tokens, greedy)
            while self._pending:
                yield from self.step()
        finally:
            self.abort(range(len(requests)))

    def submit(self, key: int, request: SampleRequest, temperature: float, max_new_tokens: int, greedy: bool) -> None:
        """Add a request; ``step`` returns its completion under ``key``, which must differ from those of all pending requests.

        Raises:
            ValueError: as ``sample``; or a request with this key is pending.
        """
        if (name := str(key)) in self._pending:
            raise ValueError(f"submit: a request with key {key} is already pending")
        check_requests([request], max_new_tokens, self._settings)
        from vllm.inputs.engine import tokens_input

        parameters = self._parameters(request, temperature, max_new_tokens, greedy)
        self._llm.llm_engine.add_request(name, tokens_input(list(request.prompt_ids)), parameters)
        self._pending[name] = request

    def step(self) -> list[tuple[int, Sampled]]:
        """Run one forward pass over the pending requests (at most ``max_num_seqs``), and return those that are complete."""
        if not self._pending:
            return []
        done = [output for output in self._llm.llm_engine.step() if output.finished and output.request_id in self._pending]
        return [(int(one.request_id), self._sampled(self._pending.pop(one.request_id), one.outputs[0])) for one in done]

    def abort(self, keys: Sequence[int]) -> None:
        """Drop pending requests: ``step`` will not return them. Keys that are not pending are ignored."""
        names = [name for name in map(str, keys) if self._pending.pop(name, None) is not None]
        if names:
            self._llm.llm_engine.abort_request(names)

    def _parameters(self, request: SampleRequest, temperature: float, max_new_tokens: int, greedy: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0 if greedy else temperature,
            seed=request.seed,
            max_tokens=max_new_tokens,
            stop_token_ids=self._stop_ids,
            allowed_token_ids=list(request.allowed_ids) or None,
            logprobs=len(request.allowed_ids),  # of the allowed ids, in addition to the sampled token
            flat_logprobs=True,  # one list of floats instead of a dictionary per token
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _sampled(self, request: SampleRequest, completion: Any) -> Sampled:
        found, allowed = completion.logprobs, request.allowed_ids
        first = dict(zip(found.token_ids[: len(allowed) + 1], found.logprobs, strict=False)) if allowed else {}
        return Sampled(
            token_ids=tuple(completion.token_ids),
            logprobs=tuple(found.logprobs[:: len(allowed) + 1]),
            finish=Finish.STOP if completion.finish_reason == "stop" else Finish.LENGTH,
            version=self._version,
            allowed_logprobs=tuple(first[one] for one in allowed),
        )

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Join the transfer group described by ``info``."""
        self._llm.init_weight_transfer_engine({"init_info": info})

    def sleep(self) -> None:
        """Release the memory of weights and key-value cache if ``settings.sleep``; the next update allocates it again."""
        if not self._settings.sleep or self._asleep:
            return
        self._version = -1
        with self._unless_broken():
            self._llm.sleep(level=2)
        self._asleep = True

    def start_weight_update(self) -> None:
        """Prepare for new weights. Until they are complete the engine has no version.

        Raises:
            TransferError: an earlier update failed, so the engine cannot load weights any more.
        """
        self._version = -1
        with self._unless_broken():
            if self._announced:  # an update was announced, but nothing sent
                return
            if self._asleep:
                self._llm.wake_up(tags=["weights"])
            self._llm.start_weight_update()
        self._announced = True

    def update_weights(self, info: dict[str, Any]) -> None:
        """Receive weights: all of them, or with ``ipc`` the next bucket."""
        with self._unless_broken():
            self._llm.update_weights({"update_info": info})

    def finish_weight_update(self, version: int) -> None:
        """Activate the new weights, and drop the cached keys and values of the old ones (vLLM does not do this by itself)."""
        with self._unless_broken():
            self._llm.finish_weight_update(weight_version=str(version))
            self._received = "/".join(sorted(set(self._llm.collective_rpc("take_digest"))))  # of all its processes the same
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("vLLM did not reset its prefix cache after a weight update")
            if self._asleep and not self._llm.wake_up(tags=["kv_cache"]):
                raise RuntimeError("vLLM did not wake up after a weight update")
        self._asleep = self._announced = False
        self._version = int(self._llm.get_weight_version())

    def received(self) -> str:
        """The digest of the weights that came with the newest update."""
        return self._received

    @contextlib.contextmanager
    def _unless_broken(self) -> Iterator[None]:
        """Mark the engine as broken if a call to vLLM in the block fails.

        Raises:
            TransferError: the engine is broken.
        """
        if self._broken:
            raise TransferError("weight transfer: an earlier update of this engine failed; the worker must be restarted")
        self._broken = True
        yield
        self._broken = False  # not reached after an error

    def version(self) -> int:
        """Version of the active weights; −1 while they are incomplete or released."""
        return self._version

    def close(self) -> None:
        """Release the model and its caches."""
        if hasattr(self, "_llm"):
            self._llm.llm_engine.engine_core.shutdown()  # now, because at exit its process groups may be gone
            del self._llm
            gc.collect()

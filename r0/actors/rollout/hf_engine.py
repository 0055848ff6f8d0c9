"""Sampling with transformers alone, where vLLM cannot be installed. Same interface as VllmEngine; ten times slower.

Each request draws one uniform number per token in advance from its own generator; a number is turned into a token by inverting
the cumulative distribution. Other requests in the batch change only the rounding of the logits.

Dimensions: B requests, P prompt positions (padded on the left), U distinct prompts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from r0.actors.rollout.engine import Engine
from r0.actors.rollout.settings import EngineSettings, check_length, check_requests, stop_ids
from r0.actors.sync.checkpoint_format import CheckpointFormat, ParamMeta
from r0.actors.sync.digest import NOTHING, Digest
from r0.actors.sync.transfer import Receiver, Rendezvous, TransferError
from r0.errors import UserError
from r0.process.device import avoid_cudnn_attention
from r0.process.gpus import cuda_available
from r0.records import Finish, Sampled, SampleRequest
from r0.storage.loading import load_model


@dataclass
class _Row:
    """An unfinished completion."""

    request: SampleRequest
    noise: list[float]  # uniform in [0, 1), one per token
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False
    allowed_logprobs: tuple[float, ...] = ()


class HfEngine(Engine):
    """A transformers model on a CPU or one GPU. See ``r0.actors.rollout.engine.Engine`` for the interface."""

    def __init__(self, settings: EngineSettings):
        if settings.transfer not in ("gloo", "local"):
            raise UserError(f"sync.backend: {settings.transfer} needs vLLM; with rollout.engine=hf use auto or gloo")
        from transformers import AutoModelForCausalLM

        check_length(Path(settings.model), settings.max_model_len)
        on_cpu = settings.device == "cpu" or not cuda_available()
        self._device = torch.device("cpu" if on_cpu else "cuda")
        if on_cpu:
            torch.set_num_threads(settings.threads)
        else:
            avoid_cudnn_attention()
        fits = torch.float32 if on_cpu else torch.bfloat16
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, "auto": fits}[settings.dtype]
        self._model = load_model(AutoModelForCausalLM, settings.model, dtype=dtype).to(self._device).eval()
        self._settings = settings
        self.max_num_seqs = settings.batch
        self._stop_ids = stop_ids(Path(settings.model))
        self._receiver: Receiver | None = None
        self._version = 0
        self._digest, self._received = Digest(), NOTHING
        self._pending: dict[int, tuple[SampleRequest, tuple[float, int, bool]]] = {}  # submitted, with how to sample them

    def stream(
        self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool
    ) -> Iterator[tuple[int, Sampled]]:
        """Complete every request, batch by batch. Raises the error of ``Engine.stream``."""
        check_requests(requests, max_new_tokens, self._settings)
        rows = [_Row(request, _noise(request.seed, max_new_tokens)) for request in requests]
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i].request.prompt_ids), rows[i].request.prompt_ids))
        for start in range(0, len(order), self.max_num_seqs):  # prompts of similar length: little padding
            batch = order[start : start + self.max_num_seqs]
            self._complete([rows[i] for i in batch], temperature, max_new_tokens, greedy)
            yield from ((i, self._sampled(rows[i])) for i in batch)

    def submit(self, key: int, request: SampleRequest, temperature: float, max_new_tokens: int, greedy: bool) -> None:
        """Add a request; ``step`` returns its completion under ``key``, which must differ from those of all pending requests.

        Raises:
            ValueError: as ``sample``; or a request with this key is pending.
        """
        if key in self._pending:
            raise ValueError(f"submit: a request with key {key} is already pending")
        check_requests([request], max_new_tokens, self._settings)
        self._pending[key] = (request, (temperature, max_new_tokens, greedy))

    def step(self) -> list[tuple[int, Sampled]]:
        """Complete the oldest pending requests: as many as fit a batch and have the same sampling settings."""
        if not self._pending:
            return []
        sampling = next(iter(self._pending.values()))[1]
        keys = [key for key, (_, wanted) in self._pending.items() if wanted == sampling][: self.max_num_seqs]
        requests = [self._pending.pop(key)[0] for key in keys]
        return list(zip(keys, self.sample(requests, *sampling), strict=True))

    def abort(self, keys: Sequence[int]) -> None:
        """Drop pending requests: ``step`` will not return them. Keys that are not pending are ignored."""
        for key in keys:
            self._pending.pop(key, None)

    @torch.inference_mode()
    def _complete(self, rows: list[_Row], temperature: float, max_new_tokens: int, greedy: bool) -> None:
        logits_BV, cache, mask_BP = self._prefill(rows)
        for step in range(max_new_tokens):
            _allow(logits_BV, [row.request.allowed_ids for row in rows])
            logprobs_BV = torch.log_softmax(logits_BV.float() / (1.0 if greedy else temperature), dim=-1)
            tokens_B, logprobs_B = _draw(logprobs_BV, [row.noise[step] for row in rows], greedy)
            if step == 0:
                for row, logprobs_V in zip(rows, logprobs_BV, strict=True):
                    row.allowed_logprobs = tuple(logprobs_V[list(row.request.allowed_ids)].tolist())
            for row, token, logprob in zip(rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True):
                row.token_ids.append(token)
                row.logprobs.append(logprob)
                row.stopped = token in self._stop_ids
            going = [i for i, row in enumerate(rows) if not row.stopped]
            if not going or step + 1 == max_new_tokens:
                return
            if len(going) < len(rows):
                rows = [rows[i] for i in going]
                kept = torch.tensor(going, device=self._device)
                cache.reorder_cache(kept)
                tokens_B, mask_BP = tokens_B[kept], mask_BP[kept]
            mask_BP = torch.cat([mask_BP, mask_BP.new_ones(len(rows), 1)], dim=1)
            positions_B1 = mask_BP.sum(1, keepdim=True) - 1
            out = self._model(
                input_ids=tokens_B[:, None],
                attention_mask=mask_BP,
                position_ids=positions_B1,
                past_key_values=cache,
                use_cache=True,
            )
            logits_BV = out.logits[:, -1]

    def _prefill(self, rows: list[_Row]) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Logits after the prompts, the cache and the mask; a prompt that several requests share is computed once."""
        from transformers import DynamicCache

        prompts = list(dict.fromkeys(row.request.prompt_ids for row in rows))
        length = max(len(prompt) for prompt in prompts)
        ids_UP = torch.zeros(len(prompts), length, dtype=torch.long)
        mask_UP = torch.zeros_like(ids_UP)
        for i, prompt in enumerate(prompts):
            ids_UP[i, length - len(prompt) :] = torch.tensor(prompt)
            mask_UP[i, length - len(prompt) :] = 1
        ids_UP, mask_UP = ids_UP.to(self._device), mask_UP.to(self._device)
        positions_UP = (mask_UP.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config)
        out = self._model(
            input_ids=ids_UP,
            attention_mask=mask_UP,
            position_ids=positions_UP,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        number = {prompt: i for i, prompt in enumerate(prompts)}
        which_B = torch.tensor([number[row.request.prompt_ids] for row in rows], device=self._device)
        cache.reorder_cache(which_B)
        return out.logits[which_B, -1], cache, mask_UP[which_B]

    def _sampled(self, row: _Row) -> Sampled:
        finish = Finish.STOP if row.stopped else Finish.LENGTH
        return Sampled(tuple(row.token_ids), tuple(row.logprobs), finish, self._version, row.allowed_logprobs)

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Join the transfer group described by ``info`` (``local`` has none); leave the previous group, if any."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        if self._settings.transfer == "gloo":
            rendezvous = Rendezvous(**info)
            self._receiver = Receiver(rendezvous, rendezvous.rank)

    def sleep(self) -> None:
        """Do nothing: this engine keeps its memory."""

    def start_weight_update(self) -> None:
        """Prepare for new weights. Until they are complete the engine has no version."""
        self._version = -1
        self._digest.take()

    def update_weights(self, info: dict[str, Any]) -> None:
        """Receive all weights and copy them into the model, rounding to its dtype.

        Raises:
            TransferError: a parameter is unknown or has another shape, or a parameter of the model was not sent.
        """
        try:
            if self._settings.transfer == "local":
                self._load(info["weights"])
            elif self._receiver is None:
                raise TransferError("weight transfer: update_weights before init_weight_transfer_engine")
            else:
                self._load(self._receiver.weights())
        except BaseException:
            if self._receiver is not None:
                self._receiver.close()  # so that the sender stops waiting
            raise

    @torch.no_grad()
    def _load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = self._model.state_dict()  # the live tensors; a tied head under both its names
        form = CheckpointFormat(self._model, [ParamMeta(name, p.dtype, tuple(p.shape)) for name, p in own.items()])
        for name, tensor in form.read(self._digest.through(weights)):
            own[name].copy_(tensor)

    def finish_weight_update(self, version: int) -> None:
        """Activate the new weights as version ``version``."""
        self._version, self._received = version, self._digest.take()

    def received(self) -> str:
        """The digest of the weights that came with the newest update."""
        return self._received

    def version(self) -> int:
        """Version of the active weights; −1 while they are incomplete."""
        return self._version

    def close(self) -> None:
        """Release the model."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = None
        del self._model


def _noise(seed: int, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def _allow(logits_BV: torch.Tensor, allowed: list[tuple[int, ...]]) -> None:
    """Set the logits of ids that a row does not allow to −∞, in place; a row without allowed ids allows all."""
    for logits_V, ids in zip(logits_BV, allowed, strict=True):
        if ids:
            kept = logits_V[list(ids)]
            logits_V.fill_(float("-inf"))
            logits_V[list(ids)] = kept


def _draw(logprobs_BV: torch.Tensor, noise: list[float], greedy: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token and its log-probability for each row."""
    if greedy:
        tokens_B1 = logprobs_BV.argmax(dim=-1, keepdim=True)
    else:
        below_BV = logprobs_BV.double().exp().cumsum(dim=-1)
        target_B1 = torch.tensor(noise, dtype=torch.float64, device=logprobs_BV.device)[:, None] * below_BV[:, -1:]
        tokens_B1 = torch.searchsorted(below_BV, target_B1, right=True).clamp(max=logprobs_BV.shape[1] - 1)
    return tokens_B1[:, 0], logprobs_BV.gather(1, tokens_B1)[:, 0]

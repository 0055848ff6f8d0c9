"""The base of encoder workers: scores the documents of many queries in batches, without vLLM."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from r0.actors.rollout.settings import EngineSettings
from r0.config import RankingKeys
from r0.errors import UserError, reason
from r0.process.device import avoid_cudnn_attention
from r0.records import Form, Violation
from r0.rerank.fusion import fuse
from r0.rerank.job import Job, Outcome
from r0.rerank.protocol import Question, Ranking, Reply
from r0.storage.model_checks import read_json
from r0.storage.positions import positions
from r0.text.tags import control_token_texts, escape_control_tokens

SORTED = 8  # number of batches sorted by length together, to reduce padding
# Models whose position embeddings start after the padding id.
OFFSET_POSITIONS = ("camembert", "data2vec-text", "longformer", "roberta", "xlm-roberta", "xlm-roberta-xl", "xmod")


class EncoderWorker:
    """An encoder that works on many queries, with the same methods as ``RerankWorker``. Subclasses implement scoring.

    Args:
        keys: the configuration.
        settings: provides the batch size in documents, among others.
        model: the loaded sentence-transformers model.
    """

    def __init__(self, keys: RankingKeys, settings: EngineSettings, model: Any):
        self._keys, self._batch, self._model = keys, settings.batch, model
        self._control = control_token_texts(model.tokenizer)
        self._waiting: deque[Job] = deque()

    def work(self, jobs: Sequence[Job], seconds: float, cancelled: Collection[int] = ()) -> list[Outcome]:
        """Accept ``jobs``, drop those with the keys ``cancelled`` and work for ``seconds``; return the finished jobs."""
        self._waiting.extend(jobs)
        if cancelled:
            self._waiting = deque(job for job in self._waiting if job.key not in cancelled)
        end = time.monotonic() + seconds
        done: list[Outcome] = []
        while self._waiting and time.monotonic() < end:
            batch = [self._waiting.popleft()]
            while self._waiting and sum(len(job.documents) for job in batch) < SORTED * self._batch:
                batch.append(self._waiting.popleft())
            began = time.monotonic()
            scored = self._score(batch)
            spent = time.monotonic() - began
            done += [self._outcome(job, logits, tokens, spent) for job, (logits, tokens) in zip(batch, scored, strict=True)]
        return done

    def pid(self) -> int:
        """The id of this worker's process."""
        return os.getpid()

    def close(self) -> None:
        """Release the model."""
        del self._model

    def _score(self, jobs: Sequence[Job]) -> list[tuple[Sequence[float], int]]:
        """For each job the scores of its documents before any activation, and the number of tokens read."""
        raise NotImplementedError

    def _activated(self, logits: Sequence[float]) -> Sequence[float]:
        """The final scores, by which documents are ordered."""
        return logits

    def _outcome(self, job: Job, logits: Sequence[float], tokens: int, seconds: float) -> Outcome:
        both = zip(logits, self._activated(logits), strict=True)
        replies = tuple((Question((i,), Form.YES_NO), _reply(logit, score)) for i, (logit, score) in enumerate(both))
        values = [reply.probability for _, reply in replies]
        by_score = Ranking.of_scores(values, [reply.logit for _, reply in replies])
        ranking = Ranking.of_order(range(len(values))) if job.each else by_score
        if job.scores and values:
            ranking = fuse(ranking, job.scores, self._keys.fusion_weight)
        return Outcome(job.key, ranking, replies, tokens, 0, seconds)

    def _plain(self, text: str) -> str:
        """``text`` with control tokens escaped."""
        return escape_control_tokens(text, self._control)


def _reply(logit: float, score: float) -> Reply:
    """The reply about one document; if the score is not finite, it is a failure and the document keeps its first-stage rank."""
    if not (math.isfinite(logit) and math.isfinite(score)):
        return Reply(((0,),), failures=frozenset({Violation.BAD_ANSWER}))
    return Reply(((0,),), probability=score, logit=logit)


def device_and_dtype(settings: EngineSettings) -> tuple[str, Any]:
    """The device and the torch dtype of the weights; on a CPU it also sets the number of threads."""
    import torch

    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        avoid_cudnn_attention()
    else:
        torch.set_num_threads(settings.threads)
    half = settings.dtype == "bf16" or (settings.dtype == "auto" and on_gpu)
    return ("cuda" if on_gpu else "cpu"), (torch.bfloat16 if half else torch.float32)


def text_tokens(folder: Path) -> int | None:
    """Maximum tokens of a text (or of a pair) that the model has positions for; None if its configuration does not say."""
    most, config = positions(folder), read_json(folder / "config.json")
    if most is not None and config.get("model_type") in OFFSET_POSITIONS:
        return most - int(config.get("pad_token_id") or 0) - 1
    return most


def check_tokens(folder: Path, keys: RankingKeys, what: str) -> None:
    """Refuse a token limit beyond the model's positions; ``what`` names the text in the message.

    Raises:
        UserError: with the highest possible limit.
    """
    most = text_tokens(folder)
    if keys.max_prompt_tokens is not None and most is not None and keys.max_prompt_tokens > most:
        raise UserError(
            f"max_prompt_tokens: {keys.max_prompt_tokens} is more than the {most} tokens of a {what} that {folder.name} has "
            f"positions for; use max_prompt_tokens={most}"
        )


def not_loaded(settings: EngineSettings, what: str, error: Exception) -> UserError:
    """The error for a model that cannot be loaded as ``what``."""
    return UserError(f"model: {settings.model} cannot be loaded as a {what}: {reason(error)}")

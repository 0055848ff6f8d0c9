"""What the encoders of reranking have in common: a worker that scores the documents of many queries in batches, without vLLM."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from r0.actors.rollout.engine import EngineSettings, positions
from r0.config import RankingKeys
from r0.errors import UserError
from r0.records import Form, Violation
from r0.rerank.asks import Ask, Ranking, Reply
from r0.rerank.fusion import fuse
from r0.rerank.job import Job, Outcome
from r0.text.tags import control_token_texts, escape_control_tokens

SORTED = 8  # batches of documents that are sorted by length together, so that a batch needs little padding
# Their position embeddings begin behind the padding id.
OFFSET_POSITIONS = ("camembert", "data2vec-text", "longformer", "roberta", "xlm-roberta", "xlm-roberta-xl", "xmod")
# What sentence-transformers raises for a folder that it cannot load.
LOADING = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError)


class EncoderWorker:
    """An encoder that works on many queries; its calls are ``RerankWorker``'s. A subclass says how jobs are scored.

    Args:
        keys: the configuration.
        settings: how many documents are computed at one time, among others.
        model: the loaded model of sentence-transformers.
    """

    def __init__(self, keys: RankingKeys, settings: EngineSettings, model: Any):
        self._keys, self._batch, self._model = keys, settings.max_num_seqs, model
        self._control = control_token_texts(model.tokenizer)
        self._waiting: deque[Job] = deque()

    def work(self, jobs: Sequence[Job], seconds: float) -> list[Outcome]:
        """Take ``jobs`` in and work; gives what is done after ``seconds``."""
        self._waiting.extend(jobs)
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
        """The process that this worker is in."""
        return os.getpid()

    def close(self) -> None:
        """Release the model."""
        del self._model

    def _score(self, jobs: Sequence[Job]) -> list[tuple[Sequence[float], int]]:
        """For each job its documents' scores before any activation, and the tokens that the model read."""
        raise NotImplementedError

    def _activated(self, logits: Sequence[float]) -> Sequence[float]:
        """The scores that documents are ordered by."""
        return logits

    def _outcome(self, job: Job, logits: Sequence[float], tokens: int, seconds: float) -> Outcome:
        both = zip(logits, self._activated(logits), strict=True)
        replies = tuple((Ask((i,), Form.YES_NO), _reply(logit, score)) for i, (logit, score) in enumerate(both))
        values = [reply.probability for _, reply in replies]
        ranking = Ranking.of_order(range(len(values))) if job.each else Ranking.of_scores(values)
        if job.scores and values:
            ranking = fuse(ranking, job.scores, self._keys.fusion_weight)
        return Outcome(job.key, ranking, replies, tokens, 0, seconds)

    def _plain(self, text: str) -> str:
        """``text`` without control tokens."""
        return escape_control_tokens(text, self._control)


def _reply(logit: float, score: float) -> Reply:
    """One document's; without a number it fails, and the document keeps its given rank."""
    if not (math.isfinite(logit) and math.isfinite(score)):
        return Reply(((0,),), failures=frozenset({Violation.BAD_ANSWER}))
    return Reply(((0,),), probability=score, logit=logit)


def placed(settings: EngineSettings) -> tuple[str, Any]:
    """The device and the torch dtype of the weights; on a CPU the worker's threads are set."""
    import torch

    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(settings.threads)
    half = settings.dtype == "bf16" or (settings.dtype == "auto" and on_gpu)
    return ("cuda" if on_gpu else "cpu"), (torch.bfloat16 if half else torch.float32)


def text_tokens(folder: Path) -> int | None:
    """Tokens of a text (of a pair together) that the model has positions for; None where its configuration does not say."""
    most, config = positions(folder), read_json(folder / "config.json")
    if most is not None and config.get("model_type") in OFFSET_POSITIONS:
        return most - int(config.get("pad_token_id") or 0) - 1
    return most


def check_tokens(folder: Path, keys: RankingKeys, what: str) -> None:
    """Refuse a budget beyond the model's positions; ``what`` is what has so many tokens.

    Raises:
        UserError: with the budget that fits.
    """
    most = text_tokens(folder)
    if keys.max_prompt_tokens is not None and most is not None and keys.max_prompt_tokens > most:
        raise UserError(
            f"max_prompt_tokens: {keys.max_prompt_tokens} is more than the {most} tokens of a {what} that {folder.name} has "
            f"positions for; use max_prompt_tokens={most}"
        )


def not_loaded(settings: EngineSettings, what: str, error: Exception) -> UserError:
    """What is said where the model cannot be loaded as ``what``."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"model: {settings.model} cannot be loaded as a {what}: {reason}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of the model's folder; empty where there is no such file.

    Raises:
        UserError: it is not valid JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"model: {path} is not valid JSON: {error}") from None
    return content if isinstance(content, dict) else {}

"""A model that orders documents: the class that the rerank command stands on, and that programs use.

``Reranker("r0-tiny").rank("why is the sky blue", ["Rayleigh scattering …", "Grass is green …"])``
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from r0.actors.pool import Pool, call_each, deferred_class
from r0.actors.rollout.engine import Device, EngineSettings, positions
from r0.config import RankingKeys, RaySection, RolloutSection
from r0.errors import UserError
from r0.rerank.asks import with_tail
from r0.rerank.cross_encoder import CrossEncoderWorker, is_cross_encoder
from r0.rerank.job import Job, Outcome
from r0.rerank.late_interaction import LateInteractionWorker, is_late_interaction
from r0.rerank.methods import width
from r0.rerank.pair_format import PairFormat
from r0.rerank.vector_cache import absolute
from r0.rerank.worker import QUEUED, RerankGroup, RerankWorker
from r0.storage.models import model_folder
from r0.text.answer_position import ANSWER_PREFIX_TOKENS

logger = logging.getLogger(__name__)

DEFAULT_PROMPT_TOKENS = 8192
SMALLEST_PROMPT = 64  # tokens; with less no document is worth showing
PREDICT_PAIRS = 64  # pairs of one query that are one job

MethodName: TypeAlias = Literal["pointwise", "listwise", "setwise", "groupwise", "late_interaction"]


class Reranker:
    """Orders documents by how well they answer a query.

    Args:
        model: a model folder, a name on the Hugging Face Hub, or r0-tiny. A cross-encoder wants method=pointwise, a
            multi-vector encoder method=late_interaction; neither has an engine.
        method: how a list is ordered.
        engine: vllm or hf; None: vLLM where it is installed.
        device: auto takes a GPU where there is one.
        workers: engines; one is in this process, several are Ray actors.
        system_prompt: empty: what the model was trained with, or r0's own for the method's answer form.
        settings: other keys of the rerank command and of its section rollout, such as ``window=10`` or ``max_num_seqs=32``.

    Raises:
        UserError: the model or the engine cannot be used.
        ValueError: a setting is unknown or out of bounds.
    """

    def __init__(
        self,
        model: str,
        method: MethodName = "listwise",
        *,
        engine: Literal["vllm", "hf"] | None = None,
        device: Device = "auto",
        workers: int = 1,
        system_prompt: str = "",
        **settings: Any,
    ):
        chosen = engine or ("vllm" if importlib.util.find_spec("vllm") else "hf")
        rollout = {name: settings.pop(name) for name in list(settings) if name in RolloutSection.model_fields}
        keys = RankingKeys(
            model=str(model),
            method=method,
            system_prompt=system_prompt,
            rollout=RolloutSection(engine=chosen, workers=workers, **rollout),
            ray=RaySection(inline=workers == 1),
            **settings,
        )
        self._start(keys, device)

    @classmethod
    def of(cls, keys: RankingKeys) -> Self:
        """The reranker that a configuration asks for: inline, or on the Ray that it names."""
        made = cls.__new__(cls)
        made._start(keys, "auto")
        return made

    def _start(self, keys: RankingKeys, device: Device) -> None:
        self.keys = keys
        self._keys_of_jobs = count()
        folder = model_folder(keys.model)
        work, arguments, capacity = _worker(keys, folder, device)
        self._placement: Any = None
        if keys.ray.inline:
            pool = Pool("rerank", lambda _: work(*arguments), 1)
        else:
            pool = self._on_ray(keys, folder, work, arguments)
        self._group = RerankGroup(pool, capacity, keys.ray.sample_deadline_s, keys.ray.start_deadline_s)

    def _on_ray(self, keys: RankingKeys, folder: Path, work: type, arguments: tuple) -> Pool:
        import ray

        from r0.actors.placement import Placement, check_nodes, start_ray

        need = start_ray(keys)
        check_nodes(folder)
        placement = self._placement = Placement(need)
        actor = ray.remote(deferred_class(work))
        pool = None
        try:
            pool = Pool("rerank", lambda i: actor.options(**placement.options("rollout", i)).remote(*arguments), len(need))
            call_each(pool.workers, "start", [()] * len(need), keys.ray.start_deadline_s, "rerank worker")
        except BaseException:
            if pool is not None:
                pool.close()
            placement.close()
            raise
        return pool

    @property
    def workers(self) -> list[Any]:
        """The workers: a plain object, or Ray actors."""
        return self._group.workers

    def run(self, jobs: Iterable[Job], stop: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
        """Outcomes of jobs in the order in which they are done, many in work at the same time; after ``stop()`` no more come.

        A query that cannot be shown to the model has the given order and says why (``Outcome.refused``). The keys of the jobs
        must differ from all that this reranker was given before (``job`` sees to it).
        """
        return self._group.run(jobs, stop)

    def job(self, query_id: str, query: str, documents: Sequence[str], scores: Sequence[float] = (), each: bool = False) -> Job:
        """A job of this reranker: the first ``depth`` documents, and their first-stage scores where those are to be fused."""
        depth = len(documents) if each else self.keys.depth
        fused = tuple(scores[:depth]) if self.keys.fusion_weight else ()
        return Job(next(self._keys_of_jobs), query_id, _text(query), tuple(map(_text, documents[:depth])), fused, each)

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, return_documents: bool = False
    ) -> list[dict[str, Any]]:
        """The documents by relevance, best first, as sentence-transformers' ``CrossEncoder.rank`` gives them.

        Documents beyond the setting ``depth`` follow in the order in which they were given. ``fusion_weight`` has no effect here:
        there are no first-stage scores.

        Args:
            query: the query.
            documents: [N] texts, best first stage first if there is one.
            top_k: how many to give back; None for all.
            return_documents: whether to give the texts too.

        Returns:
            For each document ``corpus_id`` (position in ``documents``), ``score`` (falling; of the method's own scale),
            ``thought`` (what the model thought when it last saw the document) and, if asked for, ``text``.

        Raises:
            UserError: the query is too long for the prompt budget.
        """
        (outcome,) = self.run([self.job(_text(query), query, documents)])
        _check(outcome)
        ranking = with_tail(outcome.ranking, len(documents))
        found: list[dict[str, Any]] = []
        for position in ranking.order[:top_k]:
            entry: dict[str, Any] = {"corpus_id": position, "score": ranking.scores[position]}
            if return_documents:
                entry["text"] = documents[position]
            found.append(entry | {"thought": outcome.thought(position)})
        return found

    def predict(
        self,
        inputs1: Sequence[tuple[str, str]] | Iterable[Mapping[str, Sequence[str]]],
        inputs2: Iterable[Mapping[str, Sequence[str]]] | None = None,
        **_: Any,
    ) -> np.ndarray:
        """Probabilities of yes, each document judged by itself, whatever the method of this reranker; scores of a cross-encoder,
        or of late interaction (MaxSim: those of one query can be compared, of two queries not).

        Args:
            inputs1: [N] (query, document) pairs, as ``CrossEncoder.predict`` takes them; or, with ``inputs2``, batches with the
                queries under ``"text"``, as MTEB's CrossEncoderProtocol has it.
            inputs2: batches with the documents.
            _: what both callers also pass (batch size, progress bar, the task): nothing depends on it.

        Returns:
            [N] float64 in 0…1; of an encoder on its own scale. A completion without an answer that can be read counts 0.5
            (how many is logged as a warning).

        Raises:
            UserError: a query is too long for the prompt budget.
        """
        if inputs2 is not None:
            queries, documents = ([text for batch in side for text in batch["text"]] for side in (inputs1, inputs2))  # type: ignore[call-overload]
            pairs = list(zip(queries, documents, strict=True))
        else:
            pairs = [(query, document) for query, document in inputs1]
        by_query: dict[str, list[int]] = {}
        for number, (query, _document) in enumerate(pairs):
            by_query.setdefault(query, []).append(number)
        places = [numbers[i : i + PREDICT_PAIRS] for numbers in by_query.values() for i in range(0, len(numbers), PREDICT_PAIRS)]
        jobs = {job.key: (job, numbers) for job, numbers in ((self._pairs(pairs, numbers), numbers) for numbers in places)}
        found_N = np.full(len(pairs), np.nan)
        for outcome in self.run(job for job, _numbers in jobs.values()):
            _check(outcome)
            for ask, reply in outcome.replies:
                if reply.probability is not None:
                    found_N[jobs[outcome.key][1][ask.documents[0]]] = reply.probability
        unread_N = np.isnan(found_N)
        if unread_N.any():
            logger.warning("%d of %d answers could not be read; they count 0.5", unread_N.sum(), len(pairs))
        return np.where(unread_N, 0.5, found_N)

    def _pairs(self, pairs: Sequence[tuple[str, str]], numbers: Sequence[int]) -> Job:
        query = pairs[numbers[0]][0]
        return self.job(_text(query), query, [pairs[number][1] for number in numbers], each=True)

    def close(self) -> None:
        """End the engines and give their resources back."""
        self._group.close()
        if self._placement is not None:
            self._placement.close()
            self._placement = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _worker(keys: RankingKeys, folder: Path, device: Device) -> tuple[type, tuple, int]:
    """The class of a worker for the model in ``folder``, its arguments, and how many queries one has in hand, at most.

    Raises:
        UserError: model and configuration do not fit each other.
    """
    most = QUEUED * keys.rollout.max_num_seqs
    late = is_late_interaction(folder, keys)
    if late or is_cross_encoder(folder, keys):
        settings = EngineSettings.of_rollout(keys.rollout, str(folder), positions(folder) or 0, device=device)
        many = max(2, most)  # however short the queries' lists are, an encoder's batches are full
        if not late:
            return CrossEncoderWorker, (keys, settings), many
        keys = keys.model_copy(update={"vector_cache": absolute(keys.vector_cache)})
        return LateInteractionWorker, (keys, settings), many
    prompt_tokens = prompt_budget(keys, folder)
    length = prompt_tokens + _new_tokens(keys)
    settings = EngineSettings.of_rollout(keys.rollout, str(folder), length, device=device)
    return RerankWorker, (keys, settings, prompt_tokens), max(2, -(-most // width(keys, keys.depth)))


def prompt_budget(keys: RankingKeys, folder: Path) -> int:
    """Tokens of a prompt, at most: as configured, else what fits the model.

    Raises:
        UserError: prompt and completion together have more tokens than the model has positions.
    """
    most = positions(folder)
    room = DEFAULT_PROMPT_TOKENS if most is None else most - _new_tokens(keys)
    if room < SMALLEST_PROMPT:
        raise UserError(
            f"max_new_tokens={keys.max_new_tokens} leaves no room for a prompt in the {most} positions of {folder.name}; lower it"
        )
    if keys.max_prompt_tokens is None:
        return min(DEFAULT_PROMPT_TOKENS, room)
    if most is not None and keys.max_prompt_tokens > room:
        if PairFormat.of(keys):
            raise UserError(
                f"max_prompt_tokens: {keys.max_prompt_tokens} and the answer's token are more than the {most} positions of "
                f"{folder.name}; use max_prompt_tokens={room}"
            )
        raise UserError(
            f"max_prompt_tokens={keys.max_prompt_tokens} and max_new_tokens={keys.max_new_tokens} are more than the {most} "
            f"positions of {folder.name}, of which {ANSWER_PREFIX_TOKENS} are kept; lower max_prompt_tokens to at most {room}"
        )
    return keys.max_prompt_tokens


def _new_tokens(keys: RankingKeys) -> int:
    """Tokens that follow a prompt, at most: one where a pair's format ends with the answer's."""
    return 1 if PairFormat.of(keys) else keys.max_new_tokens + ANSWER_PREFIX_TOKENS


def _check(outcome: Outcome) -> None:
    if outcome.refused:
        raise UserError(outcome.refused)


def _text(text: str) -> str:
    """``text`` without lone surrogates, which no tokenizer takes."""
    if not isinstance(text, str):
        raise TypeError(f"queries and documents are texts, not {type(text).__name__}")
    return text.encode("utf-8", "replace").decode("utf-8")

"""The ``Reranker`` class, used by the rerank command and as a library.

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
from r0.actors.rollout.settings import Device, EngineSettings, positions
from r0.actors.rollout.sizes import upper_num_seqs
from r0.config import RankingKeys, RaySection, RolloutSection
from r0.errors import UserError
from r0.process.gpus import local_gpus
from r0.rerank.cross_encoder import CrossEncoderWorker, is_cross_encoder
from r0.rerank.job import Job, Outcome
from r0.rerank.late_interaction import LateInteractionWorker, is_late_interaction
from r0.rerank.methods import concurrent_questions
from r0.rerank.prompt_budget import new_tokens, prompt_budget
from r0.rerank.protocol import with_tail
from r0.rerank.vector_cache import absolute
from r0.rerank.worker import QUEUED, RerankGroup, RerankWorker
from r0.storage.models import model_folder

logger = logging.getLogger(__name__)

PREDICT_PAIRS = 64  # pairs of one query that are one job

MethodName: TypeAlias = Literal["pointwise", "listwise", "setwise", "groupwise", "late_interaction"]


class Reranker:
    """Orders documents by how well they answer a query.

    Args:
        model: a model folder, a name on the Hugging Face Hub, or r0-tiny. Cross-encoders need method=pointwise, multi-vector
            encoders method=late_interaction; both work without an engine.
        method: the reranking method.
        engine: vllm or hf; None: vLLM if it is installed.
        device: auto uses a GPU if there is one.
        workers: number of engines; one runs in this process, several are Ray actors.
        system_prompt: empty: the one the model was trained with, or r0's default for the method's answer form.
        settings: other keys of the rerank command and of its section rollout, such as ``window=10`` or ``max_num_seqs=32``.
            With ``tensor_parallel_size`` above 1 a script must be guarded by ``if __name__ == "__main__":``.

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
        """The reranker of a configuration: inline, or on Ray."""
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
        """Yield the outcomes of jobs as they finish, many in progress at once; after ``stop()`` returns True no more are
        yielded.

        A query that does not fit the prompt keeps the first-stage order and has a reason (``Outcome.refused``). The keys of
        the jobs must be unique for this reranker (``job`` ensures this).
        """
        return self._group.run(jobs, stop)

    def job(self, query_id: str, query: str, documents: Sequence[str], scores: Sequence[float] = (), each: bool = False) -> Job:
        """Create a job: the first ``depth`` documents, and their first-stage scores if those are fused."""
        depth = len(documents) if each else self.keys.depth
        fused = tuple(scores[:depth]) if self.keys.fusion_weight else ()
        return Job(next(self._keys_of_jobs), query_id, _text(query), tuple(map(_text, documents[:depth])), fused, each)

    def rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None, return_documents: bool = False
    ) -> list[dict[str, Any]]:
        """The documents by relevance, best first, in the format of sentence-transformers' ``CrossEncoder.rank``.

        Documents beyond the setting ``depth`` follow in the given order. ``fusion_weight`` has no effect here, since there
        are no first-stage scores.

        Args:
            query: the query.
            documents: [N] texts, in first-stage order if there is one.
            top_k: number of documents to return; None for all.
            return_documents: whether to include the texts.

        Returns:
            For each document ``corpus_id`` (position in ``documents``), ``score`` (decreasing; its scale depends on the
                method),
            ``thought`` (the model's thought in the last reply about the document) and, if requested, ``text``.

        Raises:
            UserError: the query is too long for the maximum prompt length.
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
        """P(yes) of each document on its own, whatever the method of this reranker. Cross-encoders return their scores, late
        interaction returns MaxSim (comparable within a query only).

        Args:
            inputs1: [N] (query, document) pairs, as for ``CrossEncoder.predict``; or, with ``inputs2``, batches with the
                queries under ``"text"``, as in MTEB's CrossEncoderProtocol.
            inputs2: batches with the documents.
            _: other arguments of both callers (batch size, progress bar, the task); ignored.

        Returns:
            [N] float64 in 0…1; for encoders in their own scale. Unreadable answers count as 0.5 (their number is logged
            as a warning).

        Raises:
            UserError: a query is too long for the maximum prompt length.
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
            logger.warning("%d of %d answers were unreadable; they count as 0.5", unread_N.sum(), len(pairs))
        return np.where(unread_N, 0.5, found_N)

    def _pairs(self, pairs: Sequence[tuple[str, str]], numbers: Sequence[int]) -> Job:
        query = pairs[numbers[0]][0]
        return self.job(_text(query), query, [pairs[number][1] for number in numbers], each=True)

    def close(self) -> None:
        """Stop the engines and release their resources."""
        self._group.close()
        if self._placement is not None:
            self._placement.close()
            self._placement = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _worker(keys: RankingKeys, folder: Path, device: Device) -> tuple[type, tuple, int]:
    """The worker class for the model in ``folder``, its arguments, and the maximum number of queries per worker.

    Raises:
        UserError: model and configuration do not fit.
    """
    gpus = device != "cpu" and local_gpus() > 0
    most = QUEUED * upper_num_seqs(keys.rollout.max_num_seqs, gpus)
    late = is_late_interaction(folder, keys)
    if late or is_cross_encoder(folder, keys):
        settings = EngineSettings.of_rollout(keys.rollout, str(folder), positions(folder) or 0, device=device)
        many = max(2, QUEUED * settings.batch)  # however short the queries' lists are, an encoder's batches are full
        if not late:
            return CrossEncoderWorker, (keys, settings), many
        keys = keys.model_copy(update={"vector_cache": absolute(keys.vector_cache)})
        return LateInteractionWorker, (keys, settings), many
    prompt_tokens = prompt_budget(keys, folder)
    length = prompt_tokens + new_tokens(keys)
    settings = EngineSettings.of_rollout(keys.rollout, str(folder), length, device=device)
    return RerankWorker, (keys, settings, prompt_tokens), max(2, -(-most // concurrent_questions(keys, keys.depth)))


def _check(outcome: Outcome) -> None:
    if outcome.refused:
        raise UserError(outcome.refused)


def _text(text: str) -> str:
    """``text`` without lone surrogates, which no tokenizer takes."""
    if not isinstance(text, str):
        raise TypeError(f"queries and documents are texts, not {type(text).__name__}")
    return text.encode("utf-8", "replace").decode("utf-8")

"""The ``Reranker`` class, used by the rerank command and as a library.

``Reranker("r0-tiny").rank("why is the sky blue", ["Rayleigh scattering …", "Grass is green …"])``
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import Any, Literal, Self, TypeAlias, cast

import numpy as np

from r0.actors.rollout.settings import Device
from r0.config import RankingKeys, RaySection, RolloutSection
from r0.errors import UserError
from r0.rerank.group import RerankGroup, SharedWork
from r0.rerank.job import Job, Outcome
from r0.rerank.pair_inputs import (
    Batch,
    Inputs,
    activated,
    check_others,
    lists_of,
    pairs_of,
    returned,
    texts_of,
    valid_text,
)
from r0.rerank.predictions import check_fits, list_scores, pair_scores
from r0.rerank.prompt_budget import check_model
from r0.rerank.protocol import with_tail
from r0.rerank.start import start_workers
from r0.runs.live import progress
from r0.storage.models import model_folder

logger = logging.getLogger(__name__)

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
        check_model(keys, model_folder(keys.model))
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
        self._group: RerankGroup | None = start_workers(keys, device)

    def _open(self) -> RerankGroup:
        if self._group is None:
            raise UserError("this Reranker is closed; create another one")
        return self._group

    @property
    def workers(self) -> list[Any]:
        """The workers: a plain object, or Ray actors."""
        return self._open().workers

    def run(self, jobs: Iterable[Job], stop: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
        """Yield the outcomes of jobs as they finish, many in progress at once; after ``stop()`` returns True no more are
        yielded.

        A query that does not fit the prompt keeps the first-stage order and has a reason (``Outcome.refused``). The keys of
        the jobs must be unique for this reranker (``job`` ensures this).
        """
        return self._open().run(jobs, stop)

    def open(self) -> SharedWork:
        """Work to which jobs can be added, and from which they can be taken, while others are in progress."""
        return self._open().open()

    def job(self, query_id: str, query: str, documents: Sequence[str], scores: Sequence[float] = (), each: bool = False) -> Job:
        """Create a job: the first ``depth`` documents, and their first-stage scores if those are fused."""
        depth = len(documents) if each else self.keys.depth
        fused = tuple(scores[:depth]) if self.keys.fusion_weight else ()
        texts = tuple(map(valid_text, documents[:depth]))
        return Job(next(self._keys_of_jobs), valid_text(query_id), valid_text(query), texts, fused, each)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        **others: Any,
    ) -> list[dict[str, Any]]:
        """The documents by relevance, best first, in the format of sentence-transformers' ``CrossEncoder.rank``.

        Documents beyond the setting ``depth`` follow in the given order. ``fusion_weight`` has no effect here, since there
        are no first-stage scores.

        Args:
            query: the query.
            documents: [N] texts, in first-stage order if there is one.
            top_k: number of documents to return; None for all.
            return_documents: whether to include the texts.
            show_progress_bar: whether to show progress on a terminal.
            activation_fn: gives the scores from the logits (pointwise and encoders only); None: the model's own.
            others: ``batch_size``, ``device``, ``pool`` and ``chunk_size`` of ``CrossEncoder.rank``; ignored, because the
                reranker's settings decide.

        Returns:
            For each document ``corpus_id`` (position in ``documents``), ``score`` (decreasing; its scale depends on the
                method),
            ``thought`` (the model's thought in the last reply about the document) and, if requested, ``text``.

        Raises:
            UserError: the query is too long for the maximum prompt length, or the reranker is closed.
            TypeError: a text is not a ``str``, or an argument is unknown.
            ValueError: a prompt is given, or ``activation_fn`` with a method that has no logits.
        """
        check_others(others)
        texts = texts_of(documents)
        outcomes = self.run([self.job(valid_text(query), query, texts)])
        (outcome,) = progress(outcomes, "ranking", 1) if show_progress_bar else outcomes
        check_fits(outcome)
        ranking = with_tail(outcome.ranking, len(texts))
        score: Sequence[float] = ranking.scores
        if activation_fn is not None:
            score = activated([logit for logit in outcome.logits if logit is not None], activation_fn).tolist()
            if len(score) < len(texts):
                raise ValueError("activation_fn: not every document has a logit; leave it out, or use method=pointwise")
        found: list[dict[str, Any]] = []
        for position in ranking.order[:top_k]:
            entry: dict[str, Any] = {"corpus_id": position, "score": score[position]}
            if return_documents:
                entry["text"] = texts[position]
            found.append(entry | {"thought": outcome.thought(position)})
        return found

    def predict(
        self,
        inputs1: Inputs | Iterable[Batch] | None = None,
        inputs2: Iterable[Batch] | None = None,
        *,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **others: Any,
    ) -> Any:
        """The score of each (query, document) pair.

        It is P(yes) of the document on its own, whatever the method of this reranker. Cross-encoders return their scores, late
        interaction returns MaxSim (comparable within a query only). With ``inputs2`` (MTEB's CrossEncoderProtocol) the documents
        of each query are ranked as ``rank`` does, so that ``mteb.evaluate`` measures the method.

        Args:
            inputs1: [N] (query, document) pairs or one pair, as for ``CrossEncoder.predict`` (also as ``inputs=`` or
                ``sentences=``); or, with ``inputs2``, batches with the queries under ``"text"`` and their ids under ``"id"``.
            inputs2: batches with the documents, in first-stage order for each query.
            show_progress_bar: whether to show progress on a terminal.
            activation_fn: gives the scores from the logits; None: the model's own.
            convert_to_numpy: whether to return an array; otherwise a list of tensors.
            convert_to_tensor: whether to return one tensor, whatever ``convert_to_numpy`` says.
            others: other arguments of both callers (batch size, device, the task); ignored.

        Returns:
            [N] float64 in 0…1, for encoders in their own scale; one number for one pair. A pair for which the model gives no
                finite number counts as 0.5 (a warning says how many). With ``inputs2`` the scores of the ranking.

        Raises:
            UserError: a query is too long for the maximum prompt length, or the reranker is closed.
            TypeError: an input is not a pair of texts.
            ValueError: a prompt is given, or ``activation_fn`` with ``inputs2``.
        """
        check_others(others, known=None)
        if inputs2 is not None:
            if activation_fn is not None:
                raise ValueError("activation_fn: batches of queries and documents are ranked; leave it out, or give pairs")
            lists = lists_of(cast(Iterable[Batch], inputs1 or ()), inputs2)
            ranked_N = list_scores(self, lists, bool(show_progress_bar))
            return returned(ranked_N, False, convert_to_numpy, convert_to_tensor)
        pairs, single = pairs_of(cast(Inputs | None, inputs1), others)
        found_N, logits_N = pair_scores(self, pairs, bool(show_progress_bar))
        missing_N = np.isnan(found_N)
        if missing_N.any():
            logger.warning("%d of %d pairs have no finite score; they count as 0.5", missing_N.sum(), len(pairs))
        found_N = np.where(missing_N, 0.5, found_N) if activation_fn is None else activated(logits_N, activation_fn)
        return returned(found_N, single, convert_to_numpy, convert_to_tensor)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """The ``mteb.ModelMeta`` of this reranker, for ``mteb.evaluate``.

        Raises:
            ImportError: mteb is not installed.
        """
        from r0.rerank.mteb_meta import model_meta

        return model_meta(self.keys)

    def close(self, gently: bool = True) -> None:
        """Stop the engines and release their resources; calling it again does nothing. ``gently=False`` does not wait for what
        they are doing."""
        group, self._group = self._group, None
        if group is not None:
            group.close(gently)

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(gently=kind is None)

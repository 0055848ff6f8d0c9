"""Late interaction (Khattab & Zaharia, 2020, ColBERT): one vector per token, computed and compared by sentence-transformers.

The score of a document is MaxSim: the sum over the query's tokens of the largest dot product with any of the document's
tokens (or the mean over the query's tokens, if the folder says ``meanmaxsim``). Scores order the documents of one query but
are not comparable between queries. Document vectors do not depend on the query and are cached (``r0.rerank.vector_cache``).

The scores are those of ``sentence_transformers.MultiVectorEncoder`` (``similarity`` of ``encode_query`` and
``encode_document``, with the prompts, lengths, query expansion and skipped words saved in the folder), with one difference: a
control token spelled in a query or a document is treated as text here, but as a control token there. Folders of PyLate and of
Stanford's ColBERT can be read too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from r0.actors.rollout.settings import EngineSettings
from r0.config import RankingKeys
from r0.errors import UserError
from r0.rerank.encoder_worker import EncoderWorker, check_tokens, device_and_dtype, not_loaded, text_tokens
from r0.rerank.job import Job
from r0.rerank.pair_format import PairFormat
from r0.rerank.vector_cache import AUTO, VectorCache, cache_folder, model_hash
from r0.storage.loading import LOADING
from r0.storage.model_checks import read_json

logger = logging.getLogger(__name__)

METHOD = "late_interaction"


def is_late_interaction(folder: Path, keys: RankingKeys) -> bool:
    """Whether the configuration uses the model in ``folder`` for late interaction.

    Raises:
        UserError: the method does not fit the model, or another key does not fit late interaction.
    """
    if keys.method != METHOD:
        if is_multi_vector(folder):
            raise UserError(f"method: {folder.name} is a multi-vector encoder, which gives vectors only; use method={METHOD}")
        return False
    if not is_multi_vector(folder):
        raise UserError(
            f"model: {folder} is not a multi-vector encoder, which method={METHOD} needs; give a folder saved by "
            "sentence-transformers' MultiVectorEncoder, PyLate or ColBERT, or use another method"
        )
    if keys.thinking:
        raise UserError(f"thinking: a multi-vector encoder generates no text; remove thinking with method={METHOD}")
    if PairFormat.of(keys) is not None:
        raise UserError(f"query_format: a multi-vector encoder has its own format; remove it with method={METHOD}")
    check_tokens(folder, keys, "document")
    if keys.vector_cache != AUTO:
        cache_folder(keys.vector_cache)
    return True


def is_multi_vector(folder: Path) -> bool:
    """Whether the folder was saved as a multi-vector encoder by sentence-transformers, PyLate or Stanford's ColBERT."""
    saved = read_json(folder / "config_sentence_transformers.json")
    if "HF_ColBERT" in (read_json(folder / "config.json").get("architectures") or []):
        return True
    named = saved.get("model_type") in ("MultiVectorEncoder", "ColBERT") or "query_prefix" in saved
    return named and (folder / "modules.json").is_file()


class LateInteractionWorker(EncoderWorker):
    """A multi-vector encoder that works on many queries.

    Args:
        keys: the configuration.
        settings: the model's folder, device, dtype, threads and batch size in documents.

    Raises:
        UserError: sentence-transformers cannot load the model, or the configured cache folder cannot be used.
    """

    def __init__(self, keys: RankingKeys, settings: EngineSettings):
        super().__init__(keys, settings, _load(keys, settings))
        self._control = _with_markers(self._control, self._model)
        self._cache = _open_cache(keys, settings)

    def close(self) -> None:
        """Release the model and the vector cache."""
        super().close()
        if self._cache is not None:
            self._cache.close()

    def _score(self, jobs: Sequence[Job]) -> list[tuple[Sequence[float], int]]:
        queries = [self._plain(job.query) for job in jobs]
        documents = [[self._plain(document) for document in job.documents] for job in jobs]
        of_query = self._encode(self._model.encode_query, list(dict.fromkeys(queries)))
        wanted = list(dict.fromkeys(document for texts in documents for document in texts))
        of_document = {} if self._cache is None else self._cache.get(wanted)
        new = self._encode(self._model.encode_document, [text for text in wanted if text not in of_document])
        if self._cache is not None:
            self._cache.put(new)
        of_document.update(new)
        found = []
        for query, texts in zip(queries, documents, strict=True):
            vectors = [of_document[text] for text in texts]
            scores = self._model.similarity([of_query[query]], vectors, device=self._model.device)[0].tolist() if texts else []
            # What the model read for this job: a document counts for the first job that needed it.
            read = len(of_query[query]) + sum(len(new.pop(text)) for text in texts if text in new)
            found.append((scores, read))
        return found

    def _encode(self, encode: Any, texts: list[str]) -> dict[str, Any]:
        """The vectors of texts, [tokens, dim] each, on the CPU."""
        if not texts:
            return {}
        vectors = encode(texts, batch_size=self._batch, show_progress_bar=False)
        return {text: one_TD.cpu() for text, one_TD in zip(texts, vectors, strict=True)}


def _open_cache(keys: RankingKeys, settings: EngineSettings) -> VectorCache | None:
    """The vector cache of this model, or None if caching is off.

    Raises:
        UserError: the configured cache folder cannot be used. (If the default folder cannot be used, a warning is logged.)
    """
    _device, dtype = device_and_dtype(settings)
    try:
        folder = cache_folder(keys.vector_cache)
        if folder is None:
            return None
        versions = (version("sentence-transformers"), version("transformers"))
        key = model_hash(Path(settings.model), dtype, keys.max_prompt_tokens, *versions)
        return VectorCache(folder / f"{key}.sqlite", dtype)
    except UserError as error:
        if keys.vector_cache != AUTO:
            raise
        logger.warning("%s; document vectors are not cached", error)
        return None


def _load(keys: RankingKeys, settings: EngineSettings) -> Any:
    """The model, with documents cut to the positions it has.

    Raises:
        UserError: it cannot be loaded.
    """
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Transformer

    device, dtype = device_and_dtype(settings)
    try:
        model = MultiVectorEncoder(settings.model, device=device, local_files_only=True, model_kwargs={"dtype": dtype})
    except LOADING as error:
        raise not_loaded(settings, "multi-vector encoder", error) from error
    most = text_tokens(Path(settings.model))
    for module in model.modules():
        if isinstance(module, Transformer):
            if keys.max_prompt_tokens is not None:
                module.document_length = keys.max_prompt_tokens
            elif most is not None and (module.document_length or 0) > most:
                module.document_length = most
    return model


def _with_markers(control: Sequence[str], model: Any) -> list[str]:
    """The texts of control tokens, and the query and document markers, which PyLate adds to a tokenizer as ordinary tokens."""
    added = {token.content for token in model.tokenizer.added_tokens_decoder.values()}
    markers = {prompt for prompt in model.prompts.values() if prompt in added}
    return sorted({*control, *markers}, key=len, reverse=True)

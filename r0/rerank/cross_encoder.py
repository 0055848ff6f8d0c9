"""Cross-encoders: models that read query and document together and give one score. sentence-transformers runs them.

Scored so, with method=pointwise and without vLLM, are

* a model with a score head (``…ForSequenceClassification``: BERT, XLM-RoBERTa, a decoder that was given one);
* a folder that sentence-transformers or r0 saved as a ``CrossEncoder``, a decoder's logit(yes) − logit(no) among them. With
  ``thinking`` true or false, or another method, such a decoder is a language model like others;
* a language model for which the configuration gives the format of a pair (``query_format`` …), read as yes against no.

The scores are those of ``sentence_transformers.CrossEncoder.predict`` with the activation that the folder names (a sigmoid where
it names none), but for one thing: a control token spelled in a query or a document is text here, and a control token there.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r0.actors.engine import EngineSettings, positions
from r0.config import RankingKeys
from r0.errors import UserError
from r0.records import Form, Violation
from r0.rerank.asks import Ask, Ranking, Reply
from r0.rerank.fusion import fuse
from r0.rerank.job import Job, Outcome
from r0.rerank.pair_format import PairFormat
from r0.tags import DEFUSED, defuse

SORTED = 8  # batches of pairs that are sorted by length together, so that a batch needs little padding
# Their position embeddings begin behind the padding id.
OFFSET_POSITIONS = ("camembert", "data2vec-text", "longformer", "roberta", "xlm-roberta", "xlm-roberta-xl", "xmod")


def is_cross_encoder(folder: Path, keys: RankingKeys) -> bool:
    """Whether the configuration means the model in ``folder`` as a cross-encoder.

    Raises:
        UserError: the model can only be one and the configuration asks for something else; it neither writes nor scores.
    """
    config = _read(folder / "config.json")
    name = next(iter(config.get("architectures") or []), "")
    formats = PairFormat.of(keys)
    if name.endswith("ForSequenceClassification"):
        if keys.method != "pointwise":
            raise UserError(f"method: {folder.name} scores documents one by one ({name}); use method=pointwise")
        if keys.thinking:
            raise UserError(f"thinking: {folder.name} has a score head and writes nothing ({name}); leave thinking out")
    elif formats is not None:
        if keys.method != "pointwise" or keys.thinking:
            raise UserError("query_format: a pair's format gives scores without a thought; use method=pointwise without thinking")
    elif not name.endswith(("ForCausalLM", "ForConditionalGeneration")):
        what = name or "model of no known kind"
        raise UserError(f"model: {folder} is a {what}, which neither writes nor scores; finetune it first")
    elif keys.method != "pointwise" or keys.thinking is not None or not _saved_as_cross_encoder(folder):
        return False
    most = pair_tokens(folder)
    if keys.max_prompt_tokens is not None and most is not None and keys.max_prompt_tokens > most:
        raise UserError(
            f"max_prompt_tokens: {keys.max_prompt_tokens} is more than the {most} tokens of a pair that {folder.name} has "
            f"positions for; use max_prompt_tokens={most}"
        )
    return True


def pair_tokens(folder: Path) -> int | None:
    """Tokens of query and document together that the model has positions for; None where its configuration does not say."""
    most, config = positions(folder), _read(folder / "config.json")
    if most is not None and config.get("model_type") in OFFSET_POSITIONS:
        return most - int(config.get("pad_token_id") or 0) - 1
    return most


class CrossEncoderWorker:
    """A cross-encoder that works on many queries; its calls are ``RerankWorker``'s.

    Args:
        keys: the configuration.
        settings: the model's folder, device, dtype, threads and how many pairs are computed at one time.

    Raises:
        UserError: sentence-transformers cannot load the model, or it has another number of scores than one.
    """

    def __init__(self, keys: RankingKeys, settings: EngineSettings):
        self._keys, self._batch = keys, settings.max_num_seqs
        self._model = _load(keys, settings)
        self._control = _control_texts(self._model.tokenizer)
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
            done += self._score(batch)
        return done

    def pid(self) -> int:
        """The process that this worker is in."""
        return os.getpid()

    def close(self) -> None:
        """Release the model."""
        del self._model

    def _score(self, jobs: Sequence[Job]) -> list[Outcome]:
        began = time.monotonic()
        pairs = [(self._plain(job.query), self._plain(document)) for job in jobs for document in job.documents]
        scores = self._model.predict(pairs, batch_size=self._batch, show_progress_bar=False).tolist() if pairs else []
        seconds, place, found = time.monotonic() - began, 0, []
        for job in jobs:
            end = place + len(job.documents)
            tokens = sum(self._model.tokens[pair] for pair in pairs[place:end])
            found.append(self._outcome(job, scores[place:end], tokens, seconds))
            place = end
        self._model.tokens.clear()
        return found

    def _outcome(self, job: Job, scores: Sequence[float], tokens: int, seconds: float) -> Outcome:
        values = [score if math.isfinite(score) else None for score in scores]
        ranking = Ranking.of_order(range(len(values))) if job.each else Ranking.of_scores(values)
        if job.scores and values:
            ranking = fuse(ranking, job.scores, self._keys.fusion_weight)
        wrong = frozenset({Violation.BAD_ANSWER})  # no number: the document keeps its given rank
        replies = tuple(
            (Ask((i,), Form.YES_NO), Reply(((0,),), probability=value, failures=wrong if value is None else frozenset()))
            for i, value in enumerate(values)
        )
        return Outcome(job.key, ranking, replies, tokens, 0, seconds)

    def _plain(self, text: str) -> str:
        """``text`` without control tokens: the rule of ``r0.tags``, and ``[ SEP]`` for those that begin otherwise."""
        for token in self._control:
            if token in text:
                text = text.replace(token, DEFUSED + token[1:] if token[0] == "<" else f"{token[0]} {token[1:]}")
        return text


def _load(keys: RankingKeys, settings: EngineSettings) -> Any:
    """The model, a ``CrossEncoder`` whose ``tokens`` has the length of every pair that it has seen.

    Raises:
        UserError: it cannot be loaded, or gives another number of scores than one.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore
    from transformers import AutoTokenizer

    class Counting(CrossEncoder):
        """Notes the tokens of pairs on their way into the model."""

        def preprocess(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
            features = super().preprocess(inputs, *arguments, **options)
            self.tokens.update(zip(map(tuple, inputs), features["attention_mask"].sum(dim=1).tolist(), strict=True))
            return features

    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(settings.threads)
    half = settings.dtype == "bf16" or (settings.dtype == "auto" and on_gpu)
    formats, template = PairFormat.of(keys), {}
    try:
        if formats is not None:
            tokenizer = AutoTokenizer.from_pretrained(settings.model)
            template = {"chat_template": formats.chat_template(tokenizer), "padding_side": "left"}
        model = Counting(
            settings.model,
            device="cuda" if on_gpu else "cpu",
            local_files_only=True,
            max_length=keys.max_prompt_tokens,
            model_kwargs={"dtype": torch.bfloat16 if half else torch.float32},
            processor_kwargs=template,
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"model: {settings.model} cannot be loaded as a cross-encoder: {reason}") from error
    if model.num_labels != 1:
        raise UserError(
            f"model: {settings.model} gives {model.num_labels} scores a pair and a reranker needs one; train it with num_labels=1"
        )
    last = model[-1]
    if isinstance(last, LogitScore) and last.true_token_id == last.false_token_id:
        raise UserError(
            f"model: the tokenizer of {settings.model} writes yes and no with the same token, so their logits tell nothing; "
            "use another model"
        )
    most = pair_tokens(Path(settings.model))
    if most is not None and model.max_seq_length > most:
        model.max_seq_length = most
    model.tokens = {}
    return model


def _control_texts(tokenizer: Any) -> list[str]:
    """Control tokens' texts, the longest first: special ones, and tags of r0 or of a chat template that are one token each."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special or defuse(token.content) != token.content}
    return sorted(texts | set(tokenizer.all_special_tokens), key=len, reverse=True)


def _saved_as_cross_encoder(folder: Path) -> bool:
    """Whether the folder's own files call it a sentence-transformers ``CrossEncoder``."""
    kind = _read(folder / "config_sentence_transformers.json").get("model_type")
    return kind == "CrossEncoder" and (folder / "modules.json").is_file()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"model: {path} is not valid JSON: {error}") from None
    return content if isinstance(content, dict) else {}

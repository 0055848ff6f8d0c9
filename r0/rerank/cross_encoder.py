"""Cross-encoders: models that read query and document together and give one score. sentence-transformers runs them.

Scored so, with method=pointwise and without vLLM or any other engine, are

* a model with a score head (``…ForSequenceClassification``: BERT, XLM-RoBERTa, a decoder that was given one);
* a folder that sentence-transformers or r0 saved as a ``CrossEncoder``, a decoder's logit(yes) − logit(no) among them. With
  ``thinking`` true or false, or another method, such a decoder is a language model like others;
* a language model for which the configuration gives the format of a pair (``query_format`` …), read as yes against no, where
  rollout.engine is hf. vLLM scores it otherwise, from token ids (``r0.rerank.pair_prompts``).

The scores of a ranking are those of ``sentence_transformers.CrossEncoder.predict`` with the activation that the folder names (a
sigmoid where it names none), but for one thing: a control token spelled in a query or a document is text here, and a control
token there. A reply has the score before the activation beside it (``Reply.logit``).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r0.actors.rollout.settings import EngineSettings
from r0.config import RankingKeys
from r0.errors import UserError
from r0.rerank.encoder_worker import LOADING, EncoderWorker, check_tokens, not_loaded, placed, text_tokens
from r0.rerank.job import Job
from r0.rerank.pair_format import PairFormat
from r0.storage.model_checks import read_json


def is_cross_encoder(folder: Path, keys: RankingKeys) -> bool:
    """Whether the configuration means the model in ``folder`` as a cross-encoder.

    Raises:
        UserError: the model can only be one and the configuration asks for something else; it neither writes nor scores.
    """
    config = read_json(folder / "config.json")
    name = next(iter(config.get("architectures") or []), "")
    formats = PairFormat.of(keys)
    if name.endswith("ForSequenceClassification"):
        if keys.method != "pointwise":
            raise UserError(f"method: {folder.name} scores documents one by one ({name}); use method=pointwise")
        if keys.thinking:
            raise UserError(f"thinking: {folder.name} has a score head and writes nothing ({name}); leave thinking out")
    elif not name.endswith(("ForCausalLM", "ForConditionalGeneration")):
        what = name or "model of no known kind"
        raise UserError(f"model: {folder} is a {what}, which neither writes nor scores; finetune it first")
    elif formats is not None:
        if keys.method != "pointwise" or keys.thinking:
            raise UserError("query_format: a pair's format gives scores without a thought; use method=pointwise without thinking")
        if keys.rollout.engine == "vllm":
            return False
    elif keys.method != "pointwise" or keys.thinking is not None or not _saved_as_cross_encoder(folder):
        return False
    check_tokens(folder, keys, "pair")
    return True


class CrossEncoderWorker(EncoderWorker):
    """A cross-encoder that works on many queries.

    Args:
        keys: the configuration.
        settings: the model's folder, device, dtype, threads and how many pairs are computed at one time.

    Raises:
        UserError: sentence-transformers cannot load the model, or it has another number of scores than one.
    """

    def __init__(self, keys: RankingKeys, settings: EngineSettings):
        super().__init__(keys, settings, _load(keys, settings))

    def _score(self, jobs: Sequence[Job]) -> list[tuple[Sequence[float], int]]:
        pairs = [(self._plain(job.query), self._plain(document)) for job in jobs for document in job.documents]
        logits = self._logits(pairs)
        place = 0
        found: list[tuple[Sequence[float], int]] = []
        for job in jobs:
            end = place + len(job.documents)
            found.append((logits[place:end], sum(self._model.tokens[pair] for pair in pairs[place:end])))
            place = end
        self._model.tokens.clear()
        return found

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """[pairs] scores before the activation that the folder names."""
        if not pairs:
            return []
        from torch.nn import Identity

        raw = Identity()
        return self._model.predict(pairs, batch_size=self._batch, activation_fn=raw, show_progress_bar=False).tolist()

    def _activated(self, logits: Sequence[float]) -> Sequence[float]:
        import torch

        return self._model.activation_fn(torch.tensor(logits).unsqueeze(-1)).flatten().tolist()


def _load(keys: RankingKeys, settings: EngineSettings) -> Any:
    """The model, a ``CrossEncoder`` whose ``tokens`` has the length of every pair that it has seen.

    Raises:
        UserError: it cannot be loaded, or gives another number of scores than one.
    """
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore
    from transformers import AutoTokenizer

    # An ESCI folder's softmax, whose dimension its file cannot name; of two dimensions it is the right one.
    warnings.filterwarnings("ignore", message="Implicit dimension choice for softmax")

    class Counting(CrossEncoder):
        """Notes the tokens of pairs on their way into the model."""

        def preprocess(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
            features = super().preprocess(inputs, *arguments, **options)
            self.tokens.update(zip(map(tuple, inputs), features["attention_mask"].sum(dim=1).tolist(), strict=True))
            return features

    device, dtype = placed(settings)
    formats, template = PairFormat.of(keys), {}
    try:
        if formats is not None:
            tokenizer = AutoTokenizer.from_pretrained(settings.model)
            template = {"chat_template": formats.chat_template(tokenizer), "padding_side": "left"}
        model = Counting(
            settings.model,
            device=device,
            local_files_only=True,
            max_length=keys.max_prompt_tokens,
            model_kwargs={"dtype": dtype},
            processor_kwargs=template,
        )
    except LOADING as error:
        raise not_loaded(settings, "cross-encoder", error) from error
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
    most = text_tokens(Path(settings.model))
    if most is not None and model.max_seq_length > most:
        model.max_seq_length = most
    model.tokens = {}
    return model


def _saved_as_cross_encoder(folder: Path) -> bool:
    """Whether the folder's own files call it a sentence-transformers ``CrossEncoder``."""
    kind = read_json(folder / "config_sentence_transformers.json").get("model_type")
    return kind == "CrossEncoder" and (folder / "modules.json").is_file()

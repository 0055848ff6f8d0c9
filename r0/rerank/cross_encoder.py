"""Cross-encoders: models that read query and document together and give one score, run by sentence-transformers.

With method=pointwise and without a generation engine this scores

* a model with a score head (``…ForSequenceClassification``: BERT, XLM-RoBERTa, a decoder with such a head), of one label, or of
  two (``r0.rerank.two_labels``);
* a folder saved as a ``CrossEncoder`` by sentence-transformers or r0, including decoders scored by logit(yes) − logit(no). If
  ``thinking`` is set, or with another method, such a decoder is used as an ordinary language model;
* a language model with a pair format in the configuration (``query_format`` …), scored by yes against no, if rollout.engine
  is hf. (vLLM scores it from token ids: ``r0.rerank.pair_prompts``.)

The scores are those of ``sentence_transformers.CrossEncoder.predict`` with the activation named in the folder (default:
sigmoid), with three differences: a control token spelled in a query or a document is treated as text here, but as a control
token there; the activation is computed in double precision, because in single precision a sigmoid is 1 from a logit of 17 on;
and the scores of a bfloat16 model are float32 (``r0.storage.output_head``). A reply also has the score before the activation
(``Reply.logit``), which orders documents of equal scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r0.actors.rollout.settings import EngineSettings
from r0.config import RankingKeys
from r0.errors import UserError
from r0.rerank.encoder_worker import EncoderWorker, check_tokens, device_and_dtype, not_loaded, text_tokens
from r0.rerank.job import Job
from r0.rerank.pair_format import PairFormat
from r0.rerank.two_labels import check_labels, give_one_score
from r0.storage.loading import LOADING, attention
from r0.storage.model_checks import generates, read_json
from r0.text.tokenizer import open_tokenizer


def is_cross_encoder(folder: Path, keys: RankingKeys) -> bool:
    """Whether the configuration uses the model in ``folder`` as a cross-encoder.

    Raises:
        UserError: the model can only be a cross-encoder but the configuration asks for something else; or it can neither
            generate nor score.
    """
    config = read_json(folder / "config.json")
    name = next(iter(config.get("architectures") or []), "")
    formats = PairFormat.of(keys)
    if name.endswith("ForSequenceClassification"):
        if keys.method != "pointwise":
            raise UserError(f"method: {folder.name} scores documents one by one ({name}); use method=pointwise")
        if keys.thinking:
            raise UserError(f"thinking: {folder.name} has a score head and generates no text ({name}); remove thinking")
        check_labels(folder)
    elif not generates(folder):
        what = name or "model of unknown kind"
        raise UserError(f"model: {folder} is a {what}, which can neither generate nor score; finetune it first")
    elif formats is not None:
        if keys.method != "pointwise" or keys.thinking:
            raise UserError("query_format: a pair format scores without a thought; use method=pointwise without thinking")
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
        settings: the model's folder, device, dtype, threads and batch size in pairs.

    Raises:
        UserError: sentence-transformers cannot load the model, or it has more than two labels.
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
        """[pairs] scores before the activation."""
        if not pairs:
            return []
        from torch.nn import Identity

        raw = Identity()
        return self._model.predict(pairs, batch_size=self._batch, activation_fn=raw, show_progress_bar=False).tolist()

    def _activated(self, logits: Sequence[float]) -> Sequence[float]:
        import torch

        return self._model.activation_fn(torch.tensor(logits, dtype=torch.float64).unsqueeze(-1)).flatten().tolist()


def _load(keys: RankingKeys, settings: EngineSettings) -> Any:
    """The model: a ``CrossEncoder`` whose ``tokens`` records the length of each pair it has seen.

    Raises:
        UserError: it cannot be loaded, or has more than two labels.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore

    from r0.storage.output_head import exact_logits

    # The softmax of an ESCI folder: its dimension cannot be saved, but the default is right for two dimensions.
    warnings.filterwarnings("ignore", message="Implicit dimension choice for softmax")

    class Counting(CrossEncoder):
        """Counts the tokens of each pair."""

        def preprocess(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
            features = super().preprocess(inputs, *arguments, **options)
            self.tokens.update(zip(map(tuple, inputs), features["attention_mask"].sum(dim=1).tolist(), strict=True))
            return features

    device, dtype = device_and_dtype(settings)
    formats, template = PairFormat.of(keys), {}
    if formats is not None:
        tokenizer = open_tokenizer(Path(settings.model), pads=True)
        template = {"chat_template": formats.chat_template(tokenizer), "padding_side": "left"}
    try:
        model = Counting(
            settings.model,
            device=device,
            local_files_only=True,
            max_length=keys.max_prompt_tokens,
            model_kwargs={"dtype": dtype, **attention(Path(settings.model))},
            processor_kwargs=template,
        )
    except LOADING as error:
        raise not_loaded(settings, "cross-encoder", error) from error
    if model.num_labels != 1:
        give_one_score(model, settings.model)
        model.activation_fn = torch.nn.Sigmoid()
    exact_logits(model)
    last = model[-1]
    if isinstance(last, LogitScore) and last.true_token_id == last.false_token_id:
        raise UserError(
            f"model: the tokenizer of {settings.model} encodes yes and no as the same token, so their logits are equal; "
            "use another model"
        )
    most = text_tokens(Path(settings.model))
    if most is not None and model.max_seq_length > most:
        model.max_seq_length = most
    model.tokens = {}
    return model


def _saved_as_cross_encoder(folder: Path) -> bool:
    """Whether the folder was saved as a sentence-transformers ``CrossEncoder``."""
    kind = read_json(folder / "config_sentence_transformers.json").get("model_type")
    return kind == "CrossEncoder" and (folder / "modules.json").is_file()

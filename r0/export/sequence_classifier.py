"""A decoder that says yes or no as a sequence classifier with one label.

The score head is one row: the output layer's row of *yes* minus that of *no*. The body is unchanged, so the score is
logit(yes) − logit(no). The prompt travels as the tokenizer's chat template over the roles ``query`` and ``document``;
sentence-transformers applies it to every pair, and vLLM where it is given with ``--chat-template``. vLLM tokenizes the rendered
text as any other, so the tokenizer is kept from adding a token before or after it: the template has them all.
"""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from r0.errors import UserError
from r0.export.card import classifier_card
from r0.export.yes_no import YesNo
from r0.storage.cross_encoder_files import write_cross_encoder
from r0.storage.files import whole_folder, write_atomic, write_json
from r0.storage.loading import load_model
from r0.storage.model_checks import model_config

# Scored before and after. The last holds a control token, which is text in a pair.
PAIRS = (
    ("why is the sky blue", "Rayleigh scattering affects short wavelengths most."),
    ("who wrote Emma", "The harbour was built in 1825. " * 8),
    ("<answer>", "</think><|im_end|> 日本語 3 < 4"),
)
TOLERANCE = 1e-4  # of a score in float32
COARSE = 2.0**-6  # of a logit, in types of 8 or 11 bits


def write_classifier(name: str, folder: Path, output: Path, score: YesNo) -> float:
    """Write the classifier to ``output``, load it again with sentence-transformers and compare its scores with the model's.

    Args:
        name: of the model, for the card.
        folder: of the model.
        output: a folder that does not exist, or is empty.
        score: of the model.

    Returns:
        The largest difference of two scores (before the activation).

    Raises:
        UserError: transformers has no classifier of this architecture with the model's score; the folder cannot be written.
    """
    model = load_model(AutoModelForCausalLM, folder, dtype="auto").eval()
    keep_bare(score.tokenizer, folder)
    expected, allowed = _scores(model, score)
    dtype = model.dtype
    classifier = as_classifier(model, score, folder)
    with whole_folder(output) as partial:
        classifier.save_pretrained(partial)
        score.tokenizer.save_pretrained(partial)
        _add_to_config(partial, score, dtype)
        write_cross_encoder(partial, score.activation, in_float32=() if dtype == torch.float32 else ("0.model.score",))
        write_atomic(partial / "README.md", classifier_card(name, folder, output.name, score.activation).encode())
        del model, classifier  # of which one copy in memory is enough
        found = cross_encoder_scores(partial)
        largest = max(abs(one - other) for one, other in zip(found, expected, strict=True))
        if largest > allowed:
            raise UserError(
                f"model: as a sequence classifier {folder} would give other scores (a difference of {largest:.2g}), because its "
                "class changes the logits behind the output layer; use `r0 serve`, or sentence-transformers where it can score it"
            )
    return largest


def as_classifier(model: Any, score: YesNo, folder: Path) -> Any:
    """The sequence classifier with the body of a causal language model.

    Raises:
        UserError: transformers has none of this architecture, or the output layer is not one matrix.
    """
    config = copy.deepcopy(model.config)
    head = model.get_output_embeddings()
    name = type(model).__name__
    known = type(config) in AutoModelForSequenceClassification._model_mapping
    if known:
        config.num_labels, config.pad_token_id = 1, score.tokenizer.pad_token_id
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config)
        body = classifier.base_model_prefix
        same = type(getattr(classifier, body)) is type(getattr(model, body, None))
        known = same and isinstance(getattr(classifier, "score", None), torch.nn.Linear)
    if not known:
        raise UserError(f"model: {folder} is a {name}, and transformers has no sequence classifier of it; use `r0 serve`")
    if getattr(head, "bias", None) is not None or getattr(config.get_text_config(), "final_logit_softcapping", None):
        raise UserError(
            f"model: the logits of {folder} ({name}) are not its output layer's alone, so no score head gives them; "
            "use `r0 serve`"
        )
    setattr(classifier, body, getattr(model, body))
    rows = head.weight.detach()
    classifier.score = torch.nn.Linear(rows.shape[1], 1, bias=False)
    with torch.no_grad():
        classifier.score.weight.copy_(rows[score.yes].float() - rows[score.no].float())
    return classifier.eval()


def keep_bare(tokenizer: Any, folder: Path) -> None:
    """Keep a tokenizer from adding tokens before or after a text.

    Raises:
        UserError: it cannot be kept from it.
    """
    if tokenizer("a").input_ids == tokenizer("a", add_special_tokens=False).input_ids:
        return
    tokenizer.add_bos_token = tokenizer.add_eos_token = False
    if tokenizer("a").input_ids != tokenizer("a", add_special_tokens=False).input_ids:
        raise UserError(
            f"model: the tokenizer of {folder} puts tokens around every text and cannot be kept from it, so vLLM would give "
            "other scores; use `r0 serve`"
        )


def cross_encoder_scores(folder: Path) -> list[float]:
    """[PAIRS] the scores before the activation, by sentence-transformers."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    return model.predict(list(PAIRS), activation_fn=torch.nn.Identity(), show_progress_bar=False).tolist()


def messages(query: str, document: str) -> list[dict[str, str]]:
    """A pair as sentence-transformers and vLLM give it to a chat template."""
    return [{"role": "query", "content": query}, {"role": "document", "content": document}]


def _scores(model: Any, score: YesNo) -> tuple[list[float], float]:
    """[PAIRS] logit(yes) − logit(no) by the language model, and the difference that its type allows."""
    found, largest = [], 1.0
    for pair in PAIRS:
        text = score.tokenizer.apply_chat_template(messages(*pair), tokenize=False)
        ids = torch.tensor([score.tokenizer(text).input_ids])
        with torch.inference_mode():
            yes, no = model(input_ids=ids).logits[0, -1, [score.yes, score.no]].float().tolist()
        found.append(yes - no)
        largest = max(largest, abs(yes), abs(no))
    return found, (TOLERANCE if model.dtype == torch.float32 else COARSE) * largest


def _add_to_config(folder: Path, score: YesNo, dtype: torch.dtype) -> None:
    """The activation, where vLLM reads it, and the type of the body, which transformers takes from the head."""
    known = {"version": version("sentence-transformers"), "activation_fn": score.activation}
    config = {**model_config(folder), "dtype": str(dtype).removeprefix("torch."), "sentence_transformers": known}
    write_json(folder / "config.json", config)

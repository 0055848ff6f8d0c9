"""The files that make a transformers model's folder a sentence-transformers ``CrossEncoder``.

They are written here in the library's format, because the library would have to load the weights once more. It passes a pair to
the chat template under the roles ``query`` and ``document``. The score is the output of a head, or, with ``words``, the
difference of two logits at the last position (its module ``LogitScore``).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from r0.storage.files import write_json

IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"
SETTINGS = "config_sentence_transformers.json"
SCORE = "1_LogitScore"


def write_cross_encoder(
    folder: Path, activation: str, words: tuple[int, int] | None = None, in_float32: Sequence[str] = ()
) -> None:
    """Write the files that sentence-transformers reads beside model and tokenizer.

    Args:
        folder: of the model.
        activation: path of the class that is applied to the score.
        words: ids of yes and no, of a model without a score head.
        in_float32: linear layers that compute in float32 whatever the type of the model.

    Raises:
        UserError: a file cannot be written.
    """
    task, output = ("text-generation", "causal_logits") if words else ("sequence-classification", "scores")
    modules = [("", "sentence_transformers.base.modules.transformer.Transformer")]
    if words:
        modules.append((SCORE, "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"))
        (folder / SCORE).mkdir()
        ids = {"true_token_id": words[0], "false_token_id": words[1], "module_input_name": output}
        write_json(folder / SCORE / "config.json", ids)
    write_json(
        folder / "modules.json",
        [{"idx": place, "name": str(place), "path": path, "type": kind} for place, (path, kind) in enumerate(modules)],
    )
    forward = {"method": "forward", "method_output_name": "logits"}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": task,
            "modality_config": {"text": forward, "message": {**forward, "format": "flat"}},
            "module_output_name": output,
        },
    )
    write_json(
        folder / SETTINGS,
        {
            "__version__": {"sentence_transformers": version("sentence-transformers"), "transformers": version("transformers")},
            "activation_fn": activation,
            "default_prompt_name": None,
            "model_type": "CrossEncoder",
            "prompts": {},
            **({"keep_in_fp32_modules": list(in_float32)} if in_float32 else {}),
        },
    )

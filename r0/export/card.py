"""The model card of what was exported: how it is used, and below it the card of the model that it was made from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from r0.storage.cross_encoder_files import IDENTITY, SIGMOID

CARD = "README.md"
_TEMPLATE = "The prompt is the chat template (`chat_template.jinja`) over the roles `query` and `document`."


def classifier_card(name: str, folder: Path, output: str, activation: str) -> str:
    """The card of a sequence classifier.

    Args:
        name: of the model that it was made from.
        folder: of that model.
        output: name of the classifier's folder.
        activation: path of the class that is applied to the score.
    """
    scale = "its score is logit(yes) − logit(no)" if activation == IDENTITY else "its score is P(yes) over yes and no"
    parts = (
        "# A reranker as a sequence classifier",
        f"Made from `{name}` by `r0 export`. It has one label, and {scale}. {_TEMPLATE}",
        "With sentence-transformers, which applies the template itself:",
        f'```python\nfrom sentence_transformers import CrossEncoder\n\nmodel = CrossEncoder("{output}")\n'
        'scores = model.predict([("query", "document")])\n```',
        "With vLLM, which has to be given the template:",
        f"```bash\nvllm serve {output} --chat-template {output}/chat_template.jinja\n"
        "curl localhost:8000/v1/score -H 'Content-Type: application/json' \\\n"
        '  -d \'{"text_1": "query", "text_2": ["document"]}\'\n```',
    )
    return _card("sentence-transformers", parts, folder)


def onnx_card(name: str, folder: Path, output: str, activation: str, template: bool) -> str:
    """The card of an ONNX model.

    Args:
        name: of the model that it was made from.
        folder: of that model.
        output: name of the ONNX model's folder.
        activation: path of the class that makes the score of ``logits``.
        template: whether the chat template writes pairs.
    """
    applied = " The score is their sigmoid." if activation == SIGMOID else ""
    if template:
        text = '[{"role": "query", "content": "query"}, {"role": "document", "content": "document"}]'
        made = f"text = tokenizer.apply_chat_template({text}, tokenize=False)\n"
        made += 'inputs = tokenizer([text], add_special_tokens=False, padding=True, return_tensors="np")\n'
    else:
        made = 'inputs = tokenizer(["query"], ["document"], padding=True, return_tensors="np")\n'
    parts = (
        "# A reranker in ONNX",
        f"Made from `{name}` by `r0 export`, in float32. Its output is `logits`, [batch, 1].{applied}"
        + (f" {_TEMPLATE}" if template else ""),
        f"```python\nimport onnxruntime\nfrom transformers import AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{output}")\n'
        f'session = onnxruntime.InferenceSession("{output}/model.onnx")\n{made}'
        "names = {one.name for one in session.get_inputs()}\n"
        "(logits,) = session.run(None, {name: value for name, value in inputs.items() if name in names})\n```",
    )
    return _card("onnx", parts, folder)


def _card(library: str, parts: Sequence[str], folder: Path) -> str:
    """Front matter, the parts, and the card of the model in ``folder`` one level lower."""
    front = f"---\nlibrary_name: {library}\npipeline_tag: text-ranking\ntags: [reranker, r0]\n---"
    below: list[str] = []
    own = folder / CARD
    if own.is_file():
        body = re.sub(r"\A---\n.*?\n---\n", "", own.read_text(encoding="utf-8"), flags=re.S)
        below = ["## The model that it was made from", re.sub(r"^#", "##", body, flags=re.M).strip()]
    return "\n\n".join([front, *parts, *below]) + "\n"

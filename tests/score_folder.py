"""Score pairs with a saved cross-encoder, by sentence-transformers, by transformers alone and by r0: ``FOLDER PAIRS.json``.

Prints ``{"sentence_transformers": [logits], "transformers": [logits], "predicted": […], "r0": […]}``, the last two behind the
folder's own activation. All in float32: in bf16 a batch and a single row differ by a rounding. In a process of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: str, pairs_file: str) -> None:
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from r0.rerank import Reranker

    pairs = [tuple(pair) for pair in json.loads(Path(pairs_file).read_text())]
    model = CrossEncoder(folder, device="cpu", model_kwargs={"dtype": torch.float32})
    assert all(parameter.numel() for parameter in model.parameters())
    scores = model.predict(pairs, activation_fn=torch.nn.Identity()).tolist()

    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = Path(folder, "1_LogitScore", "config.json")
    auto = AutoModelForCausalLM if words.is_file() else AutoModelForSequenceClassification
    plain = auto.from_pretrained(folder, dtype=torch.float32)
    logits = []
    for query, document in pairs:
        if tokenizer.chat_template:
            messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
            ids = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")
        else:
            ids = tokenizer(query, document, truncation=True, return_tensors="pt")
        with torch.no_grad():
            found = plain(**ids).logits
        if words.is_file():
            known = json.loads(words.read_text())
            logits.append((found[0, -1, known["true_token_id"]] - found[0, -1, known["false_token_id"]]).item())
        else:
            logits.append(found[0, 0].item())
    predicted = model.predict(pairs).tolist()
    with Reranker(folder, method="pointwise", engine="hf", dtype="fp32") as reranker:
        mine = [float(score) for score in reranker.predict(pairs)]
    print(json.dumps({"sentence_transformers": scores, "transformers": logits, "predicted": predicted, "r0": mine}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Files that make the folder of a language model a sentence-transformers cross-encoder too, with stage C's score.

sentence-transformers passes a pair to the chat template under the roles ``query`` and ``document``, and its module ``LogitScore``
takes the difference of two logits at the last position. The files are written here in the library's format, because the library
would have to load the weights once more. Other conversations are rendered as before.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from r0.records import Form
from r0.supervised.stage_c.list_prompter import ListPrompter
from r0.text.prompt_file import save_prompt
from r0.text.template import DEFAULT_CHAT_TEMPLATE

SCORE = "1_LogitScore"


def pair_tokenizer(list_prompter: ListPrompter) -> Any:
    """The tokenizer of ``list_prompter``, changed in place: its chat template renders pairs too."""
    tokenizer = list_prompter.tokenizer
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    tokenizer.chat_template = list_prompter.pair.format.chat_template(tokenizer)
    return tokenizer


def write_modules(folder: Path, list_prompter: ListPrompter) -> None:
    """Write the files that sentence-transformers reads beside model and tokenizer, and the system prompt."""
    prompter = list_prompter.prompter
    save_prompt(folder, Form.YES_NO, prompter.system_prompt, prompter.template.variables)
    inner = "sentence_transformers.base.modules.transformer.Transformer"
    outer = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
    forward = {"method": "forward", "method_output_name": "logits"}
    _write(
        folder / "modules.json",
        [{"idx": 0, "name": "0", "path": "", "type": inner}, {"idx": 1, "name": "1", "path": SCORE, "type": outer}],
    )
    _write(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {"text": forward, "message": {**forward, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
    )
    _write(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": version("sentence-transformers"), "transformers": version("transformers")},
            "activation_fn": "torch.nn.modules.linear.Identity",  # the score itself, which a sigmoid would round
            "default_prompt_name": None,
            "model_type": "CrossEncoder",
            "prompts": {},
        },
    )
    (folder / SCORE).mkdir()
    words = {
        "true_token_id": list_prompter.pair.yes,
        "false_token_id": list_prompter.pair.no,
        "module_input_name": "causal_logits",
    }
    _write(folder / SCORE / "config.json", words)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

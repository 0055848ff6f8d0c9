"""Writes the model in a GGUF file as a model folder: ``convert FILE.gguf FOLDER``.

No command trains or ranks with a GGUF file itself: engines, learners and other libraries all read one folder of safetensors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from r0.errors import UserError, reason
from r0.storage.files import whole_folder
from r0.storage.loading import load_model

PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
PLAIN = ("F32", "F16")  # written as float32; all others are bf16, or an approximation already


def convert_gguf(source: Path, output: Path) -> str:
    """Write a model folder with the weights, the tokenizer and the chat template of a GGUF file; returns what was written, in
    words. Quantized weights get the values that they stand for, in bf16; a file of float16 and float32 gives float32.

    Raises:
        UserError: the package gguf is missing, the file is one of several parts, damaged or of an architecture that transformers
            does not read, or the output exists or cannot be written.
    """
    if output.exists():
        raise UserError(f"output: {output} already exists; delete it, or give another name")
    if PART.search(source.name):
        raise UserError(f"{source} is one of several parts; join them with `llama-gguf-split --merge` and give the result")
    try:
        import gguf
    except ImportError:
        raise UserError("reading GGUF files needs the package gguf; install it with `pip install gguf`") from None
    try:
        types = {tensor.tensor_type.name for tensor in gguf.GGUFReader(source).tensors}
        model, tokenizer = _read(source)
    except Exception as error:  # gguf and transformers raise many kinds for files that are cut or of an unknown architecture
        raise UserError(
            f"{source} cannot be read ({reason(error)}); give the model's original weights, or another file"
        ) from error
    if not types <= set(PLAIN):
        model.bfloat16()
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    kind, dtype = type(model).__name__, str(model.dtype).removeprefix("torch.")
    return f"{output}: {size:.1f} M weights of a {kind} in {dtype}, from {', '.join(sorted(types))}"


def _read(source: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    named = {"gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **named)
    model = load_model(
        AutoModelForCausalLM, source.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **named
    )
    return model, tokenizer

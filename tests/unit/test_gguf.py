"""GGUF files: `convert` makes a model folder of one, and as a model they are refused with that command."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from r0.errors import UserError
from r0.storage.models import model_folder
from tests.helpers import tiny_model
from tests.launching import here, refused

gguf = pytest.importorskip("gguf")

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """The name of a Llama's weight in a GGUF file."""
    if name.startswith("model.layers."):
        number, rest = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        return f"blk.{number}.{NAMES[rest]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in llama.cpp's order, where the two halves of a head alternate."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(folder: Path, file: Path, matrices: str) -> Path:
    """Write a tiny Llama as llama.cpp does; ``matrices`` is the type of all but the norms."""
    kind = gguf.GGMLQuantizationType[matrices]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    words += [f"<unused{number}>" for number in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in tokenizer.all_special_tokens or word.startswith("<") else 1 for word in words])
    writer.add_token_scores([0.0] * len(words))  # from which transformers makes the merges: here there are none
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(tokenizer.chat_template)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in load_file(folder / "model.safetensors").items():
        count = next((heads[key] for key in heads if key in name), 0)
        values = (interleaved(tensor, count) if count else tensor).numpy()
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
        else:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_model(tmp_path_factory.mktemp("gguf") / "original", arch="llama"))


@pytest.mark.parametrize(("matrices", "dtype", "most"), [("F32", torch.float32, 0.0), ("Q8_0", torch.bfloat16, 0.01)])
def test_a_gguf_file_becomes_a_folder_with_its_weights_tokenizer_and_template(
    matrices: str, dtype: torch.dtype, most: float, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file, folder = write_gguf(original, tmp_path / f"tiny-{matrices}.gguf", matrices), tmp_path / "folder"
    said = here(capsys, f"convert {file} {folder}", {})
    assert f"M weights of a LlamaForCausalLM in {str(dtype).removeprefix('torch.')}, from F32" in said
    given, made = load_file(original / "model.safetensors"), load_file(folder / "model.safetensors")
    assert given.keys() == made.keys()
    for name, tensor in made.items():
        assert tensor.dtype == dtype
        assert (tensor.float() - given[name]).abs().max() <= most * given[name].abs().max(), name
    assert model_folder(str(folder)) == folder
    before, after = (AutoTokenizer.from_pretrained(path) for path in (original, folder))
    messages = [{"role": "user", "content": "which text, in 2024?"}]
    assert after.apply_chat_template(messages) == before.apply_chat_template(messages)
    assert after.eos_token_id == before.eos_token_id
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == 2


def test_a_gguf_model_is_refused_with_the_command_that_converts_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "weights" / "tiny.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF" + bytes(60))
    expected = f"{file} is a GGUF file; make a model folder of it with `r0 convert {file} FOLDER` and give that"
    assert expected in refused(capsys, "sft", {"model": file, "output": tmp_path / "run"})
    with pytest.raises(UserError, match="is a GGUF file; make a model folder"):
        model_folder(str(file.parent))
    (file.parent / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="of which the folder has 2"):
        model_folder(str(file.parent))
    with pytest.raises(UserError, match="a repository of GGUF files; give the original model"):
        model_folder("somebody/Some-135M-GGUF")


def test_a_gguf_file_that_cannot_be_read_gives_one_sentence(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = tmp_path / "cut.gguf", tmp_path / "folder"
    file.write_bytes(b"GGUF" + bytes(4))
    assert f"{file} cannot be read (" in refused(capsys, f"convert {file} {folder}", {})
    assert f"would convert {file} (which exists) to {folder}" in here(capsys, f"convert {file} {folder} --dry-run", {})
    part = shutil.copy(file, tmp_path / "big-00001-of-00002.gguf")
    assert "is one of several parts; join them with `llama-gguf-split --merge`" in refused(capsys, f"convert {part} {folder}", {})
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "needs the package gguf; install it with `pip install gguf`" in refused(capsys, f"convert {file} {folder}", {})
    folder.mkdir()
    assert f"{folder} already exists; delete it" in refused(capsys, f"convert {file} {folder}", {})
    assert not list(folder.iterdir())

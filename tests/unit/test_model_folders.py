"""Model folders as people bring them: what is damaged, missing, quantized or of another kind gives one sentence.

Every command that loads a model says it before anything is written, and so does its dry run."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from r0.actors.rollout.settings import stop_ids
from r0.errors import UserError
from r0.launch import main
from r0.storage.loading import check_loads, load_model
from r0.storage.model_checks import check_folder, check_unquantized, generates, quantization
from r0.storage.models import model_folder
from r0.storage.positions import positions_of
from r0.storage.weight_files import parameters, stored_tensors, weight_files
from tests.architectures import build
from tests.esci_rows import esci_file, esci_rows
from tests.helpers import rewrite_model, tiny_model

TRAINING = ("sft", "stage_a", "stage_b", "stage_c", "finetune", "esci", "distill")
RANKING = ("annotate", "distill score", "rerank", "mine", "mine reranker")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_model(tmp_path_factory.mktemp("model") / "whole", tied=False, scale=0.02))


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A folder of the whole model, to be spoilt."""
    return Path(shutil.copytree(model, tmp_path / "model"))


def arguments(command: str, folder: Path, tmp_path: Path) -> list[str]:
    """A small run of the command with the model."""
    data = tmp_path / "beir"
    if not data.exists():
        (data / "qrels").mkdir(parents=True)
        (data / "corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": "text {i}"}}\n' for i in range(4)))
        (data / "queries.jsonl").write_text('{"_id": "q", "text": "which text"}\n')
        (data / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
        (data / "run.trec").write_text("".join(f"q Q0 d{i} {i + 1} {4 - i} x\n" for i in range(4)))
        esci_file(tmp_path / "esci.parquet", esci_rows(20))
    lengths = ["max_prompt_tokens=900", "max_new_tokens=60"]
    more = {
        "sft": lengths, "stage_a": lengths, "stage_b": lengths, "stage_c": lengths, "annotate": lengths,
        "finetune": ["data=builtin", "max_prompt_tokens=900"],
        "esci": [f"data={tmp_path / 'esci.parquet'}"],
        "distill": ["data=builtin", "max_prompt_tokens=900", "teacher.model=r0-tiny", "teacher.max_prompt_tokens=900"],
        "distill score": lengths,
        "rerank": [f"data={data}", f"run={data / 'run.trec'}"],
        "mine": [f"data={data}", "source=dense", "ranks=1-4", "negatives=2"],
        "mine reranker": [f"data={data}", "source=bm25", "ranks=1-4", "negatives=2", f"reranker={folder}"],
    }  # fmt: skip
    words = command.removesuffix(" reranker").split()
    named = [] if command == "mine reranker" else [f"model={folder}"]
    return [*words, *named, *more[command], f"output={tmp_path / 'run'}"]


def refusals(commands: tuple[str, ...], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> dict[str, str]:
    """What each command says of the model; its dry run has to say the same, and neither may write."""
    found = {}
    for command in commands:
        words = arguments(command, folder, tmp_path)
        code = main(words)
        printed = capsys.readouterr()
        assert code == 2, (command, printed)
        said = printed.err.strip().removeprefix("r0: ").removeprefix("reranker: ")
        assert "\n" not in said, (command, said)
        assert not (tmp_path / "run").exists(), command
        assert main([*words, "--dry-run"]) == 0
        assert said in capsys.readouterr().out, command
        found[command] = said
    return found


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"abcdefgh" * 100)


def truncated(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def no_bytes(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def pointer(folder: Path, name: str = "model.safetensors") -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 538090408\n")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def other_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-q4.onnx")


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def bad_index(folder: Path) -> None:
    no_weights(folder)
    (folder / "model.safetensors.index.json").write_text("[]")


def bad_pickle(folder: Path) -> None:
    no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 no archive")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def adapter(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}')
    (folder / "adapter_model.safetensors").write_bytes(b"")


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}')


def lost(*names: str) -> Callable[[Path], object]:
    return lambda folder: rewrite_model(folder, lambda tensors: {n: t for n, t in tensors.items() if n not in names})


def of_another_size(folder: Path) -> None:
    rewrite_model(folder, config={"intermediate_size": 64})


def longer_template(folder: Path) -> None:
    """Its tokenizer gains tokens, and the embedding no row."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([*(f"<{number}>" for number in range(len(tokenizer), 320)), "<|say|>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<|say|>"
    tokenizer.save_pretrained(folder)


def own_code(folder: Path) -> None:
    """Its classes are a Python file beside the weights, which leaves a trace when it runs."""
    classes = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    rewrite_model(folder, config={"model_type": "own", "auto_map": classes})
    (folder / "modeling_own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


def own_tokenizer(folder: Path) -> None:
    """So is its tokenizer."""
    file = folder / "tokenizer_config.json"
    stated = json.loads(file.read_text()) | {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    file.write_text(json.dumps(stated))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


BROKEN = {
    own_code: "names classes in Python files of the folder, which r0 does not run",
    own_tokenizer: "names a tokenizer in a Python file of the folder, which r0 does not run",
    garbage: "model.safetensors is damaged or incomplete",
    truncated: "model.safetensors is damaged or incomplete",
    no_bytes: "model.safetensors is damaged or incomplete",
    pointer: "model.safetensors is a git-LFS pointer, not the file itself; run `git lfs pull` in",
    no_weights: "contains neither model.safetensors nor its shards with their index; download the model again",
    other_weights: "nor its shards with their index, only model-q4.onnx",
    missing_shard: "index.json names 1 files that are not there (model-00002-of-00002.safetensors); download",
    bad_index: "index.json is no index of shards",
    bad_pickle: "pytorch_model.bin is damaged, incomplete or holds more than tensors",
    no_tokenizer: "contains no tokenizer (tokenizer.json); copy the tokenizer files of the model it was made from",
    adapter: "is an adapter of Qwen/Qwen3-0.6B, not a model; merge the two (peft: merge_and_unload)",
    adapter_beside: "contains adapter_config.json beside the weights of a model",
    lost("lm_head.weight"): "lack 1 weight: lm_head.weight; download the model again",
    lost("model.norm.weight", "model.layers.0.mlp.up_proj.weight"): (
        "lack 2 weights: model.layers.0.mlp.up_proj.weight, model.norm.weight; download the model again"
    ),
    of_another_size: (
        "does not give the shape of 6 weights, such as model.layers.0.mlp.down_proj.weight, which is 128×256 instead of 128×64; "
        "download"
    ),
    longer_template: "prompts contain '<|say|>', which is id 320 of the tokenizer, and the embedding of",
}  # fmt: skip


@pytest.mark.parametrize("spoil", BROKEN, ids=[key.__name__.strip("<>") for key in BROKEN])
def test_a_broken_folder_gives_one_sentence_from_every_command_and_its_dry_run(
    spoil: Callable[[Path], None], copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spoil(copy)
    said = refusals(TRAINING + RANKING, copy, tmp_path, capsys)
    assert len(set(said.values())) == 1, said
    assert BROKEN[spoil] in said["sft"]
    assert str(copy) in said["sft"]
    assert not (copy / "ran").exists(), "code of the folder was run"


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "fp8"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"load_in_4bit": True}}, "4-bit"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}}}, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"text_config": {"quantization_config": {"quant_method": "torchao"}}}, "torchao"),
    ],
)
def test_quantized_models_are_not_trained(config: dict, method: str, copy: Path, tmp_path: Path, capsys) -> None:
    rewrite_model(copy, config=config)
    for said in refusals(TRAINING, copy, tmp_path, capsys).values():
        assert (
            said
            == f"model: {copy.name} is quantized ({method}), and such weights cannot be trained; give the original model in bf16"
        )


def test_quantized_weights_are_known_without_a_word_in_the_configuration(copy: Path) -> None:
    def quantized(tensors: dict) -> dict:
        return {n: t.to(torch.float8_e4m3fn) if "mlp" in n else t for n, t in tensors.items()}

    rewrite_model(copy, quantized)
    with pytest.raises(UserError, match=r"is quantized \(F8_E4M3\)"):
        check_unquantized(copy)
    (copy / "quant_config.json").write_text("{}")
    assert quantization(copy) == "awq"


def test_a_quantized_model_that_the_engine_does_not_load_gives_one_sentence(copy: Path, tmp_path: Path, capsys) -> None:
    rewrite_model(copy, config={"quantization_config": {"quant_method": "gptq", "bits": 4}})
    words = [*arguments("rerank", copy, tmp_path), "rollout.engine=hf", "ray.inline=true"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "is quantized (gptq) and cannot be loaded here (" in said
    assert "give the original model in bf16, or rank with another rollout.engine" in said
    assert "Traceback" not in said


def test_an_fp8_model_ranks_with_the_values_that_it_stands_for(copy: Path, tmp_path: Path) -> None:
    """transformers takes the scales into the weights where nothing computes in FP8."""
    scales, real = {}, {}

    def quantized(tensors: dict) -> dict:
        for name in [name for name in tensors if "proj.weight" in name]:
            scale = tensors[name].abs().max() / 448
            small = (tensors[name] / scale).to(torch.float8_e4m3fn)
            real[name] = small.float() * scale
            tensors[name], scales[f"{name}_scale_inv"] = small, scale.reshape(1, 1).expand(*(-(-n // 128) for n in small.shape))
        return {name: tensor.contiguous() for name, tensor in {**tensors, **scales}.items()}

    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "dequantize": True}
    rewrite_model(copy, quantized, {"quantization_config": fp8})
    found = load_model(AutoModelForCausalLM, copy, dtype=torch.float32).state_dict()
    for name, tensor in real.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)


def test_tensors_that_are_left_out_are_said_once(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite_model(copy, lambda tensors: {**tensors, "model.mtp.weight": torch.zeros(3), "extra.bias": torch.zeros(2)})
    check_loads(AutoModelForCausalLM, copy)
    load_model(AutoModelForCausalLM, copy)
    said = [record.getMessage() for record in caplog.records if "leaves out" in record.getMessage()]
    assert said == [f"model: a Qwen2ForCausalLM leaves out 2 weights of {copy}: extra.bias, model.mtp.weight"]


def test_a_new_score_head_is_no_missing_weight_but_a_lost_one_is(tmp_path: Path) -> None:
    masked = Path(build("bert-base-uncased", tmp_path / "masked"))
    check_loads(AutoModelForSequenceClassification, masked, new_head=True)
    scores = Path(build("bert-base-uncased", tmp_path / "scores", head="score"))
    lost("classifier.weight")(scores)
    with pytest.raises(UserError, match=r"lack 1 weight: classifier\.weight"):
        check_loads(AutoModelForSequenceClassification, scores)
    lost("bert.encoder.layer.1.output.dense.weight")(masked)
    with pytest.raises(UserError, match=r"lack 1 weight: bert\.encoder\.layer\.1\.output\.dense\.weight"):
        check_loads(AutoModelForSequenceClassification, masked, new_head=True)


def test_finetune_and_rerank_want_the_head_that_a_cross_encoder_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = Path(build("bge-reranker-v2-m3", tmp_path / "model"))
    lost("classifier.out_proj.weight")(folder)
    words = arguments("finetune", folder, tmp_path)[:-1]
    for one in (
        [*words, "max_prompt_tokens=256", f"output={tmp_path / 'run'}"],
        [*arguments("rerank", folder, tmp_path), "method=pointwise"],
    ):
        assert main(one) == 2
        assert "lack 1 weight: classifier.out_proj.weight" in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_named(copy: Path, value: float) -> None:
    def spoilt(tensors: dict) -> dict:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
        return tensors

    rewrite_model(copy, spoilt)
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight of .* contains NaN or infinite values"):
        load_model(AutoModelForCausalLM, copy, dtype=torch.bfloat16)


def test_a_folder_of_torchs_format_is_a_model_like_any(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tensors = load_file(copy / "model.safetensors")
    count = parameters(copy)
    no_weights(copy)
    torch.save(tensors, copy / "pytorch_model.bin")
    assert parameters(copy) == count == sum(tensor.numel() for tensor in tensors.values())
    assert weight_files(copy) == [copy / "pytorch_model.bin"]
    assert stored_tensors(copy)["model.norm.weight"].dtype == "F32"
    loaded = load_model(AutoModelForCausalLM, copy, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert main([*arguments("sft", copy, tmp_path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "nothing is missing" in said
    assert f"memory of a model of {count / 1e6:.1f} M weights" in said


def test_a_tensor_under_two_names_of_torchs_format_counts_once(copy: Path) -> None:
    one = torch.ones(3, 4)
    no_weights(copy)
    torch.save({"model.embed_tokens.weight": one, "lm_head.weight": one, "b": torch.ones(2)}, copy / "pytorch_model.bin")
    assert parameters(copy) == 14


def test_only_the_files_that_are_loaded_count(copy: Path) -> None:
    count = parameters(copy)
    shutil.copy(copy / "model.safetensors", copy / "consolidated.safetensors")
    assert parameters(copy) == count


def test_an_adapter_of_a_run_names_the_merged_model_beside_it(copy: Path) -> None:
    folder = copy.parent / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "r0-tiny"}')
    with pytest.raises(UserError, match=rf"is an adapter of r0-tiny, not a model; give {copy}, which has it merged, or r0-tiny"):
        model_folder(str(folder))


def test_pointers_in_the_place_of_other_files_are_named(copy: Path) -> None:
    pointer(copy, "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json is a git-LFS pointer"):
        check_folder(copy)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "norm", "self_attn", "q_porj"])
@pytest.mark.parametrize("command", ["sft", "stage_a", "stage_c", "finetune", "esci"])
def test_adapters_go_on_linear_layers_only(command: str, target: str, copy: Path, tmp_path: Path, capsys) -> None:
    section = "learner.lora" if command == "stage_a" else "lora"
    words = [*arguments(command, copy, tmp_path), f"{section}.r=4", f"{section}.target_modules=q_proj,{target}"]
    kinds = {
        "lm_head": "the output head", "embed_tokens": "the input embedding", "norm": "a Qwen2RMSNorm",
        "self_attn": "a Qwen2Attention", "q_porj": "no module",
    }  # fmt: skip
    layers = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    what = f"{target} is {kinds[target]} of this Qwen2ForCausalLM"
    said = f"{section}.target_modules: {what}; adapters go on its linear layers: {layers}"
    assert main(words) == 2
    assert capsys.readouterr().err.strip() == f"r0: {said}"
    assert main([*words, "--dry-run"]) == 0
    assert said in capsys.readouterr().out


def endless(folder: Path) -> None:
    """No file names an end of sequence."""
    for name in ("config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if key != "eos_token_id"}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}))


def test_a_model_without_an_end_of_sequence_is_refused_where_it_would_write(tmp_path: Path, capsys) -> None:
    copy = Path(tiny_model(tmp_path / "model", arch="llama"))
    endless(copy)
    commands = ("sft", "stage_a", "stage_b", "stage_c", "annotate", "distill score", "rerank")
    said = refusals(commands, copy, tmp_path, capsys)
    assert set(said.values()) == {
        f"model: {copy} names no end of sequence, so that no completion would end; set eos_token in tokenizer_config.json, or "
        "eos_token_id in generation_config.json"
    }


def test_the_end_of_sequence_that_a_tokenizers_class_names_counts_if_the_vocabulary_has_it(copy: Path) -> None:
    endless(copy)
    assert stop_ids(copy) == {0}  # <|endoftext|>, by Qwen2Tokenizer


def test_padding_beyond_the_embedding_is_refused_where_padding_is_used(copy: Path, tmp_path: Path, capsys) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens([f"<{number}>" for number in range(61)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(copy)
    number = tokenizer.pad_token_id
    assert number >= 320
    for said in refusals(TRAINING, copy, tmp_path, capsys).values():
        assert f"prompts contain '[PAD]', which is id {number} of the tokenizer, and the embedding of {copy} has 320 rows" in said


def test_tokens_beyond_the_embedding_that_no_prompt_contains_do_not_matter(copy: Path, tmp_path: Path, capsys) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens([f"<image {number}>" for number in range(100)])
    tokenizer.save_pretrained(copy)
    assert main([*arguments("stage_a", copy, tmp_path), "--dry-run"]) == 0
    assert "nothing is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPT2LMHeadModel", True),
        ("Qwen2ForCausalLM", True),
        ("Gemma3ForConditionalGeneration", True),
        ("UnknownForCausalLM", True),
        ("BertForSequenceClassification", False),
        ("BertForMaskedLM", False),
        ("T5ForConditionalGeneration", False),
        ("BertModel", False),
    ],
)
def test_whether_a_model_generates_text_is_what_transformers_says_of_its_class(name: str, expected: bool, copy: Path) -> None:
    rewrite_model(copy, config={"architectures": [name]})
    assert generates(copy) is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 256}, 256),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"max_position_embeddings": 256, "rope_scaling": {"type": "yarn", "factor": 8.0}}, 2048),
        (
            {
                "max_position_embeddings": 40960,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 163840,
                "rope_parameters": {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163840,
        ),
        ({"max_position_embeddings": 256, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 512),
        ({"max_position_embeddings": 256, "rope_scaling": {"rope_type": "dynamic", "factor": 4}}, 1024),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "model_type": "gemma3_text",
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            131072,
        ),
        ({"max_position_embeddings": 256, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 256),
        ({"max_position_embeddings": 256, "rope_scaling": None}, 256),
        ({"hidden_size": 3}, None),
    ],
)
def test_positions_count_rope_scaling(config: dict, expected: int | None) -> None:
    assert positions_of(config) == expected


def test_a_model_with_scaled_positions_has_room_for_long_prompts(copy: Path, tmp_path: Path, capsys) -> None:
    words = [word.replace("=900", "=1500") for word in arguments("stage_a", copy, tmp_path)]
    rewrite_model(copy, config={"max_position_embeddings": 256})
    assert main(words) == 2
    assert "more than the 256 positions of model" in capsys.readouterr().err
    scaling = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256, "rope_theta": 1e4}
    rewrite_model(copy, config={"rope_parameters": scaling})
    assert main([*words, "--dry-run"]) == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_a_finished_model_of_every_command_is_not_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for command in TRAINING + RANKING:
        assert main([*arguments(command, model, tmp_path), "--dry-run"]) == 0
        assert "nothing is missing" in capsys.readouterr().out, command


def test_a_cap_of_attention_logits_is_not_left_out(tmp_path: Path) -> None:
    folder = build("gemma-2", tmp_path / "model")
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        capped = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)(ids).logits
        found = load_model(AutoModelForCausalLM, folder, dtype=torch.float32)(ids).logits
    assert torch.equal(found, capped)
    assert not torch.allclose(plain, capped, atol=1e-3)  # what transformers does unless told otherwise

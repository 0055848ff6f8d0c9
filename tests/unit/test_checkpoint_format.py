"""Weights leave and enter the learner in the checkpoint's form: as transformers' own saving writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from r0.actors.learner.networks import add_adapters
from r0.actors.sync.channels import TransferError
from r0.actors.sync.checkpoint_format import CheckpointFormat, ParamMeta
from r0.actors.sync.weights import LearnerWeights, save_hf
from r0.config import SftConfig, StageAConfig
from r0.errors import UserError
from r0.supervised.training.ranks import prepare_model
from tests.architectures import OTHERS, build

EXPERTS = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "lfm2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention"],
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
}
STACKED = ["qwen3_moe", "mixtral"]  # peft knows how
TOKENS = torch.tensor([[3, 4, 5, 6]])


def experts(kind: str, seed: int = 0):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind, vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1, tie_word_embeddings=False, **EXPERTS[kind],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, buffer in model.named_buffers():
        if name in model.state_dict():  # such as the bias of LFM2's router
            buffer.normal_(0.0, 0.2)
    return model


def with_adapters(model):
    add_adapters(model, StageAConfig(algo="grpo", learner={"lora": {"r": 2}}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.2)
    return model


def format_of(model) -> CheckpointFormat:
    return CheckpointFormat(model, [ParamMeta(n, p.dtype, tuple(p.shape)) for n, p in model.state_dict().items()])


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", EXPERTS)
def test_weights_leave_as_transformers_saves_them(tmp_path, kind, loaded):
    model = experts(kind)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    if loaded:
        model = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    weights = LearnerWeights(model, None, bucket_bytes=5000, rank=0)
    sent = dict(weights)
    assert sent.keys() == stored.keys()
    assert all(torch.equal(sent[name], stored[name]) for name in stored)
    assert [(m.name, m.shape, m.dtype) for m in weights.metadata()] == [(n, tuple(t.shape), t.dtype) for n, t in sent.items()]
    assert [name for name, _ in LearnerWeights(model, None, 5000, rank=1)] == list(sent)  # the other ranks gather in lockstep


@pytest.mark.parametrize("name", [name for name, one in OTHERS.items() if one.head == "causal"])
def test_every_architecture_sends_what_its_checkpoint_holds(tmp_path, name):
    from transformers import AutoModelForCausalLM

    stored = load_file(Path(build(name, tmp_path)) / "model.safetensors")
    sent = dict(LearnerWeights(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32), None, 10**6, rank=0))
    assert sent.keys() - {"lm_head.weight"} == stored.keys() - {"lm_head.weight"}  # sent where it is tied, too
    assert all(torch.equal(sent[key], stored[key]) for key in stored)


@pytest.mark.parametrize("kind", EXPERTS)
def test_weights_enter_a_model_from_a_checkpoint_in_any_order(kind):
    sender, receiver = experts(kind), experts(kind, seed=1)
    own = receiver.state_dict()
    with torch.no_grad():
        for name, tensor in format_of(receiver).read(reversed(list(LearnerWeights(sender, None, 5000, rank=0)))):
            own[name].copy_(tensor)
    assert all(torch.equal(tensor, own[name]) for name, tensor in sender.state_dict().items())


def test_a_missing_or_foreign_expert_is_refused():
    model = experts("qwen3_moe")
    pairs = list(LearnerWeights(model, None, 5000, rank=0))
    lost = "model.layers.1.mlp.experts.2.up_proj.weight"
    with pytest.raises(TransferError, match=rf"1 parameters were not sent, the first is {lost}"):
        list(format_of(model).read(pair for pair in pairs if pair[0] != lost))
    with pytest.raises(TransferError, match=r"no parameter model\.layers\.1\.mlp\.experts\.4\.up_proj\.weight of shape"):
        list(format_of(model).read([(lost.replace("2", "4"), pairs[0][1])]))
    with pytest.raises(TransferError, match=r"no parameter .* of shape \(1,\)"):
        list(format_of(model).read([(lost, torch.zeros(1))]))


@pytest.mark.parametrize("kind", EXPERTS)
def test_adapters_of_experts_are_merged(tmp_path, kind):
    from transformers import AutoModelForCausalLM

    model = with_adapters(experts(kind))
    save_hf(LearnerWeights(model, None, 5000, rank=0), str(tmp_path), tmp_path / "out")
    again, notes = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not any(notes[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    with torch.no_grad():
        found, base = again(TOKENS).logits, experts(kind)(TOKENS).logits
        torch.testing.assert_close(found, model(TOKENS).logits, atol=1e-5, rtol=1e-5)
    assert float((found - base).abs().max()) > 0.01


@pytest.mark.parametrize("kind", STACKED)
def test_the_experts_have_adapters_where_nothing_is_named(kind):
    names = [name for name, parameter in with_adapters(experts(kind)).named_parameters() if parameter.requires_grad]
    assert any(".experts." in name for name in names)


def test_adapters_of_experts_are_refused_where_they_cannot_be_trained():
    with pytest.raises(UserError, match=r"learner\.lora\.target_modules: adapters on experts.*zero_stage=2"):
        add_adapters(experts("mixtral"), StageAConfig(algo="grpo", learner={"lora": {"r": 2}, "zero_stage": 3}))
    attention = {"lora": {"r": 2, "target_modules": ["q_proj"]}, "zero_stage": 3}
    add_adapters(experts("mixtral"), StageAConfig(algo="grpo", learner=attention))
    with pytest.raises(UserError, match=r"lora: peft cannot put adapters into this MixtralForCausalLM: .*lora_dropout"):
        prepare_model(experts("mixtral"), SftConfig(data="builtin", lora={"r": 2, "dropout": 0.1}), "CAUSAL_LM")

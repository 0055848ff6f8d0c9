"""Shared-prefix rows give the log-probabilities, losses and gradients of padded rows; exported weights have the model's names."""

from __future__ import annotations

import json

import pytest
import torch
from learner_models import VOCAB, plain_logprobs, random_groups, tiny_model
from safetensors.torch import load_file

from r0.actors.learner import attention
from r0.actors.learner.attention import UnsupportedAttention
from r0.actors.learner.batch import make_batch, make_minibatches
from r0.actors.learner.comm import Comm
from r0.actors.learner.networks import add_adapters, load_causal, without_dropout
from r0.actors.learner.policy import CriticModel, PolicyModel, adapters_off, run_row, token_logprobs
from r0.actors.learner.probe import probe
from r0.actors.learner.rows import padded_rows, shared_rows
from r0.actors.sync.weights import LearnerWeights, save_hf
from r0.algos.advantages import ADVANTAGES
from r0.algos.gae import gae, token_rewards
from r0.algos.losses import POLICY_LOSSES, LossInputs, LossSettings
from r0.algos.value import ValueInputs, value_loss
from r0.config import StageAConfig
from r0.errors import UserError
from tests.helpers import rewrite_model

KINDS = ("qwen2", "qwen3", "llama")
SHAPES = [(9, [4, 7, 7, 2]), (5, [3, 3]), (12, [6]), (4, [1, 8, 5])]
CPU = torch.device("cpu")


def rows_of(groups, shared: bool):
    batch = make_batch(groups, 0, 0, CPU)
    (minis,) = make_minibatches(batch, [[list(range(len(groups)))]], shared, 30, Comm(1, CPU))
    return batch, minis[0]


def use(model, shared: bool):
    model.set_attn_implementation(attention.NAME if shared else "sdpa")


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_the_model_on_each_sequence_alone(kind):
    model, groups = tiny_model(kind).eval(), random_groups(SHAPES)
    for shared, make in ((True, shared_rows), (False, padded_rows)):
        for row in make(groups, 40):
            use(model, shared)
            with torch.no_grad():
                logp_C, entropy_C = run_row(PolicyModel(model, 0.7, 5), row)
                use(model, False)
                want = torch.cat([plain_logprobs(model, groups[g], s, 0.7) for g, s in row.items])
            torch.testing.assert_close(logp_C, want, atol=1e-5, rtol=0)
            assert bool((entropy_C > 0).all())


def policy_loss_and_gradients(model, groups, shared: bool, chunk: int, checkpointing: bool, loss: str = "ppo_clip"):
    use(model, shared)
    model.train()
    model.zero_grad()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    module = PolicyModel(model, 0.7, chunk)
    batch, mini = rows_of(groups, shared)
    advantage_T = ADVANTAGES["grpo"](batch.reward_N, batch.group_N, lambda x: x)[batch.seq_T]
    total = 0.0
    for part in mini.slices:
        logp_C, _ = run_row(module, part.row)
        inputs = LossInputs(
            logp_C,
            advantage_T[part.at_C],
            part.seq_C,
            part.completions,
            mini.tokens,
            old_logp_T=logp_C.detach() + 0.1 * torch.sin(part.at_C.float()),
            rollout_logp_T=batch.rollout_T[part.at_C],
            ref_logp_T=batch.rollout_T[part.at_C],
        )
        found = POLICY_LOSSES[loss](inputs, LossSettings(kl_coef=0.05, tis_cap=3.0)).loss
        found.backward()
        total += found.item()
    return total, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("loss", ["ppo_clip", "gspo", "cispo"])
@pytest.mark.parametrize("kind", KINDS)
def test_grpo_losses_and_gradients_of_shared_rows_are_those_of_padded_rows(kind, loss):
    model, groups = tiny_model(kind), random_groups(SHAPES)
    want, want_grads = policy_loss_and_gradients(model, groups, False, 1000, False, loss)
    for checkpointing in (False, True):
        got, got_grads = policy_loss_and_gradients(model, groups, True, 6, checkpointing, loss)
        assert abs(got - want) <= 1e-5
        for a, b in zip(got_grads, want_grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert max(float(grad.abs().max()) for grad in want_grads) > 1e-3


def value_loss_and_gradients(critic, groups, shared: bool):
    use(critic.model, shared)
    critic.train()
    critic.zero_grad()
    batch, mini = rows_of(groups, shared)
    old_T = torch.zeros_like(batch.rollout_T)
    with torch.no_grad():
        for part in mini.slices:
            old_T[part.at_C] = run_row(critic, part.row)
    reward_T = token_rewards(batch.reward_N, None, batch.seq_T, 0.0)
    found = gae(reward_T, old_T, batch.seq_T, 0.99, 0.9)
    total = 0.0
    for part in mini.slices:
        value_C = run_row(critic, part.row)
        at = part.at_C
        loss, _ = value_loss(ValueInputs(value_C, old_T[at], found.return_T[at], part.seq_C, part.completions, mini.tokens), 0.2)
        loss.backward()
        total += loss.item()
    return total, found.advantage_T, [p.grad.clone() for p in critic.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_ppo_values_losses_and_gradients_of_shared_rows_are_those_of_padded_rows(kind):
    critic, groups = CriticModel(tiny_model(kind)), random_groups(SHAPES)
    torch.nn.init.normal_(critic.head.weight, std=0.5)  # a critic that has learned something
    want, want_adv, want_grads = value_loss_and_gradients(critic, groups, False)
    got, got_adv, got_grads = value_loss_and_gradients(critic, groups, True)
    assert abs(got - want) <= 1e-5
    torch.testing.assert_close(got_adv, want_adv, atol=1e-5, rtol=1e-5)
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert max(float(grad.abs().max()) for grad in want_grads) > 1e-3


def test_a_new_critic_values_everything_at_zero_and_can_learn():
    critic = CriticModel(tiny_model())
    use(critic.model, True)
    (row,) = shared_rows(random_groups([(4, [3, 2])]), 100)
    values = run_row(critic, row)
    assert float(values.abs().max()) == 0.0
    (values - 1).square().sum().backward()
    assert float(critic.head.weight.grad.abs().max()) > 0


def test_chunked_log_probabilities_match_plain_autograd():
    torch.manual_seed(0)
    logits = torch.randn(7, VOCAB, requires_grad=True)
    target, weight = torch.randint(VOCAB, (7,)), torch.randn(7)
    logp, entropy = token_logprobs(logits, target, 0.6)
    (logp * weight).sum().backward()
    got, logits.grad = logits.grad, None
    plain = (logits / 0.6).log_softmax(-1)
    (plain.gather(1, target[:, None])[:, 0] * weight).sum().backward()
    torch.testing.assert_close(got, logits.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1).detach(), atol=1e-5, rtol=0)
    assert not entropy.requires_grad


def test_attention_without_a_layout_is_refused():
    model = tiny_model()
    use(model, True)
    with pytest.raises(UnsupportedAttention, match="keyword arguments"):
        model(torch.tensor([[1, 2, 3]]), use_cache=False)


@pytest.mark.parametrize(("kind", "scale"), [("granite", {"logits_scaling": 8.0}), ("cohere", {"logit_scale": 0.25})])
def test_logits_that_a_model_scales_are_scaled(kind, scale):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, **scale,
    )  # fmt: skip
    model, (group,) = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), random_groups([(9, [4, 7])])
    assert probe(model, 0.7) == ""
    (row,) = shared_rows([group], 40)
    use(model, True)
    with torch.no_grad():
        logp_C, _ = run_row(PolicyModel(model, 0.7, 5), row)
        use(model, False)
        want = torch.cat([plain_logprobs(model, group, s, 0.7) for s in range(2)])
    torch.testing.assert_close(logp_C, want, atol=1e-5, rtol=0)


NOISY = {
    "opt": {"dropout": 0.3, "attention_dropout": 0.3, "layerdrop": 0.3, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {"hidden_dropout": 0.3, "attention_dropout": 0.3},
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3},
    "mixtral": {"router_jitter_noise": 0.3, "attention_dropout": 0.3, "num_local_experts": 4},
}


@pytest.mark.parametrize("kind", NOISY)
def test_nothing_is_drawn_at_random_while_learning(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, num_key_value_heads=4, initializer_range=0.1, **NOISY[kind],
    )  # fmt: skip
    stated = config.to_dict()
    model, tokens = AutoModelForCausalLM.from_config(config), torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        want = model.eval()(tokens).logits
        assert not torch.allclose(model.train()(tokens).logits, want)
        without_dropout(model)
        torch.testing.assert_close(model.train()(tokens).logits, want)
    assert model.config.to_dict() == stated  # what is saved keeps its settings


def test_dropout_of_adapters_is_refused_in_rl():
    with pytest.raises(ValueError, match=r"learner\.lora\.dropout: 0\.1 would make .* leave it out"):
        StageAConfig(algo="grpo", learner={"lora": {"r": 4, "dropout": 0.1}})


def lora_model(tied: bool = False):
    model = add_adapters(tiny_model(tied=tied), StageAConfig(algo="grpo", learner={"lora": {"r": 4, "alpha": 8.0}}))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_adapters_train_alone_and_can_be_switched_off_for_the_reference():
    model = lora_model()
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())
    assert not any("lm_head" in name for name, p in model.named_parameters() if p.requires_grad)
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        adapted = model(tokens).logits
        with adapters_off(model):
            base = model(tokens).logits
        torch.testing.assert_close(base, tiny_model()(tokens).logits)
        assert float((adapted - base).abs().max()) > 0.01
        torch.testing.assert_close(model(tokens).logits, adapted)


def test_an_unknown_lora_target_is_refused():
    with pytest.raises(UserError, match="target_modules"):
        add_adapters(tiny_model(), StageAConfig(algo="grpo", learner={"lora": {"r": 4, "target_modules": ["nothing"]}}))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_weights_leave_under_hugging_face_names_with_adapters_merged(tied, lora):
    model = lora_model(tied) if lora else tiny_model(tied=tied)
    weights = LearnerWeights(model, None, bucket_bytes=5000, rank=0)
    sent = dict(weights)
    fresh = tiny_model(tied=tied, seed=9)
    assert set(sent) == set(fresh.state_dict())  # lm_head.weight too, where it is tied
    assert [(m.name, m.shape, m.dtype) for m in weights.metadata()] == [(n, tuple(t.shape), t.dtype) for n, t in sent.items()]
    fresh.load_state_dict(sent)
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(fresh(tokens).logits, model(tokens).logits, atol=1e-5, rtol=1e-5)


def test_other_ranks_get_empty_tensors():
    assert all(tensor.numel() == 0 for _, tensor in LearnerWeights(tiny_model(), None, 10**6, rank=1))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_a_saved_model_reloads_equal(tied, lora, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer.json").write_text("{}")
    (base / "generation_config.json").write_text('{"temperature": 0.6}')  # which transformers would not save
    model = lora_model(tied) if lora else tiny_model(tied=tied)
    save_hf(LearnerWeights(model, None, 10**6, 0), str(base), tmp_path / "out")
    again, notes = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model(tokens).logits, atol=1e-5, rtol=1e-5)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"temperature": 0.6}
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists() == lora
    assert again.config.use_cache


@pytest.mark.parametrize("lora", [False, True])
def test_an_output_head_of_its_own_is_saved_though_the_configuration_ties_it(lora, tmp_path):
    tiny_model(tied=False).save_pretrained(tmp_path / "base")
    rewrite_model(tmp_path / "base", config={"tie_word_embeddings": True})
    model = load_causal(str(tmp_path / "base"), torch.float32)
    if lora:
        add_adapters(model, StageAConfig(algo="grpo", learner={"lora": {"r": 4, "target_modules": ["q_proj"]}}))
    weights = LearnerWeights(model, None, 10**6, 0)
    save_hf(weights, str(tmp_path / "base"), tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in weights} == {name: tensor.tolist() for name, tensor in saved.items()}
    assert not torch.equal(saved["lm_head.weight"], saved["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_saved_adapter_loads_with_peft(tmp_path):
    from peft import PeftModel

    model = lora_model()
    save_hf(LearnerWeights(model, None, 10**6, 0), str(tmp_path), tmp_path / "out")
    adapted = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "out" / "adapter"))
    tokens = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(adapted(tokens).logits, model(tokens).logits, atol=1e-5, rtol=1e-5)

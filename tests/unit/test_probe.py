"""The start-up probe: a wrong mask is found, and bf16 rounding decides nothing."""

from __future__ import annotations

import pytest
import torch
from learner_models import VOCAB, tiny_model, windowed_model

from r0.actors.learner import attention, networks
from r0.actors.learner import probe as probes
from r0.actors.learner.probe import kernel_difference, prefix_sharing_problem, probe
from r0.config import StageAConfig
from r0.errors import UserError

KINDS = ("qwen2", "qwen3", "llama")
CPU = torch.device("cpu")


def deep_model(logit_spread: float = 5.0):
    """Random, 28 layers, bf16; its logits have the spread of a trained model's."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=28, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        logits = model(torch.arange(40)[None]).logits
        model.lm_head.weight *= logit_spread / float(logits.std())
    return model.to(torch.bfloat16)


def off_by_one_ulp(sdpa, share: float):
    """Another correct kernel: a share of its bf16 outputs is rounded to the neighbour."""
    generator = torch.Generator().manual_seed(0)

    def attend(*arguments, **options):
        out = sdpa(*arguments, **options)
        if out.dtype != torch.bfloat16:
            return out
        moved = torch.rand(out.shape, generator=generator) < share
        rounded = (out.detach().view(torch.int16) + moved.to(torch.int16)).view(torch.bfloat16)
        return out + (rounded - out).detach()

    return attend


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_passes_plain_decoders(kind):
    assert probe(tiny_model(kind), 1.0) == ""


@pytest.mark.parametrize("share", [0.005, 0.02])
def test_bf16_rounding_of_the_kernels_does_not_decide(monkeypatch, share):
    model = deep_model()
    model.model.rotary_emb.inv_freq.data = model.model.rotary_emb.inv_freq.data.float()  # as from_pretrained leaves it
    before = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    monkeypatch.setattr(attention, "sdpa", off_by_one_ulp(attention.sdpa, share))
    assert prefix_sharing_problem(model, 1.0, CPU) == ""
    assert len(model.model.layers) == 28
    after = (*model.parameters(), *model.buffers())
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(after, before, strict=True))


def upper_left(q, k, v, span, options):
    """A completion that sees the start of its prompt instead of all of it."""
    return attention.sdpa(q, k, v, is_causal=True, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_mask_is_found_in_the_model_and_in_the_kernels(monkeypatch, kind, dtype):
    model = tiny_model(kind).to(dtype)
    assert kernel_difference(model, CPU) == ""
    monkeypatch.setattr(attention, "_lower_right", upper_left)
    assert "log-probabilities differ" in probe(model, 1.0)
    assert "differs by" in kernel_difference(model, CPU)


def test_a_kernel_that_differs_on_the_device_alone_means_padded_rows(monkeypatch):
    model = tiny_model().to(torch.bfloat16)
    right = attention._lower_right

    def wrong_in_bf16(q, k, v, span, options):
        return (upper_left if q.dtype == torch.bfloat16 else right)(q, k, v, span, options)

    monkeypatch.setattr(attention, "_lower_right", wrong_in_bf16)
    assert "differs by" in prefix_sharing_problem(model, 1.0, CPU)

    def broken(*_):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(attention, "_lower_right", broken)
    assert "no kernel image" in kernel_difference(model, CPU)


def test_the_probe_says_why_a_model_cannot_share_prefixes():
    assert "uses softcap" in probe(capped_attention(), 1.0)


def test_windows_that_a_model_does_not_hand_to_its_attention_mean_padded_rows(monkeypatch):
    """Whatever the window's length: the probe shortens it, and puts it back."""
    model = windowed_model("mistral", window=200)
    assert probe(model, 1.0) == ""
    monkeypatch.setattr(attention, "window_of", lambda module, sliding_window: None)
    assert "log-probabilities differ" in probe(model, 1.0)
    assert model.config.sliding_window == 200


def capped_attention():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, final_logit_softcapping=None,
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


def capped_model():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, final_logit_softcapping=0.1, initializer_range=0.5,
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


@pytest.mark.parametrize("wanted", [True, False])
def test_models_that_cap_their_logits_are_refused(wanted):
    with pytest.raises(UserError, match="changes its logits"):
        prefix_sharing_problem(capped_model(), 1.0, CPU, wanted)


class Ranks:
    """torch.distributed of a rank of two; what rank 0 broadcasts is recorded, or given."""

    def __init__(self, monkeypatch, rank: int, given: list | None = None):
        self.sent: list = []

        def broadcast(objects, src):
            assert src == 0
            objects[:] = given or objects
            self.sent.append(list(objects))

        for name, value in (("is_initialized", lambda: True), ("get_world_size", lambda: 2), ("get_rank", lambda: rank)):
            monkeypatch.setattr(torch.distributed, name, value)
        monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)


def test_rank_0_decides_for_all_ranks(monkeypatch):
    first = Ranks(monkeypatch, 0)
    assert prefix_sharing_problem(tiny_model(), 1.0, CPU) == ""
    assert first.sent == [["", ""]]
    monkeypatch.setattr(probes, "probe", lambda *_: pytest.fail("a second opinion"))
    Ranks(monkeypatch, 1, ["rank 0 says so", ""])
    assert prefix_sharing_problem(tiny_model(), 1.0, CPU) == "rank 0 says so"


def test_what_rank_0_refuses_ends_all_ranks(monkeypatch):
    first = Ranks(monkeypatch, 0)
    with pytest.raises(UserError, match="changes its logits"):
        prefix_sharing_problem(capped_model(), 1.0, CPU)
    Ranks(monkeypatch, 1, first.sent[0])
    with pytest.raises(UserError, match="changes its logits"):
        prefix_sharing_problem(tiny_model(), 1.0, CPU)


def test_the_learner_asks_before_the_model_is_on_its_device(monkeypatch):
    asked = []

    def ask(model, temperature, device, wanted):
        asked.append((model.device.type, device.type, wanted))
        raise InterruptedError

    monkeypatch.setattr(networks, "load_causal", lambda *_: tiny_model())
    monkeypatch.setattr(networks, "prefix_sharing_problem", ask)
    config = StageAConfig(algo="grpo", gradient_checkpointing=False, learner={"shared_prefix": False})
    with pytest.raises(InterruptedError):
        networks.load_networks(config, "", torch.device("cuda", 0))
    assert asked == [("cpu", "cuda", False)]


@pytest.mark.parametrize("temperature", [1e-4, 1e-3, 0.01, 0.1, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_small_temperature_is_no_change_of_the_logits(kind, temperature):
    assert probe(tiny_model(kind), temperature) == ""


def test_logits_that_are_not_finite_are_called_so():
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="gives log-probabilities that are not finite"):
        probe(model, 1.0)


def test_a_capped_head_is_still_found_at_a_small_temperature():
    model = tiny_model()
    forward = model.forward

    def capped(*arguments, **options):
        out = forward(*arguments, **options)
        out.logits = 0.5 * torch.tanh(out.logits / 0.5)
        return out

    model.forward = capped
    with pytest.raises(UserError, match="changes its logits after the output head"):
        probe(model, 1e-3)

"""What an engine's key-value cache takes and holds."""

import json
from dataclasses import replace

import pytest

from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.sizes import ENGINE_RESERVE, GIB, Card, auto_kv_cache, auto_num_seqs, kv_bytes_per_token, upper_num_seqs
from r0.actors.rollout.vllm_options import cpu_options, gpu_options
from r0.errors import UserError
from r0.storage.models import model_folder

R1_DISTILL = {  # DeepSeek-R1-Distill-Qwen-1.5B
    "hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2, "num_hidden_layers": 28,
}  # fmt: skip
QWEN3 = {  # Qwen3-0.6B: heads wider than hidden_size / heads
    "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 28,
}  # fmt: skip


def test_a_token_takes_keys_and_values_of_every_layer_and_head():
    assert kv_bytes_per_token(R1_DISTILL, 2) == 2 * 28 * 2 * 128 * 2 == 28_672
    assert kv_bytes_per_token(QWEN3, 2) == 114_688
    assert kv_bytes_per_token(QWEN3, 4) == 2 * 114_688
    without_groups = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    assert kv_bytes_per_token(without_groups, 2) == 2 * 2 * 64 * 2
    assert kv_bytes_per_token({"text_config": QWEN3}, 2) == kv_bytes_per_token(QWEN3, 2)


def test_tensor_parallel_cards_share_the_heads_but_each_holds_one():
    assert kv_bytes_per_token(QWEN3, 2, tensor_parallel_size=4) == 114_688 // 4
    assert kv_bytes_per_token(R1_DISTILL, 2, tensor_parallel_size=4) == 28_672 // 2


def test_the_number_of_completions_follows_the_cache_within_its_bounds():
    token, length = kv_bytes_per_token(R1_DISTILL, 2), 2304
    assert auto_num_seqs(500 * token * length, token, length) == 448  # a multiple of 64
    assert auto_num_seqs(GIB, token, length) == 128
    assert auto_num_seqs(200 * GIB, token, length) == 1024


def test_the_cache_on_a_shared_card_is_what_the_weights_leave_and_never_more_than_is_used():
    token, length, weights = kv_bytes_per_token(R1_DISTILL, 2), 2304, int(3.3 * GIB)
    assert auto_kv_cache(30 * GIB, weights, token, length) == int(30 * GIB * 0.95) - weights - ENGINE_RESERVE
    assert auto_kv_cache(400 * GIB, weights, token, length) == 1024 * token * length
    assert auto_kv_cache(30 * GIB, weights, token, length, num_seqs=8) == 8 * token * length
    assert auto_kv_cache(5 * GIB, weights, token, length) < 0


def test_a_configuration_that_is_no_transformers_is_told_apart():
    with pytest.raises(KeyError):
        kv_bytes_per_token({"model_type": "mamba"}, 2)


CARD = Card(total=80 * GIB)
TINY = EngineSettings(str(model_folder("r0-tiny")), 1024)


def option_values(card: Card = CARD, **settings) -> tuple:
    options = gpu_options(replace(TINY, **settings), card)
    return options["max_num_seqs"], options["gpu_memory_utilization"], options.get("kv_cache_memory_bytes")


def test_on_a_card_of_its_own_vllm_finds_out_the_cache_and_is_told_the_completions():
    assert option_values() == (1024, 0.85, None)
    assert option_values(max_num_seqs=16) == (16, 0.85, None)
    assert option_values(Card(total=5 * GIB)) == (128, 0.85, None)


def test_on_a_shared_card_vllm_is_told_the_cache_and_checks_for_next_to_nothing():
    shared = Card(total=80 * GIB, free=20 * GIB)
    num_seqs, share, cache = option_values(shared, shared_card=True)
    assert (num_seqs, share) == (1024, 0.01)
    assert 0 < cache < 16 * GIB
    assert option_values(shared, shared_card=True, kv_cache_gib=3.0) == (1024, 0.01, 3 * GIB)
    assert gpu_options(replace(TINY, shared_card=True, sleep=True), shared)["enable_sleep_mode"]


def test_an_explicit_cache_holds_on_every_device():
    assert option_values(kv_cache_gib=2.0)[1:] == (0.01, 2 * GIB)
    assert cpu_options(replace(TINY, kv_cache_gib=0.5))["kv_cache_memory_bytes"] == GIB // 2
    assert cpu_options(TINY)["kv_cache_memory_bytes"] == GIB


def test_a_shared_card_without_room_is_refused_with_the_figures():
    with pytest.raises(UserError, match=r"may take 4.0 GiB of the card, .* take 4.0 GiB, and no completion fits besides; use"):
        option_values(Card(total=24 * GIB, free=4 * GIB), shared_card=True)
    with pytest.raises(UserError, match=r"may take 4.0 GiB"):  # or the share is too small
        option_values(Card(total=80 * GIB, free=60 * GIB), shared_card=True, gpu_memory_utilization=0.05)


def test_a_driver_expects_what_is_configured_or_the_most():
    assert [upper_num_seqs(8, True), upper_num_seqs("auto", True), upper_num_seqs("auto", False)] == [8, 1024, 128]


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"layer_types": ["conv", "full_attention"]}, "conv"),
        ({"text_config": {"layer_types": ["linear_attention", "full_attention"]}}, "linear_attention"),
        ({"full_attn_idxs": [2, 5]}, "conv"),
    ],
)
def test_models_with_states_are_refused_on_a_cpu(tmp_path, config, kind):
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = replace(TINY, model=str(tmp_path))
    with pytest.raises(UserError, match=f"vLLM on a CPU does not support layers of the kind {kind}, .* use rollout.engine=hf"):
        cpu_options(settings)
    (tmp_path / "config.json").write_text(json.dumps({"layer_types": ["sliding_attention", "full_attention"]}))
    assert cpu_options(settings)["enable_prefix_caching"]

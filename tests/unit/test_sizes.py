"""What an engine's key-value cache takes and holds."""

import pytest

from r0.actors.rollout.sizes import ENGINE_RESERVE, GIB, auto_kv_cache, auto_num_seqs, kv_bytes_per_token

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

"""On a GPU the learner does what it does on the CPU: log-probabilities, whole updates, the choice of rows, the device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from learner_models import random_groups, tiny_model

from benchmarks import learner as bench
from benchmarks.gpu_check_parts.updates import differences, make, reference, said, three_updates, within
from r0.actors.learner import attention
from r0.actors.learner.policy import PolicyModel, run_row
from r0.actors.learner.rows import shared_rows
from r0.storage.models import model_folder
from r0.storage.output_head import head_logits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

LORA = {"lora": {"r": 8}}


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """Three updates on the CPU in float32 with the given keys of ``learner:``, computed once."""
    folder = tmp_path_factory.mktemp("reference")
    return lambda keys: reference(folder / ("lora.pt" if keys else "full.pt"), keys)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.3)])
def test_shared_prefix_rows_on_a_gpu_equal_those_on_the_cpu(dtype, tolerance):
    groups = random_groups([(9, [4, 7, 7, 2]), (5, [3, 3]), (12, [6])])
    found = []
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        model = tiny_model("qwen2").to(device, kind)
        model.set_attn_implementation(attention.NAME)
        module = PolicyModel(model, 1.0, 16)
        logps = [run_row(module, row)[0] for row in shared_rows(groups, 30, device)]
        sum(logp.sum() for logp in logps).backward()
        found.append((torch.cat(logps).detach().cpu(), model.model.layers[0].self_attn.k_proj.weight.grad.float().cpu()))
    torch.testing.assert_close(found[1][0], found[0][0], atol=tolerance, rtol=0)
    scale = float(found[0][1].abs().max())
    torch.testing.assert_close(found[1][1] / scale, found[0][1] / scale, atol=tolerance, rtol=0)


def test_the_logits_of_a_bfloat16_head_are_not_rounded():
    hidden, weight = (torch.rand(shape, device="cuda").bfloat16().requires_grad_() for shape in ((7, 64), (99, 64)))
    logits = head_logits(hidden, weight, None)
    want = hidden.double() @ weight.double().t()
    torch.testing.assert_close(logits.double(), want, atol=1e-3, rtol=0)
    assert float((logits.bfloat16().double() - want).detach().abs().max()) > 1e-2
    logits.sum().backward()
    torch.testing.assert_close(hidden.grad.double(), weight.double().sum(0).expand(7, 64).detach(), atol=0.2, rtol=0.01)


def test_a_learner_with_no_device_named_is_on_the_first_gpu_without_cudnns_attention():
    torch.backends.cuda.enable_cudnn_sdp(True)
    learner = make(str(model_folder("r0-tiny")), None)
    assert learner.device == torch.device("cuda", 0)
    assert learner.networks.policy.module.model.device == learner.device
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    learner.close()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("stage", "lora"), [(0, {}), (1, {}), (2, {}), (3, {}), (0, LORA), (2, LORA)])
def test_updates_in_float32_equal_those_on_the_cpu(stage, lora, shared, on_cpu):
    keys = {"dtype": "fp32", "zero_stage": stage, "shared_prefix": shared, **lora}
    gaps = differences(on_cpu(lora), three_updates("cuda:0", keys))
    assert within(gaps), said(gaps)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_updates_in_bf16_move_the_weights_as_float32_does(stage, on_cpu):
    gaps = differences(on_cpu({}), three_updates("cuda:0", {"dtype": "bf16", "zero_stage": stage}))
    assert gaps["weights"] < 0.5, said(gaps)


@pytest.mark.parametrize("seed", range(4))
def test_the_learner_chooses_shared_rows_in_bf16(seed, tmp_path):
    bench.make_model("0.5b", str(tmp_path), "cuda:0", seed, spread=3.0)  # 24 layers and a trained model's spread of logits
    learner = make(str(tmp_path), "cuda:0", {"dtype": "bf16", "lora": {"r": 4}})
    assert learner.networks.shared_prefix
    learner.close()


def test_r0_tiny_gets_shared_rows_in_bf16():
    learner = make(str(model_folder("r0-tiny")), "cuda:0", {"dtype": "bf16"})
    assert learner.networks.shared_prefix
    learner.close()

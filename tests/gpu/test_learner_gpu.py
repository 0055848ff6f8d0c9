"""On a GPU the fast kernels give the log-probabilities of the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from learner_models import random_groups, tiny_model

from r0.actors.learner import attention
from r0.actors.learner.policy import PolicyModel, run_row
from r0.actors.learner.rows import shared_rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


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

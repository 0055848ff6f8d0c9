"""An exported model in vLLM: the scores that /v1/score gives are r0's."""

import pytest

from r0.launch import main
from tests.export_models import DOCUMENTS, QUERY, bos_llama, scores_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_vllm_gives_the_scores_of_the_model_that_was_exported(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process, which has torch already
    from r0.actors.rollout.vllm_patches import prepare_cpu
    from r0.actors.rollout.vllm_process import patch_llvmlite, set_environment

    model, output = bos_llama(tmp_path / "model"), tmp_path / "exported"
    assert main(["export", model, "to=sequence_classification", "thinking=false", f"output={output}"]) == 0
    set_environment()
    patch_llvmlite()
    from vllm import LLM

    prepare_cpu()
    options = {"max_model_len": 1024, "kv_cache_memory_bytes": 2**27, "block_size": 32}
    llm = LLM(str(output), dtype="float32", enforce_eager=True, disable_log_stats=True, use_tqdm_on_load=False, **options)
    template = (output / "chat_template.jinja").read_text(encoding="utf-8")
    found = [one.outputs.score for one in llm.score(QUERY, DOCUMENTS, chat_template=template, use_tqdm=False)]
    assert found == pytest.approx(scores_of(model, thinking=False), abs=1e-4)
    assert max(found) - min(found) > 0.01  # they differ from one another

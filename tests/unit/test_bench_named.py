"""A suite whose sets are names on the Hub."""

import json

from r0.launch import main
from tests import hub


def test_a_suite_names_data_on_the_hub(tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub.cache(tmp_path / "hub", {**hub.BEIR, **hub.MTEB})
    (tmp_path / "suite.yaml").write_text("one: hf:BeIR/tides\ntwo: {data: hf:mteb/tides, qrels: train}\nno: hf:BeIR/nowhere\n")
    line = ["bench", f"suite={tmp_path / 'suite.yaml'}", f"output={tmp_path / 'run'}", "model=r0-tiny", "method=pointwise"]
    assert main([*line, "thinking=false", "rollout.engine=hf", "ray.inline=true"]) == 1
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("r0: no: "))
    assert said.startswith("r0: no: data: ")
    assert "BeIR/nowhere" in said
    content = json.loads((tmp_path / "run" / "table.json").read_text())
    assert [(one["data_set"], one["queries"]) for one in content["data_sets"]] == [("one", 1), ("two", 2)]
    assert list(content["failed"]) == ["no"]

"""``r0 export to=onnx``: onnxruntime gives the model's scores."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from r0.export import onnx
from r0.launch import main
from tests.export_models import PAIRS, scored_bert, scores_of
from tests.helpers import tiny_model


def refused(capsys, *arguments: str) -> str:
    """The sentence with which a command line is refused."""
    capsys.readouterr()
    assert main(["export", *arguments, "to=onnx", "--dry-run"]) == 2
    return capsys.readouterr().err


def test_a_missing_package_is_named_with_the_remedy(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    monkeypatch.setattr(onnx, "NEEDED", ("torch", "onnxruntime"))
    assert "to: onnx needs onnxruntime; install them with `pip install onnxruntime`" in refused(capsys, tiny_model(tmp_path))


def test_a_model_of_several_scores_or_with_a_thought_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx, "NEEDED", ())
    assert "add thinking=false" in refused(capsys, tiny_model(tmp_path / "qwen"))
    assert "gives 2 scores per pair" in refused(capsys, scored_bert(tmp_path / "bert", labels=2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_onnxruntime_gives_the_models_scores(kind, tmp_path):
    """With the README's code."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    decoder, output = kind == "decoder", tmp_path / "out"
    model = tiny_model(tmp_path / "model") if decoder else scored_bert(tmp_path / "model")
    assert main(["export", model, "to=onnx", f"output={output}", *(["thinking=false"] if decoder else [])]) == 0
    card = (output / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0].replace('"out', f'"{output}')
    found = []
    for query, document in PAIRS:
        known: dict = {}
        given = code.replace('"query"}, {', f"{query!r}}}, {{").replace('"document"}', f"{document!r}}}")
        exec(given.replace('(["query"], ["document"]', f"([{query!r}], [{document!r}]"), known)
        found.append(known["logits"][0, 0])
    expected = scores_of(model, **({"thinking": False} if decoder else {}))
    assert 1 / (1 + np.exp(-np.array(found))) == pytest.approx(expected, abs=1e-4)

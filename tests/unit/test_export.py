"""``r0 export``: sequence classifiers with the model's own scores, and what is uploaded to the Hub."""

from __future__ import annotations

import base64
import json
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from r0.config import FinetuneConfig, StageCConfig
from r0.launch import main
from r0.records import Form
from r0.storage.cross_encoder_files import IDENTITY, SIGMOID
from r0.supervised.finetune.model import open_model
from r0.supervised.finetune.plan import plan_model
from r0.supervised.stage_c.folder import pair_tokenizer, write_modules
from r0.supervised.stage_c.list_prompter import ListPrompter
from r0.text.prompt_file import save_prompt
from tests.export_models import PAIRS, bos_llama, scores_of
from tests.helpers import rewrite_model, tiny_model


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return Path(tiny_model(tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="module")
def exported(qwen, tmp_path_factory) -> Path:
    """A tied Qwen2 as a sequence classifier."""
    return export(qwen, tmp_path_factory.mktemp("exported") / "classifier", "thinking=false")


def export(model: str | Path, output: Path, *more: str) -> Path:
    assert main(["export", str(model), "--to", "sequence_classification", f"output={output}", *more]) == 0
    return output


def refused(capsys, *arguments: str) -> str:
    """The sentence with which a command line is refused."""
    capsys.readouterr()
    assert main(["export", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("r0: ")]
    return line


def cross_encoder_scores(folder: Path) -> list[float]:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu", local_files_only=True).predict(PAIRS).tolist()


def test_a_language_model_scores_as_it_does_without_a_thought(qwen, exported):
    expected = scores_of(qwen, thinking=False)
    assert cross_encoder_scores(exported) == pytest.approx(expected, abs=1e-4)
    assert scores_of(exported) == pytest.approx(expected, abs=1e-4)  # r0 reads its own export
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForSequenceClassification"]
    assert config["sentence_transformers"]["activation_fn"] == SIGMOID  # vLLM reads it there
    card = (exported / "README.md").read_text()
    assert f"Made from `{qwen}`" in card
    assert "P(yes)" in card


def test_a_tokenizer_that_puts_a_token_before_a_text_is_kept_from_it(tmp_path):
    """vLLM tokenizes the rendered template as a text, so that its first token would be there twice."""
    model = bos_llama(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(model)("a").input_ids[0] == AutoTokenizer.from_pretrained(model).bos_token_id
    output = export(model, tmp_path / "out", "thinking=false")
    tokenizer = AutoTokenizer.from_pretrained(output)
    text = tokenizer.apply_chat_template(
        [{"role": "query", "content": "a"}, {"role": "document", "content": "b"}], tokenize=False
    )
    assert text.startswith("<|begin|><|im_start|>")
    assert tokenizer(text).input_ids.count(tokenizer.bos_token_id) == 1
    assert cross_encoder_scores(output) == pytest.approx(scores_of(model, thinking=False), abs=1e-4)


def test_a_finetuned_decoder_brings_its_prompt_and_its_activation_along(qwen, tmp_path):
    config = FinetuneConfig(model=str(qwen), model_type="yes_no", query_format="Q {}", max_prompt_tokens=512)
    model = open_model(config, qwen, plan_model(config, qwen), torch.float32, "cpu")
    model.save_pretrained(str(tmp_path / "tuned"), create_model_card=False)
    (tmp_path / "tuned" / "README.md").write_text("---\ntags: [r0]\n---\n# Mine\n\nTrained.\n")
    output = export(tmp_path / "tuned", tmp_path / "out")
    expected = scores_of(tmp_path / "tuned")
    assert max(map(abs, expected)) > 1  # no probabilities: this loss has no activation
    assert cross_encoder_scores(output) == pytest.approx(expected, abs=1e-4)
    assert json.loads((output / "config.json").read_text())["sentence_transformers"]["activation_fn"] == IDENTITY
    card = (output / "README.md").read_text()
    assert card.endswith("## Mine\n\nTrained.\n")
    assert card.count("---\n") == 2  # one front matter


def test_the_folder_of_stage_c_has_the_models_score_and_so_has_its_export(qwen, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(qwen, folder)
    prompter = ListPrompter(StageCConfig(model=str(qwen), max_prompt_tokens=800, max_new_tokens=64), folder)
    pair_tokenizer(prompter).save_pretrained(folder)
    write_modules(folder, prompter)
    expected = np.array(scores_of(qwen, thinking=False))
    logits = pytest.approx(np.log(expected / (1 - expected)), abs=1e-3)
    assert cross_encoder_scores(folder) == logits
    assert cross_encoder_scores(export(folder, tmp_path / "out")) == logits


def test_a_model_in_bfloat16_keeps_its_type_and_a_precise_head(qwen, tmp_path):
    shutil.copytree(qwen, tmp_path / "model")
    rewrite_model(
        tmp_path / "model", lambda tensors: {name: one.bfloat16() for name, one in tensors.items()}, {"dtype": "bfloat16"}
    )
    output = export(tmp_path / "model", tmp_path / "out", "thinking=false")
    assert AutoModelForSequenceClassification.from_pretrained(output).dtype == torch.bfloat16
    assert json.loads((output / "config_sentence_transformers.json").read_text())["keep_in_fp32_modules"] == ["0.model.score"]


def test_what_cannot_be_a_classifier_is_refused_with_the_remedy(qwen, exported, tmp_path, capsys):
    to = ("to=sequence_classification", f"output={tmp_path / 'out'}")
    assert "add thinking=false" in refused(capsys, str(qwen), *to)
    assert "use thinking=false, or `r0 serve`" in refused(capsys, str(qwen), *to, "thinking=true")
    assert "sequence classifier already" in refused(capsys, str(exported), *to)
    lists = tmp_path / "lists"
    shutil.copytree(qwen, lists)
    save_prompt(lists, Form.PERMUTATION, "", {})
    assert "answer about lists (permutation)" in refused(capsys, str(lists), *to, "thinking=false")
    modules = tmp_path / "modules"
    shutil.copytree(qwen, modules)
    (modules / "modules.json").write_text(json.dumps([{"path": "", "type": "a.Transformer"}, {"path": "1", "type": "a.Dense"}]))
    assert "(Dense); load the folder with sentence-transformers" in refused(capsys, str(modules), *to)
    assert "is for to=hub" in refused(capsys, str(qwen), "me/it", *to, "thinking=false")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert "has no model/; finish it" in refused(capsys, str(tmp_path / "run"), *to)
    assert not (tmp_path / "out").exists()
    taken = ("to=sequence_classification", f"output={lists}", "thinking=false")
    assert "exists and is not empty" in refused(capsys, str(qwen), *taken)


def test_logits_that_are_not_the_output_layers_alone_are_found_and_nothing_is_left(qwen, tmp_path, capsys):
    """Granite divides its logits, which a score head would not."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = tmp_path / "granite"
    config = AutoConfig.for_model(
        "granite", vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=8.0, initializer_range=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    AutoTokenizer.from_pretrained(qwen).save_pretrained(model)
    said = refused(capsys, str(model), "to=sequence_classification", "thinking=false", f"output={tmp_path / 'out'}")
    assert "would give other scores" in said or "no sequence classifier" in said
    assert [path.name for path in tmp_path.iterdir()] == ["granite"]


def test_the_output_is_in_the_run(qwen, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(qwen, run / "model")
    (run / "run.json").write_text('{"command": "stage_a", "run_id": "1"}')
    monkeypatch.chdir(tmp_path)
    for model, output in ((run, run / "sequence_classification"), (qwen, Path(f"{qwen.name}-sequence_classification"))):
        assert main(["export", str(model), "to=sequence_classification", "thinking=false", "--dry-run"]) == 0
        assert capsys.readouterr().out.startswith(f"would write {output},")


@pytest.fixture
def hub(monkeypatch):
    """A server with the Hub's paths for an upload; the bodies that it got, by path. With ``refuses`` it says 403."""
    bodies: dict[str, bytes] = {}

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = bodies[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            answer: dict[str, object] = {"url": f"{address}/me/it", "name": "me/it", "errors": [], "warnings": []}
            if "preupload" in self.path:
                files = [one["path"] for one in json.loads(body)["files"]]
                answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]}
            if "/commit/" in self.path:
                answer = {"success": True, "commitOid": "abc", "commitUrl": f"{address}/me/it/commit/abc"}
            self.send_response(403 if "refuses" in bodies else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        for name, value in (("ENDPOINT", address), ("HF_HUB_OFFLINE", False)):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield bodies
        server.shutdown()
        thread.join()


class TestHub:
    """``to=hub``."""

    @pytest.fixture
    def model(self, qwen, tmp_path) -> Path:
        shutil.copytree(qwen, tmp_path / "model")
        (tmp_path / "model" / "README.md").write_text("# A card\n")
        return tmp_path / "model"

    def test_a_dry_run_lists_files_and_the_card_offline(self, model, capsys):
        assert main(["export", str(model), "me/it", "--to", "hub", "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "to me/it (private if it is created):" in said
        assert said.endswith("# A card\n\n")
        size = (model / "model.safetensors").stat().st_size
        assert any(line.split()[:2] == ["model.safetensors", f"{size / 1e6:.2f}"] for line in said.splitlines())

    @pytest.mark.parametrize(
        ("path", "content", "said"),
        [
            ("optimizer.pt", b"", "is no part of a model"),
            ("optimizer.safetensors", b"", "is no part of a model"),
            ("pytorch_model.bin", b"", "is no part of a model"),
            (".env", b"", "is no part of a model"),
            ("checkpoints/step-1/model.safetensors", b"", "is no part of a model"),
            ("client_secret.json", b"{}", "is no part of a model"),
            ("notes.txt", b"token: hf_" + b"a" * 34, "looks like a Hugging Face token"),
            ("notes.md", b"-----BEGIN RSA PRIVATE KEY-----", "looks like a private key"),
        ],
    )
    def test_what_must_not_go_is_refused(self, model, path, content, said, capsys):
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_bytes(content)
        line = refused(capsys, str(model), "me/it", "to=hub")
        assert said in line
        assert path in line

    def test_the_files_are_uploaded_in_one_commit(self, model, hub, capsys):
        """With the real client, against a server that answers as the Hub does."""
        assert main(["export", str(model), "me/it", "--to", "hub"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith("/me/it/commit/abc")
        created = json.loads(hub["/api/repos/create"])
        assert created == {"name": "it", "organization": "me", "visibility": "private"}
        lines = list(map(json.loads, hub["/api/models/me/it/commit/main"].splitlines()))
        sent = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        assert sent == {path.name: path.read_bytes() for path in model.iterdir()}

    def test_a_hub_that_refuses_is_one_sentence(self, model, hub, capsys):
        hub["refuses"] = b""
        line = refused(capsys, str(model), "me/it", "to=hub")
        assert "repo: the upload to me/it failed" in line
        assert "run the same command again" in line

    def test_other_refusals(self, model, capsys, monkeypatch):
        assert "give the repository's name" in refused(capsys, str(model), "to=hub")
        assert "remove thinking" in refused(capsys, str(model), "me/it", "to=hub", "thinking=false")
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        assert "run `hf auth login`, or set HF_TOKEN" in refused(capsys, str(model), "me/it", "to=hub")
        (model / "README.md").unlink()
        assert "has no model card" in refused(capsys, str(model), "me/it", "to=hub", "--dry-run")


def test_weights_of_a_mixed_type_are_read(exported):
    """The head is a tensor of its own, so that nothing of the vocabulary's layer is left in the file."""
    from safetensors.torch import load_file

    tensors = load_file(exported / "model.safetensors")
    assert tensors["score.weight"].shape == (1, 128)
    assert "lm_head.weight" not in tensors

"""``export``: a trained model as a sequence classifier, as ONNX, or on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from r0.config import ExportConfig
from r0.errors import UserError
from r0.runs.claim import MARKER
from r0.storage.models import model_folder


def run(config: ExportConfig, dry_run: bool) -> int:
    """Export, or say what would be written or uploaded. Returns the exit code.

    Raises:
        UserError: the model cannot be exported so, or the output cannot be written.
    """
    name, run_folder = _model(config.model)
    folder = model_folder(name)
    if config.to == "hub":
        return _to_hub(config, folder, dry_run)
    if config.repo is not None:
        raise UserError(f"repo: {config.repo} is for to=hub; give the folder to write as output=")
    output = _output(config, folder, run_folder)
    export = _to_onnx if config.to == "onnx" else _to_classifier
    return export(config, name, folder, output, dry_run)


def _to_classifier(config: ExportConfig, name: str, folder: Path, output: Path, dry_run: bool) -> int:
    from r0.export.yes_no import read_yes_no

    score = read_yes_no(folder, config.thinking)
    if dry_run:
        print(f"would write {output}, a sequence classifier made from {folder}")
        return 0
    from r0.export.sequence_classifier import write_classifier

    largest = write_classifier(name, folder, output, score)
    print(f"{output}: loaded again, its scores differ from the model's by at most {largest:.1g}")
    print(f"sentence-transformers: CrossEncoder({str(output)!r})")
    print(f"vLLM: vllm serve {output} --chat-template {output / 'chat_template.jinja'}")
    return 0


def _to_onnx(config: ExportConfig, name: str, folder: Path, output: Path, dry_run: bool) -> int:
    from r0.export.onnx import check_onnx, write_onnx

    check_onnx(folder, config.thinking)
    if dry_run:
        print(f"would write {output}, an ONNX model made from {folder}")
        return 0
    largest = write_onnx(name, folder, output, config.thinking)
    print(f"{output}: onnxruntime's scores differ from the model's by at most {largest:.1g}")
    return 0


def _to_hub(config: ExportConfig, folder: Path, dry_run: bool) -> int:
    from r0.export.card import CARD
    from r0.export.hub import plan_upload, upload

    for name in ("output", "thinking"):
        if getattr(config, name) is not None:
            raise UserError(f"{name}: to=hub uploads the model as it is; remove {name}, or use to=sequence_classification first")
    if config.repo is None:
        raise UserError("repo: give the repository's name, such as `r0 export MODEL me/my-reranker --to hub`")
    plan = plan_upload(folder)
    if dry_run:
        kind = "private" if config.private else "public"
        print(f"would upload {folder} to {config.repo} ({kind} if it is created):\n{plan}\n")
        print(f"{CARD}:\n\n{(folder / CARD).read_text(encoding='utf-8')}")
        return 0
    print(f"uploading {folder} to {config.repo}:\n{plan}", flush=True)
    print(upload(plan, config.repo, config.private))
    return 0


def _model(name: str) -> tuple[str, Path | None]:
    """The model's name, and the run directory if it is a run's.

    Raises:
        UserError: the run has no model.
    """
    folder = Path(name)
    if not (folder / MARKER).is_file():
        return name, None
    if not (folder / "model" / "config.json").is_file():
        raise UserError(f"model: the run {name} has no model/; finish it (run its command again), or give a model folder")
    return str(folder / "model"), folder


def _output(config: ExportConfig, folder: Path, run_folder: Path | None) -> Path:
    """The folder to write.

    Raises:
        UserError: something is there.
    """
    if config.output is not None:
        output = Path(config.output)
    else:
        output = run_folder / config.to if run_folder else Path(f"{folder.name}-{config.to}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output: {output} exists and is not empty; choose another output=, or remove it")
    return output

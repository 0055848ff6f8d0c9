"""What a person may have meant by a key or a command that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

MOST = 3  # suggestions
SYNONYMS = {  # names that other tools give to a key → the key here
    "lr": "learning_rate",
    "wandb_project": "project",
    "wandb_name": "name",
    "bs": "batch_size",
    "n": "num_generations",
    "group_size": "num_generations",
    "beta": "kl_coef",
    "kl": "kl_coef",
    "rank": "r",
    "epoch": "epochs",
    "steps": "max_steps",
    "dataset": "data",
    "model_name": "model",
    "output_dir": "output",
}


def nearest_keys(written: str, paths: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """The keys of ``paths`` (such as ``learner.lora.r``) that ``written`` is nearest to, the best first, at most ``MOST``.

    A key of this name in another section comes first, then what other tools call so, then spellings, then abbreviations.
    """
    section, _, name = written.rpartition(".")
    inside = [path for path in paths if section and _ends(path.rpartition(".")[0], section)] or list(paths)
    near = difflib.get_close_matches(name, _names(inside), n=1, cutoff=0.55)
    stages = (
        [path for path in paths if _ends(path, written) or path.replace(".", "_") == name or path.endswith(f".{_dotted(name)}")],
        _called(name, paths),
        _called(SYNONYMS.get(name, ""), paths),
        difflib.get_close_matches(name, aliases, n=1, cutoff=0.8),
        [path for one in near for path in _called(one, inside)],
        [path for path in inside if _abbreviates(name, path.rpartition(".")[2])],
        [path for one in difflib.get_close_matches(name, _names(paths), n=2, cutoff=0.7) for path in _called(one, paths)],
        difflib.get_close_matches(section, paths, n=1, cutoff=0.7),
    )
    return next(filter(None, stages), [])[:MOST]


def nearest_command(words: Sequence[str], commands: Iterable[str]) -> str | None:
    """The command that ``words`` are nearest to, whatever their case and what joins their parts."""
    known: dict[str, str] = {}
    for command in commands:
        known.setdefault(_plain(command), command)
        known.setdefault(_plain(command.partition(" ")[0]), command.partition(" ")[0])
    for written in (_plain(" ".join(words)), _plain(words[0])):
        if written in known:
            return known[written]
    for written in (_plain(" ".join(words)), _plain(words[0])):
        if near := difflib.get_close_matches(written, known, n=1):
            return known[near[0]]
    return None


def listed(names: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _names(paths: Iterable[str]) -> list[str]:
    return [path.rpartition(".")[2] for path in paths]


def _called(name: str, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if path.rpartition(".")[2] == name]


def _ends(path: str, written: str) -> bool:
    """Whether ``path`` ends with the whole names of ``written``."""
    return f".{path}".endswith(f".{written}")


def _dotted(name: str) -> str:
    """``lora_r`` as ``lora.r``."""
    return ".".join(name.rsplit("_", 1))


def _abbreviates(short: str, name: str) -> bool:
    """Whether ``short`` is made of the first letters of the words of ``name``, or is one of its words, or begins one."""
    words = name.split("_")
    return short == "".join(word[0] for word in words if word) or any(word.startswith(short) for word in words)


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]", "", text.lower())

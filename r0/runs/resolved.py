"""The resolved configuration on disk: written as YAML that the same command can load, hashed, and compared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from r0.config import yamlfile
from r0.config.bench import SUITES
from r0.config.describe import keys, with_value
from r0.config.types import names_files
from r0.data.named.names import HUB
from r0.data.named.resolve import with_names

Value: TypeAlias = str | int | float | bool | list[str] | None
Config = TypeVar("Config", bound=BaseModel)

NAMES_OF_R0 = ("builtin", "r0-tiny", "auto", "none", *SUITES)  # values of keys that name files, which are none

# Keys that may change on resume: those that determine where and how a run executes but not what it computes, and its length.
# A trailing "." means a whole section.
MAY_CHANGE = (
    "fresh",
    "output",
    "max_steps",
    "epochs",
    "format",  # of a printed table, or of annotate's result, which is written from annotations.jsonl
    "vector_cache",
    "skip_bad",  # a run that started without it has no bad lines
    "tracking.",
    "profile",
    "ray.",
    "checkpoint.",
    "gradient_checkpointing",
    "cpus",
    "gpus",
    "on_nan",
    "reward.workers",
    "reward.deadline_s",
    "learner.ranks",  # the state is reshaped, as for zero_stage
    "learner.zero_stage",
    "learner.cpus",
    "learner.gpus",
    "learner.offload_optimizer",
    "learner.row_tokens",
    "learner.logprob_chunk",
    "rollout.workers",
    "rollout.tensor_parallel_size",
    "rollout.max_num_seqs",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_gib",
    "rollout.sleep",
    "rollout.enforce_eager",
    "rollout.cpus",
    "rollout.gpus",
    "sync.backend",
    "sync.bucket_mb",
    "sync.deadline_s",
    "sync.gap_warn",
    "sync.gap_fatal",
)


LENGTH = ("max_steps", "epochs")


def other_length(path: Path, config: BaseModel) -> bool:
    """Whether the configuration at ``path`` names another number of steps or epochs."""
    there, here = read_flat(path, type(config)), flat(config)
    return any(there.get(name) != here.get(name) for name in LENGTH)


def to_yaml(command: str, config: BaseModel) -> str:
    """The configuration with every key, multi-line strings as blocks; ``yamlfile.read`` and the command can load it."""
    head = f"# The resolved configuration of this run. Start one like it: r0 {command} THIS_FILE output=…\n"
    body = yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return head + body


def flat(config: BaseModel) -> dict[str, Value]:
    """``{"reward.acc_weight": 0.5, …}``; a missing section is one key with value None."""
    return _flat(config.model_dump(mode="json"), "")


def config_hash(command: str, config: BaseModel) -> str:
    """Eight hex digits, a hash of the command and the configuration without ``output`` and ``fresh``."""
    values = {name: value for name, value in flat(with_names(config)).items() if name not in ("output", "fresh")}
    text = json.dumps([command, values], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_flat(path: Path, model: type[BaseModel]) -> dict[str, Value]:
    """The configuration at ``path``, flat. Keys added by a newer r0 get their defaults.

    Raises:
        UserError: the file is missing or not valid YAML.
    """
    values = yamlfile.read(path).values
    if isinstance(tracking := values.get("tracking"), dict):  # as earlier versions named the keys
        for name in ("project", "name"):
            if f"wandb_{name}" in tracking:
                tracking[name] = tracking.pop(f"wandb_{name}")
    try:
        return flat(model.model_validate(values))
    except ValidationError:  # from another command, or from an r0 version with other keys
        return _flat(values, "")


def read_values(path: Path) -> dict[str, Value]:
    """The configuration at ``path`` as it was written, flat, whatever command it is of.

    Raises:
        UserError: the file is missing or not valid YAML.
    """
    return _flat(yamlfile.read(path).values, "")


def absolute(config: Config) -> Config:
    """The configuration with absolute paths, so that it means the same in any folder; names that are no paths stay."""
    for name, value in _paths(config).items():
        config = with_value(config, name, _absolute(name, value))
    return config


def same_paths(there: Mapping[str, Value], here: Mapping[str, Value], config: BaseModel) -> set[str]:
    """The keys that name the same file or folder, whatever way it is written."""
    both = {name: (str(there[name]), str(here[name])) for name in _paths(config) if there.get(name) is not None}
    return {name for name, (one, other) in both.items() if os.path.realpath(one) == os.path.realpath(other)}


def _paths(config: BaseModel) -> dict[str, Value]:
    """The keys that can name files, with their values; a list of files is no single value and stays as it is."""
    values = flat(config)
    return {name: values[name] for name, field in keys(type(config)) if names_files(field) and isinstance(values.get(name), str)}


def _absolute(name: str, value: Value) -> Value:
    """A path that exists, or a pattern of files, as an absolute path; the name of a split stays one, whatever is called so."""
    if not isinstance(value, str) or value in NAMES_OF_R0:
        return value
    there = Path(value).is_file() if name.endswith("qrels") else Path(value).exists() or "{}" in value
    return os.path.abspath(value) if there else value


def differences(there: Mapping[str, Value], here: Mapping[str, Value], same: Collection[str] = ()) -> list[str]:
    """The keys that must stay and differ, each as ``key (A there, B here)``; not those in ``same``."""
    names = [*here, *(name for name in there if name not in here)]
    return [
        f"{name} ({_short(there, name)} there, {_short(here, name)} here)"
        for name in names
        if not may_change(name) and name not in same and ((name in there) != (name in here) or there.get(name) != here.get(name))
    ]


def may_change(name: str) -> bool:
    """Whether a key is one of ``MAY_CHANGE``: it changes no result."""
    return any(name.startswith(known) if known.endswith(".") else name == known for known in MAY_CHANGE)


def _short(values: Mapping[str, Value], name: str) -> str:
    if name not in values:
        return "absent"
    value = values[name]
    text = "empty" if value is None or value == "" else str(value).replace("\n", " ")
    if text.startswith(HUB):
        return text  # its end tells one revision from another
    return text if len(text) <= 40 else text[:37] + "…"


def _flat(values: Mapping[str, object], above: str) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{above}{name}.")
        else:
            result[above + name] = cast(Value, value)
    return result


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes multi-line strings as blocks, and quotes strings that a YAML 1.2 reader would parse as numbers."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if not set(text).isdisjoint("\r\x85\u2028\u2029"):
        style = '"'  # readers fold these line breaks unless they are escaped
    elif "\n" in text:
        style = "|"  # the emitter falls back to quotes if a block would change the string
    else:
        try:
            float(text)
            style = "'"
        except ValueError:
            pass
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

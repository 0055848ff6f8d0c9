"""The command line: ``r0 COMMAND [CONFIG.yaml] [key=value …]``, or equivalently ``python -m r0.launch COMMAND …``.

Invalid input prints a one-sentence error on stderr and exits with code 2; unexpected errors keep their traceback. Neither torch
nor vLLM is imported before a command runs, so that ``--help`` is immediate.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from r0.command_line import HELP, asks_for_help, split, take_command, take_gpu_memory
from r0.config import (
    AnnotateConfig,
    BenchConfig,
    CompletionConfig,
    ConvertConfig,
    DemoConfig,
    DistillConfig,
    DistillEvalConfig,
    DistillTrainConfig,
    DistillTripletsConfig,
    EsciConfig,
    EsciEvalConfig,
    EvaluateConfig,
    ExportConfig,
    FinetuneConfig,
    FuseConfig,
    MineConfig,
    ReportConfig,
    RerankConfig,
    RetrieveConfig,
    RolloutsConfig,
    ScoreConfig,
    Section,
    ServeConfig,
    SftConfig,
    StageAConfig,
    StageBConfig,
    StageCConfig,
)
from r0.config.models import check_preset, notice
from r0.errors import RunFailed, UserError
from r0.overview import overview
from r0.process.environment import prepare_environment
from r0.process.folders import use_writable_folders


@dataclass(frozen=True)
class Command:
    """A command: configuration class, summary, function, and positional keys (without any, the positional is CONFIG.yaml)."""

    config: type[Section]
    summary: str
    function: str  # "module:function", imported when the command runs
    group: str = ""  # of the screen that `r0` alone prints (r0/overview.py)
    positionals: tuple[str, ...] = ()
    shipped: bool = True  # whether a configuration of its name is shipped, and used where none is given
    many: bool = False  # whether the last positional takes all words that are left

    @property
    def places(self) -> str:
        """The positionals as help names them."""
        return " ".join(map(str.upper, self.positionals)) + (" …" if self.many else "") if self.positionals else "[CONFIG.yaml]"

    def run(self, config: Section, dry_run: bool, gpu_memory: float | None = None) -> int:
        """Run it; returns the exit code. ``gpu_memory``: size in GB of the cards that a dry run assumes.

        Raises:
            UserError: ``gpu_memory`` is given and the command works on no card.
        """
        module, _, name = self.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        if gpu_memory is None:
            return function(config, dry_run=dry_run) or 0
        if "gpu_memory" not in inspect.signature(function).parameters:
            raise UserError("--gpu-memory is for commands that use GPUs, and this one uses none; leave it out")
        return function(config, dry_run=dry_run, gpu_memory=gpu_memory) or 0


COMMANDS = {
    "demo": Command(DemoConfig, "warm start, RL and probes on the built-in task, on two cores", "r0.commands.demo:run", "train"),
    "stage_a": Command(StageAConfig, "RL, one document: think, then yes or no", "r0.commands.stage_a:run", "train"),
    "stage_b": Command(StageBConfig, "RL, a list of documents: think, then rank them", "r0.commands.stage_b:run", "train"),
    "stage_c": Command(StageCConfig, "scores that order close calls, from labelled lists", "r0.commands.stage_c:run", "train"),
    "sft": Command(SftConfig, "warm start: supervised fine-tuning on rows with thoughts", "r0.commands.sft:run", "supervise"),
    "finetune": Command(
        FinetuneConfig, "supervised fine-tuning of a reranker on labelled documents", "r0.commands.finetune:run", "supervise"
    ),
    "esci": Command(
        EsciConfig, "a reranker of four classes: exact, substitute, complement, irrelevant", "r0.commands.esci:run", "supervise"
    ),
    "esci eval": Command(
        EsciEvalConfig, "measure one on labelled rows", "r0.commands.esci_eval:run", "supervise", shipped=False
    ),
    "convert": Command(
        ConvertConfig, "raw production logs to pointwise rows", "r0.commands.convert:run", "teach", ("input", "output")
    ),
    "annotate": Command(
        AnnotateConfig, "a teacher writes thoughts and verdicts for a warm start", "r0.commands.annotate:run", "teach",
        shipped=False,
    ),
    "mine": Command(
        MineConfig, "hard negatives from BM25, a dense model or a reranker", "r0.commands.mine:run", "teach", shipped=False
    ),
    "distill": Command(
        DistillConfig, "a small reranker learns from a large one", "r0.commands.distill:run", "teach", shipped=False
    ),
    "distill score": Command(
        ScoreConfig, "a teacher's raw logits for labelled data", "r0.commands.distill_score:run", "teach", shipped=False
    ),
    "distill triplets": Command(
        DistillTripletsConfig, "a teacher's scores to triplets", "r0.commands.distill_triplets:run", "teach", shipped=False
    ),
    "distill train": Command(
        DistillTrainConfig, "a student learns from a teacher's scores", "r0.commands.distill_train:run", "teach", shipped=False
    ),
    "distill eval": Command(
        DistillEvalConfig, "what a student gained: before and after", "r0.commands.distill_eval:run", "teach", shipped=False
    ),
    "retrieve": Command(RetrieveConfig, "a first stage: BM25 over a corpus", "r0.commands.retrieve:run", "rank", shipped=False),
    "rerank": Command(
        RerankConfig, "order a first stage's candidates with a model", "r0.commands.rerank:run", "rank", shipped=False
    ),
    "serve": Command(ServeConfig, "a rerank server for the clients people have", "r0.commands.serve:run", "rank", shipped=False),
    "export": Command(
        ExportConfig, "a model for sentence-transformers, vLLM's /v1/score or the Hub", "r0.commands.export:run", "rank",
        ("model", "repo"),
    ),
    "fuse": Command(FuseConfig, "several runs as one, by their ranks", "r0.commands.fuse:run", "rank", shipped=False),
    "eval": Command(EvaluateConfig, "measure runs against judgements", "r0.commands.evaluate:run", "rank", shipped=False),
    "bench": Command(
        BenchConfig, "retrieve, rerank and eval on several data sets, in one table", "r0.commands.bench:run", "rank",
        shipped=False,
    ),
    "report": Command(
        ReportConfig, "runs as one HTML page: curves, completions, gains, configuration", "r0.commands.report:run", "look",
        ("runs",), many=True,
    ),
    "rollouts": Command(RolloutsConfig, "read the rollouts a run kept", "r0.commands.rollouts:run", "look", ("run",)),
    "completion": Command(
        CompletionConfig, "print the completion script of bash, zsh or fish", "r0.commands.completion:run", "look", ("shell",)
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 invalid input, 130/143 interrupted and saved)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    asked = bool(arguments) and arguments[0] in HELP
    if asked:
        del arguments[0]
    if not arguments:
        print(overview(COMMANDS))
        return 0 if asked else 2
    try:
        name = take_command(arguments, COMMANDS)
        if asked or asks_for_help(arguments):
            print(_help(name))
            return 0
        gpu_memory = take_gpu_memory(arguments)
        config, dry_run = parse(name, arguments)
        if gpu_memory is not None and not dry_run:
            raise UserError("--gpu-memory: only --dry-run uses it, it limits no run; add --dry-run, or leave it out")
        for used in (config, getattr(config, "teacher", None)):
            if said := notice(getattr(used, "model", "")):
                print(f"r0: {said}", file=sys.stderr)
        prepare_environment()
        use_writable_folders()
        from r0.data.named.resolve import with_local_data

        return COMMANDS[name].run(with_local_data(config), dry_run, gpu_memory)
    except UserError as error:
        print(f"r0: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"r0: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"r0: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return getattr(interrupt, "exit_code", 130)


def parse(name: str, arguments: Sequence[str]) -> tuple[Section, bool]:
    """The configuration of a command line, and whether it is a dry run.

    ``--some-key V`` and ``--some-key=V`` are the same as ``some_key=V``; a bare ``--some-key`` is ``some_key=true``.

    Raises:
        UserError: wrong positionals, unknown keys, bad values.
    """
    from r0.config.load import load

    command, arguments = COMMANDS[name], list(arguments)
    take_gpu_memory(arguments)  # an option of the door, no key
    positionals, overrides, dry_run = split(command.config, arguments)
    if command.positionals:
        if command.many and positionals:
            alone = len(command.positionals) - 1
            positionals = [*positionals[:alone], json.dumps(positionals[alone:])]
        if len(positionals) > len(command.positionals):
            raise UserError(f"{name}: takes {' '.join(map(str.upper, command.positionals))}, not also {positionals[-1]}")
        overrides = [f"{key}={value}" for key, value in zip(command.positionals, positionals, strict=False)] + overrides
        return load(command.config, None, overrides), dry_run
    if len(positionals) > 1:
        raise UserError(f"{name}: takes one configuration file, not {len(positionals)}: {', '.join(positionals)}")
    default = _shipped(name, overrides) if command.shipped else None
    config = load(command.config, positionals[0] if positionals else default, overrides)
    check_preset(name, config)
    return config, dry_run


def _shipped(name: str, overrides: Sequence[str]) -> Path:
    """The shipped configuration for a command line. ``sft`` has a second one for lists, with another prompt."""
    answers = [override.partition("=")[2].strip() for override in overrides if override.partition("=")[0].strip() == "answer"]
    lists = default_config(f"{name}_lists")
    return lists if answers and answers[-1] != "yes_no" and lists.is_file() else default_config(name)


def default_config(name: str) -> Path:
    """The shipped configuration of a command."""
    return Path(str(files("r0"))) / "configs" / f"{name.replace(' ', '_')}.yaml"


def _help(name: str) -> str:
    from r0.config.describe import describe

    command = COMMANDS[name]
    head = [f"usage: r0 {name} {command.places} [key=value …] [--dry-run [--gpu-memory GB]]", "", command.summary]
    if not command.positionals and command.shipped:
        lists = default_config(f"{name}_lists")
        of_lists = f" (lists: {lists.name})" if lists.is_file() else ""
        head += ["", f"Without CONFIG.yaml the shipped configuration is used: {default_config(name)}{of_lists}"]
    head += ["Every key can be given as key=value or as --key VALUE; the keys of a section as section.key=value.", "", "keys:"]
    return "\n".join([*head, *describe(command.config)])


if __name__ == "__main__":
    sys.exit(main())

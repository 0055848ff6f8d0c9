"""Real questions and pretrained models: r0's commands end to end on a BEIR folder, measured on held-out queries.

    python benchmarks/real.py --data FOLDER                 # SmolLM2-135M-Instruct and MiniLM-L6, from the package index
    python benchmarks/real.py --data FOLDER --model FOLDER --encoder FOLDER --steps zero_shot finetune rank_finetuned
    python benchmarks/real.py --fold 1 --output runs/real_fold1 && python benchmarks/real.py --pool runs/real runs/real_fold1

FOLDER is a BEIR folder with qrels/test.tsv and one TREC run (else name it with --run). Its queries are split by a hash of their
ids: a fifth is the test part of each fold, 15 % are for validation, and the rest for training. Each step is a command of r0 with
a file of configs/real; what it prints goes to OUTPUT/logs, and the same command line goes on after the last finished step. The
table at the end has the steps that are done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # r0, where it is not installed

from benchmarks.real_parts.pool import pooled
from benchmarks.real_parts.split import FOLDS, split
from benchmarks.real_parts.steps import Runner, Setting, plan, run
from benchmarks.real_parts.table import table
from benchmarks.real_parts.wheels import MODEL_FOLDER, encoder_folder, gguf_file
from r0.data.jsonl import BadLines
from r0.data.runfile import read_judgements
from r0.errors import UserError
from r0.storage.files import write_atomic

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "musique100"
MISSING = (
    "there is no BEIR folder {}; download one, such as "
    "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/scifact.zip, make a run with "
    "`r0 retrieve data=scifact output=scifact/bm25.trec depth=20`, and give it with --data"
)


def main(arguments: Sequence[str] | None = None, runner: Runner | None = None) -> int:
    """Do the steps that are not done and print the table; the exit code of the step that failed, or 0.

    Args:
        arguments: of the command line.
        runner: does one step; by default a process of its own.
    """
    given = parser().parse_args(arguments)
    try:
        if given.pool:
            print(pooled(given.pool), end="")
            return 0
        at = setting(given)
        code = steps(at, given.steps, runner or in_a_process)
        print(table(at), end="")
    except (UserError, RuntimeError) as error:
        print(f"real: {error}", file=sys.stderr)
        return 2
    return code


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, default=DATA, help="BEIR folder")
    made.add_argument("--run", type=Path, help="TREC run with the candidates; empty: the only *.trec of the folder")
    made.add_argument("--model", type=Path, help="folder of a causal language model; empty: a wheel of the package index")
    made.add_argument("--encoder", type=Path, help="folder of an encoder; empty: a wheel of the package index")
    made.add_argument("--output", type=Path, default=ROOT / "runs" / "real", help="folder for all that is made")
    made.add_argument("--configs", type=Path, default=ROOT / "configs" / "real", help="folder with the steps' configurations")
    made.add_argument("--fold", type=int, default=0, choices=range(FOLDS), help="the fifth of the queries that is the test part")
    made.add_argument("--seed", type=int, default=1, help="of the questions that are made, and of training")
    made.add_argument("--pool", nargs="+", type=Path, metavar="OUTPUT", help="measure these folds' outputs as one; does no step")
    made.add_argument("--steps", nargs="+", metavar="STEP", help="only these, as far as they are not done")
    return made


def setting(given: argparse.Namespace) -> Setting:
    """The split data and the models; what is there is not made again.

    Raises:
        UserError: a file or a folder is missing.
        RuntimeError: a model cannot be downloaded.
    """
    if not (given.data / "corpus.jsonl").is_file():
        raise UserError(MISSING.format(given.data))
    runs = [given.run] if given.run else sorted(given.data.glob("*.trec"))
    if len(runs) != 1:
        raise UserError(f"{given.data} has {len(runs)} files *.trec; name the run of the candidates with --run")
    _same(given, runs[0])
    if not (given.output / "data").is_dir():
        split(given.data, runs[0], given.output / "data", given.fold, given.seed)
    judged = read_judgements(given.output / "data" / "qrels" / "train.tsv", BadLines(False))
    highest = max(grade for grades in judged.values() for grade in grades.values())
    models = given.output.resolve() / "models"
    gguf = None if given.model else gguf_file(models)
    model = given.model.resolve() if given.model else models / MODEL_FOLDER
    encoder = given.encoder.resolve() if given.encoder else encoder_folder(models)
    return Setting(given.output.resolve(), given.configs.resolve(), model, encoder, given.seed, highest, gguf)


def _same(given: argparse.Namespace, run: Path) -> None:
    """Check that the output folder is of the same data, models, seed and configurations: its finished steps are not made again.

    Raises:
        UserError: it is of others.
    """
    named = {"data": given.data, "run": run, "model": given.model, "encoder": given.encoder}
    here = {name: str(path.resolve()) if path else "" for name, path in named.items()}
    here |= {"fold": str(given.fold), "seed": str(given.seed)}
    texts = b"".join(path.read_bytes() for path in sorted(given.configs.glob("*.yaml")))
    here["configs"] = hashlib.sha256(texts).hexdigest()
    file = given.output / "source.json"
    if not file.is_file():
        given.output.mkdir(parents=True, exist_ok=True)
        write_atomic(file, [json.dumps(here, indent=1).encode() + b"\n"])
    there = json.loads(file.read_text())
    if changed := [name for name in here if here[name] != there.get(name)]:
        raise UserError(f"{given.output} was made with another {', '.join(changed)}; give another --output")


def steps(at: Setting, chosen: Sequence[str] | None, runner: Runner) -> int:
    """Do the chosen steps in their order, up to the first that fails; its exit code, or 0.

    Raises:
        UserError: there is no step of a name.
    """
    every = plan(at)
    if unknown := set(chosen or ()) - {step.name for step in every}:
        raise UserError(f"--steps: there is no step {min(unknown)}; the steps are {', '.join(step.name for step in every)}")
    for step in every:
        if chosen is None or step.name in chosen:
            code = run(step, at, runner)
            if code:
                print(f"{step.name}: see {at.folder / 'logs' / step.name}.log", file=sys.stderr)
                return code
    return 0


def in_a_process(words: Sequence[str], log: Path) -> int:
    """Run a command of r0; what it prints goes to ``log``. Interrupted, it saves and ends first."""
    with log.open("ab") as file:
        command = [sys.executable, "-W", "ignore", "-m", "r0.launch", *words]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the terminal has sent it to the command too
                continue


if __name__ == "__main__":
    sys.exit(main())

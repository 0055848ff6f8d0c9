"""Does r0 work on this card? Every part is tried in a process of its own; the end is one table of claims, each held or not.

    python benchmarks/gpu_check.py                          # on the first GPU; at most 15 minutes
    python benchmarks/gpu_check.py --out check --parts equal probe
    python benchmarks/gpu_check.py --device cpu             # the same code on a CPU, with tiny models

It needs no network. Parts whose packages are missing (vLLM, Ray, DeepSpeed, …) are named in one sentence, and the rest runs. If a
part fails, crashes or hangs, the others run all the same. The exit code is 1 if a claim does not hold, 2 for invalid arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # r0, where it is not installed

from benchmarks.gpu_check_parts.claims import Claim, Report, State, read, table
from benchmarks.gpu_check_parts.parts import Part, absent, chosen
from benchmarks.gpu_check_parts.setting import ROOT, Setting, end

LEAST = 20.0  # seconds that must be left for a part to be started
GRACE = 10.0  # seconds that a part has to end after it was asked to
ON_CPU = 5.0  # times the seconds that a part may take on a card
ROOM = 24 * 2**30  # bytes that /dev/shm must have free to hold the models


def main() -> int:
    """Run the chosen parts and print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--shape", help="random model of probe, speed and memory: 1.5b, 0.5b or tiny; empty: what fits the card")
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART", help="only these")
    parser.add_argument("--seconds", type=float, default=900.0, help="for everything; parts that find none left are not tried")
    parser.add_argument("--out", type=Path, help="folder for gpu_check.json, profile.txt and the output of each part")
    parser.add_argument("--run", nargs=2, metavar=("PART", "SETTING"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        (part,) = chosen(args.run[:1])
        return run_here(part, Setting.from_json(args.run[1]))
    try:
        parts = chosen(args.parts)
        visible = visible_card(args.device)
        shape = args.shape or usual_shape(args.device, visible)
    except ValueError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=roomy()) as scratch:
        out = args.out or Path(scratch) / "out"
        out.mkdir(parents=True, exist_ok=True)
        device = "cpu" if args.device == "cpu" else "cuda:0"
        claims = check(parts, Setting(device, shape, Path(scratch), out.resolve()), visible, args.seconds)
        (out / "gpu_check.json").write_text(json.dumps([asdict(claim) for claim in claims], indent=1))
    print(f"\n{table(claims)}")
    return int(any(claim.state == State.NOT_HELD for claim in claims))


def check(parts: Sequence[Part], setting: Setting, visible: str, seconds: float) -> list[Claim]:
    """Run the parts one after the other; all their claims."""
    ends = time.monotonic() + seconds
    if sentence := absent(parts):
        print(sentence, flush=True)
    claims: list[Claim] = []
    for part in parts:
        began = time.monotonic()
        claims += attempt(part, setting, visible, ends - began)
        print(f"{part.name}: {time.monotonic() - began:.0f} s", flush=True)
    return claims


def attempt(part: Part, setting: Setting, visible: str, left: float) -> list[Claim]:
    """Run a part in a process of its own; a claim for each that it makes, whatever happens to it.

    Args:
        part: to run.
        setting: handed to it.
        visible: CUDA_VISIBLE_DEVICES of its process.
        left: seconds of the whole check; the part's own limit is less or more.
    """
    if missing := part.missing():
        return _untried(part, list(part.claims), f"not installed: {', '.join(missing)}")
    if left < LEAST:
        return _untried(part, list(part.claims), "no time was left; give more --seconds")
    file, log = setting.scratch / f"{part.name}.jsonl", setting.out / f"{part.name}.log"
    line = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--run", part.name, setting.to_json()]
    environment = {key: value for key, value in os.environ.items() if key != "DS_ACCELERATOR"}
    environment |= {"CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    limit = part.seconds * (1.0 if setting.cuda else ON_CPU)
    code = run(line, environment, log, min(limit, left))
    made = read(file)
    open_ = [text for text in part.claims.values() if text not in {claim.text for claim in made}]
    if not open_:
        return made
    if code is None and left < limit:
        return made + _untried(part, _keys(part, open_), "stopped when the time was over; give more --seconds")
    why = f"took longer than {limit:.0f} s" if code is None else _last_line(log, code)
    print(f"-- {part.name} failed: {why}\n{_tail(log)}", file=sys.stderr, flush=True)
    rest = [Claim(part.name, text, State.NOT_TRIED, "its part failed before") for text in open_[1:]]
    return [*made, Claim(part.name, open_[0], State.NOT_HELD, why), *rest]


def run(line: Sequence[str], environment: dict[str, str], log: Path, seconds: float) -> int | None:
    """Run a command with its output in ``log``; its exit code, or None where it was ended after ``seconds``."""
    with log.open("w") as stream:
        child = subprocess.Popen(line, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True)
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:  # also on Ctrl-C, and for what a part that ended left behind
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(child.pid, number)
                    child.wait(GRACE)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue


def run_here(part: Part, setting: Setting) -> int:
    """The process of one part. When it is asked to end it cleans up: else locks of builds would stay, and a Ray would go on."""
    signal.signal(signal.SIGTERM, end)
    part.load()(setting, Report(part.name, part.claims, setting.scratch / f"{part.name}.jsonl"))
    return 0


def visible_card(device: str) -> str:
    """CUDA_VISIBLE_DEVICES of the parts: the chosen card alone, or none.

    Raises:
        ValueError: it names no device, or one that CUDA_VISIBLE_DEVICES hides.
    """
    if device == "cpu":
        return ""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise ValueError(f"--device: {device} is none of cuda, cuda:N, cpu")
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return number or "0"
    names = [name.strip() for name in allowed.split(",") if name.strip()]
    if int(number or 0) >= len(names):
        raise ValueError(f"--device: {device} is not among CUDA_VISIBLE_DEVICES={allowed}")
    return names[int(number or 0)]


def usual_shape(device: str, visible: str) -> str:
    """The largest random model whose learner fits the card twice over; asked in a process of its own, which gives the card back.

    Raises:
        ValueError: torch sees no card.
    """
    if device == "cpu":
        return "tiny"
    ask = "import torch; print(torch.cuda.get_device_properties(0).total_memory)"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"torch cannot use {device} ({said}); --device cpu runs the same code without a card")
    return "1.5b" if int(done.stdout) >= 70 * 2**30 else "0.5b"


def roomy() -> str | None:
    """Where the models go: memory, where there is much of it; None: the usual temporary folder."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free >= ROOM else None


def _untried(part: Part, keys: Sequence[str], why: str) -> list[Claim]:
    return [Claim(part.name, part.claims[key], State.NOT_TRIED, why) for key in keys]


def _keys(part: Part, texts: Sequence[str]) -> list[str]:
    return [key for key, text in part.claims.items() if text in texts]


def _last_line(log: Path, code: int) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    ended = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{ended}: {lines[-1].strip()[:300]}" if lines else ended


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-25:])


if __name__ == "__main__":
    sys.exit(main())

"""``demo``: a warm start from a faulty log, RL on top, and the table of what RL changed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from r0.commands.output import output_path
from r0.commands.plan import plan
from r0.commands.training import train
from r0.config import DemoConfig, SftConfig
from r0.tracking import RunDirectory, read_record

ROWS = (
    ("sampled/reward", "reward, sampled"),
    ("sampled/accuracy_well_formed", "accuracy among well-formed answers, sampled"),
    ("greedy/accuracy_well_formed", "accuracy among well-formed answers, greedy"),
    ("sampled/constant_answer", "  a constant answer would be right"),
    ("sampled/probe/format", "probe: well-formed completions"),
    ("sampled/probe/lookup", "probe: concepts looked up rightly"),
    ("sampled/probe/verdict", "probe: answer follows from the thought"),
    ("sampled/probe/accuracy_connected", "  right on: connected (relevant)"),
    ("sampled/probe/accuracy_unconnected", "  right on: all mentioned, unconnected"),
    ("sampled/probe/accuracy_missing", "  right on: a concept is missing"),
)


def run(config: DemoConfig, dry_run: bool) -> int:
    """Warm start, RL, table."""
    if dry_run:
        print(plan("demo", config))
        return 0
    output = output_path("demo", config)
    code = train("demo", config, output, start=partial(_warm_start, config))
    if code == 0:
        print(table(output))
    return code


def _warm_start(config: DemoConfig, directory: RunDirectory) -> Path:
    """The model that RL starts from: the base model, fine-tuned on the built-in task's warm-start log."""
    from r0.supervised import sft

    output = directory.folder("warm_start")
    if (output / "finished.json").is_file():
        return output / "model"
    print(f"warm start: {config.warm_start.rows} rows of a log by a careless labeller (see docs/r0-tiny.md)")
    return sft.run(warm_start_config(config, output))


def warm_start_config(config: DemoConfig, output: Path) -> SftConfig:
    """The supervised start as a configuration of ``sft``."""
    start = config.warm_start
    return SftConfig(
        model=config.model,
        output=str(output),
        seed=config.seed,
        epochs=start.epochs,
        batch_size=start.batch_size,
        micro_batch_size=start.batch_size,
        learning_rate=start.learning_rate,
        system_prompt=config.system_prompt,
        max_prompt_tokens=config.max_prompt_tokens,
        builtin_rows=start.rows,
        heldout_share=config.heldout_share,  # the same queries stay unseen
        zero_stage=0,
        ray=config.ray,
    )


def table(output: Path) -> str:
    """Held-out figures after the warm start and after RL, from the run's record."""
    lines = [line for line in read_record(output / "metrics.jsonl") if any(name.startswith("heldout/") for name in line)]
    if len(lines) < 2:
        return "no held-out evaluation was made (eval.every=0)"
    before, after = lines[0], lines[-1]
    shown = [f"{'on held-out tasks':<46} {'warm start':>10} {'after RL':>10} {'change':>8}"]
    for name, title in ROWS:
        one, two = before.get(f"heldout/{name}"), after.get(f"heldout/{name}")
        if one is not None and two is not None:
            shown.append(f"{title:<46} {one:>10.3f} {two:>10.3f} {two - one:>+8.3f}")
    return "\n".join(shown)

"""``demo``: a warm start on a faulty log, then RL, and a table of metrics before and after RL."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from r0.commands.plan import plan
from r0.commands.table import before_and_after
from r0.commands.training import train
from r0.config import DemoConfig, SftConfig
from r0.runs import RunDirectory
from r0.runs.output_path import output_path

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


def run(config: DemoConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Run warm start and RL, and print the table."""
    if dry_run:
        print(plan("demo", config, gpu_memory))
        return 0
    output = output_path("demo", config)
    code = train("demo", config, output, start=partial(_warm_start, config))
    if code == 0:
        print(before_and_after(output, ROWS, before="warm start", every=config.eval.every))
    return code


def _warm_start(config: DemoConfig, directory: RunDirectory) -> Path:
    """The starting model of RL: the base model, fine-tuned on the built-in task's warm-start log."""
    from r0.supervised.sft.run import run as sft

    output = directory.folder("warm_start")
    if (output / "finished.json").is_file():
        return output / "model"
    print(f"warm start: {config.warm_start.rows} rows of a log by a careless labeller (see docs/r0-tiny.md)")
    return sft(warm_start_config(config, output)) / "model"


def warm_start_config(config: DemoConfig, output: Path) -> SftConfig:
    """The warm start's configuration for ``sft``."""
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
        chat_template_kwargs=config.chat_template_kwargs,
        max_prompt_tokens=config.max_prompt_tokens,
        builtin_rows=start.rows,
        heldout_share=config.heldout_share,  # the same queries stay unseen
        zero_stage=0,
        ray=config.ray,
    )

"""The run directory and its mirrors. ``RunDirectory`` manages the files, ``Recorder`` is called by the training loop."""

from r0.runs.live import LiveLine, progress
from r0.runs.modelcard import CardFacts, model_card, write_model_card
from r0.runs.record import Clock, Record, heldout_lines, memory_mb, read_record
from r0.runs.recorder import Recorder
from r0.runs.resolved import config_hash, flat
from r0.runs.run_directory import Finished, RunDirectory, RunState, default_output

__all__ = [
    "CardFacts",
    "Clock",
    "Finished",
    "LiveLine",
    "Record",
    "Recorder",
    "RunDirectory",
    "RunState",
    "config_hash",
    "default_output",
    "flat",
    "heldout_lines",
    "memory_mb",
    "model_card",
    "progress",
    "read_record",
    "write_model_card",
]

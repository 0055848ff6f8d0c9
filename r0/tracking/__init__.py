"""The run directory and what mirrors it. ``RunDirectory`` is where, ``Recorder`` is what the loop calls."""

from r0.tracking.live import LiveLine, progress
from r0.tracking.modelcard import CardFacts, model_card, write_model_card
from r0.tracking.record import Clock, Record, memory_mb, read_record
from r0.tracking.recorder import Recorder
from r0.tracking.resolved import config_hash, flat
from r0.tracking.run_directory import Finished, RunDirectory, RunState, default_output

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
    "memory_mb",
    "model_card",
    "progress",
    "read_record",
    "write_model_card",
]

"""A rank's part of a checkpoint: written in the background, read again by a learner of the same or of another shape."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from r0.actors.learner.layout import layout, reshaped
from r0.actors.learner.networks import Networks, learner_dtype
from r0.actors.learner.state_file import State, read_state, write_state
from r0.actors.learner.zero import engine_state, load_engine_state, master_weights, replicated
from r0.config import RLConfig
from r0.errors import UserError
from r0.process.faults import reached
from r0.storage.manifest import Entries, entry

IDENTITY = "learner.json"  # settings that must be equal in a checkpoint and in the learner that loads it
RESHAPED = {"learner.ranks", "learner.zero_stage"}  # these may differ


class SavedState:
    """Saves and loads one rank's networks, optimizers, counter and random states.

    Args:
        config: the run's configuration.
        networks: of the rank.
        rank: of this process.
        world: number of ranks.
        device: of this process.
    """

    def __init__(self, config: RLConfig, networks: Networks, rank: int, world: int, device: torch.device):
        self._networks, self._rank, self._world, self._device = networks, rank, world, device
        self._engines = {"policy": networks.policy} | ({"critic": networks.critic} if networks.critic is not None else {})
        self._identity = {
            "algo": config.algo,
            "learner.ranks": world,
            "learner.zero_stage": config.learner.zero_stage,
            "learner.dtype": str(learner_dtype(config, device)).removeprefix("torch."),
            "learner.lora.r": config.learner.lora.r,
        }
        self._writer = ThreadPoolExecutor(1, "r0-checkpoint")
        self._writing: Future[Entries] | None = None

    def save(self, folder: Path, updates: int) -> None:
        """Copy the state and start to write it into ``folder``; ``files`` reports when it is done."""
        state: State = {"updates": updates, "random": random_states(self._device)}
        if self._rank == 0 or not replicated(self._networks.policy):  # otherwise the states of all ranks are the same
            state |= {name: engine_state(engine, self._rank) for name, engine in self._engines.items()}
        self._writing = self._writer.submit(_write, folder, self._rank, state, self._identity)

    def files(self, wait: bool) -> Entries | None:
        """The files that the last ``save`` wrote; None while it is still writing and ``wait`` is false.

        Raises:
            OSError: they could not be written.
        """
        if self._writing is None:
            return {}
        return self._writing.result() if wait or self._writing.done() else None

    def load(self, folder: Path) -> tuple[int, str | None]:
        """Restore the exact state of ``save``, or one of another number of ranks or ZeRO stage, reshaped; collective.

        Returns:
            The updates made, and, if it was reshaped, a sentence that says so.

        Raises:
            UserError: the checkpoint is of another dtype, algorithm or rank of LoRA.
        """
        self.files(wait=True)  # it may be what is being written
        saved, mine = json.loads((folder / IDENTITY).read_text()), self._identity
        other = {name: saved.get(name) for name, value in mine.items() if saved.get(name) != value}
        for name in other.keys() - RESHAPED:
            raise UserError(f"{folder} was written with {name}={other[name]}, this run has {mine[name]}; resume with the same")
        ranks = int(saved["learner.ranks"])
        own = read_state(folder / _state_name(min(self._rank, ranks - 1)))
        if other:
            states = [read_state(folder / _state_name(rank)) for rank in range(ranks)]
            own |= {name: self._reshaped([state[name] for state in states if name in state], name) for name in self._engines}
        full = own if "policy" in own else read_state(folder / _state_name(0))
        for name, engine in self._engines.items():
            load_engine_state(engine, full[name])
        set_random_states(own["random"])
        differ = ", ".join(f"{name} {value} there, {mine[name]} here" for name, value in sorted(other.items()))
        note = f"{folder.name} is reshaped ({differ}): the run does not repeat bit for bit what it was"
        return own["updates"], note if other else None

    def _reshaped(self, states: list[State], name: str) -> State:
        engine = self._engines[name]
        return reshaped(states, layout(engine, self._rank), [tensor.numel() for tensor in master_weights(engine)])

    def close(self) -> None:
        """Wait until what is being written is written."""
        self._writer.shutdown(cancel_futures=True)


def _state_name(rank: int) -> str:
    return f"rank{rank}.safetensors"


def _write(folder: Path, rank: int, state: State, identity: dict[str, Any]) -> Entries:
    reached("learner.write")
    folder.mkdir(parents=True, exist_ok=True)
    names = [_state_name(rank)]
    write_state(folder / names[0], state)
    if rank == 0:
        names.append(IDENTITY)
        (folder / IDENTITY).write_text(json.dumps(identity, indent=1) + "\n")
    return {name: entry(folder / name) for name in names}


def random_states(device: torch.device) -> State:
    """States of torch's generators as tensors (a learner uses no other generators)."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: State) -> None:
    """Restore the states from ``random_states``."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])

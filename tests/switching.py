"""A rollout worker whose model can be changed, and whose calls of the sync are counted."""

from __future__ import annotations

import os

import psutil

from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.worker import RolloutWorker


class Switching(RolloutWorker):
    """One process, and one import of vLLM, tests many models."""

    def __init__(self):
        self.calls = []
        self._engine = None

    def open(self, settings: EngineSettings) -> None:
        """Load a model in place of the last one."""
        if self._engine is not None:
            self.close()
        super().__init__(settings)
        self.calls = []

    def memory(self) -> int:
        """Bytes of this process."""
        return psutil.Process().memory_info().rss

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    def counted(self) -> list[str]:
        """Calls of the sync since ``open``."""
        return self.calls

    def init_weight_transfer_engine(self, info: dict) -> None:
        self.calls.append("init")
        super().init_weight_transfer_engine(info)

    def start_weight_update(self) -> None:
        self.calls.append("start")
        super().start_weight_update()

    def update_weights(self, info: dict) -> None:
        self.calls.append("update")
        super().update_weights(info)

    def finish_weight_update(self, version: int) -> None:
        self.calls.append("finish")
        super().finish_weight_update(version)

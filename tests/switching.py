"""A rollout worker for tests of the sync: its model can be changed, and its calls are counted."""

from __future__ import annotations

import os

import psutil

from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.worker import RolloutWorker


class Switching:
    """A rollout worker whose model can be changed, so that one process (and one import of vLLM) tests many models."""

    def __init__(self):
        self.worker = None
        self.calls = []

    def open(self, settings: EngineSettings) -> None:
        if self.worker is not None:
            self.worker.close()
        self.worker = RolloutWorker(settings)
        self.calls = []

    def memory(self) -> int:
        return psutil.Process().memory_info().rss

    def pid(self) -> int:
        return os.getpid()

    def counted(self) -> list[str]:
        return self.calls

    def sample(self, *arguments):
        return self.worker.sample(*arguments)

    def sleep(self) -> None:
        self.worker.sleep()

    def received(self) -> str:
        return self.worker.received()

    def version(self) -> int:
        return self.worker.version()

    def init_weight_transfer_engine(self, info: dict) -> None:
        self.calls.append("init")
        self.worker.init_weight_transfer_engine(info)

    def start_weight_update(self) -> None:
        self.calls.append("start")
        self.worker.start_weight_update()

    def update_weights(self, info: dict) -> None:
        self.calls.append("update")
        self.worker.update_weights(info)

    def finish_weight_update(self, version: int) -> None:
        self.calls.append("finish")
        self.worker.finish_weight_update(version)

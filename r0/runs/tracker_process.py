"""The process that talks to a tracker: Weights & Biases, MLflow or trackio. Reads JSON lines from standard input: first the run,
then the steps.

It is started by path, not as a module of r0, and imports nothing from r0. It ends when its input ends, and outlives its
parent by at most ``GRACE_S`` seconds, even if the tracker hangs.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

GRACE_S = 30.0
MOST_CHARACTERS = 6000  # of a parameter's value in MLflow

Step: TypeAlias = dict[str, Any]  # "step" and the figures
Log: TypeAlias = Callable[[Step], object]
Finish: TypeAlias = Callable[[], object]


def main() -> int:
    """Log steps until the input ends."""
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    run = json.loads(sys.stdin.readline())
    log, finish = TRACKERS[run["tracker"]](run)
    for line in sys.stdin:
        log(json.loads(line))
    finish()
    return 0


def _wandb(run: dict[str, Any]) -> tuple[Log, Finish]:
    import wandb

    settings = wandb.Settings(console="off", init_timeout=run["init_timeout_s"], save_code=False, disable_git=True, silent=True)
    opened = wandb.init(
        project=run["project"],
        name=run["name"],
        id=run["id"],
        dir=run["place"],
        mode=run["mode"],
        config=run["config"],
        resume="allow" if run["mode"] == "online" else None,
        settings=settings,
    )
    # r0's step is a separate metric: wandb's own step cannot decrease, but a resumed run repeats steps after its checkpoint.
    opened.define_metric("step")
    opened.define_metric("*", step_metric="step")
    return opened.log, opened.finish


def _mlflow(run: dict[str, Any]) -> tuple[Log, Finish]:
    """A resumed run goes on in the MLflow run that has its id as a tag."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=run["place"])
    experiment = client.get_experiment_by_name(run["project"])
    number = experiment.experiment_id if experiment else client.create_experiment(run["project"])
    found = client.search_runs([number], filter_string=f"tags.r0_run = '{run['id']}'", max_results=1)
    if found:
        opened = found[0].info.run_id
        client.update_run(opened, status="RUNNING")
    else:
        opened = client.create_run(number, run_name=run["name"], tags={"r0_run": run["id"]}).info.run_id
        items = [Param(name, str(value)[:MOST_CHARACTERS]) for name, value in run["config"].items()]
        for start in range(0, len(items), 100):  # as many as one call takes
            client.log_batch(opened, params=items[start : start + 100])

    def log(step: Step) -> None:
        now = int(time.time() * 1000)
        finite = {name: value for name, value in step.items() if name != "step" and math.isfinite(value)}
        # MLflow allows no other marks in names; nDCG@10 is ndcg_at_10.
        metrics = [Metric(name.replace("@", "_at_"), value, now, step["step"]) for name, value in finite.items()]
        client.log_batch(opened, metrics=metrics)

    return log, lambda: client.set_terminated(opened)


def _trackio(run: dict[str, Any]) -> tuple[Log, Finish]:
    os.environ.setdefault("TRACKIO_DIR", run["place"])
    import trackio

    trackio.init(project=run["project"], name=run["name"], config=run["config"], resume="allow")

    def log(step: Step) -> None:
        trackio.log({name: value for name, value in step.items() if name != "step"}, step=step["step"])

    return log, trackio.finish


TRACKERS: dict[str, Callable[[dict[str, Any]], tuple[Log, Finish]]] = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

"""The process that talks to Weights & Biases. Reads JSON lines from standard input: first the run, then the steps.

It is started by path, not as a module of r0, and imports nothing from r0. It ends when its input ends, and outlives its
parent by at most ``GRACE_S`` seconds, even if wandb hangs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

GRACE_S = 30.0


def main() -> int:
    """Log steps until the input ends."""
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    first = json.loads(sys.stdin.readline())
    import wandb

    settings = wandb.Settings(console="off", init_timeout=first["init_timeout_s"], save_code=False, disable_git=True, silent=True)
    run = wandb.init(
        project=first["project"],
        name=first["name"],
        id=first["id"],
        dir=first["dir"],
        mode=first["mode"],
        config=first["config"],
        resume="allow" if first["mode"] == "online" else None,
        settings=settings,
    )
    # r0's step is a separate metric: wandb's own step cannot decrease, but a resumed run repeats steps after its checkpoint.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    for line in sys.stdin:
        run.log(json.loads(line))
    run.finish()
    return 0


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

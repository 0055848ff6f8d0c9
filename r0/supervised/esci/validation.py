"""Evaluation on held-out rows during an ESCI run.

Dimensions: N held-out rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from r0.data.esci import CLASSES
from r0.runs.calibration import FOLDER as CALIBRATIONS
from r0.runs.calibration import write_calibration
from r0.supervised.esci.data import HELDOUT, Rows
from r0.supervised.esci.measure import calibration, measure
from r0.supervised.esci.trainer import EsciTrainer
from r0.supervised.training.finite import check_figures
from r0.supervised.training.validation import batches_of_this_rank

ROWS = 16  # rows per forward pass


class HeldOut:
    """Evaluates the model of ``trainer`` on the held-out rows of a run; calibration and confusion are stored in the run, too."""

    def __init__(self, trainer: EsciTrainer, run: Path, gains: Sequence[float]):
        self._trainer, self._rows, self._gains = trainer, Rows(run / "data" / HELDOUT), gains
        self._folder = run / CALIBRATIONS

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def title(self) -> str:
        """The message before the evaluation."""
        return f"measuring {len(self)} held-out rows"

    def figures(self) -> dict[str, float]:
        """Metrics by name; collective. Every rank computes its share and gets all metrics.

        Raises:
            UserError: a probability is NaN.
        """
        probabilities_N4, labels_N = self._probabilities(), np.array(self._rows.column("label"))
        check_figures(self._trainer.state.global_step, probabilities_N4.flat)  # before scikit-learn refuses them
        found = measure(probabilities_N4, labels_N, self._rows.column("query"), self._gains)
        if dist.get_rank() == 0:
            write_calibration(self._folder, self._trainer.state.global_step, calibration(probabilities_N4, labels_N, found))
        return {f"heldout/{name}": value for name, value in found.figures().items()}

    def _probabilities(self) -> np.ndarray:
        """[N, 4] on every rank. All ranks compute equally many batches; dummy batches are ignored."""
        found_N4 = torch.zeros(len(self._rows), len(CLASSES), dtype=torch.float64, device=self._trainer.args.device)
        for mine, dummy in batches_of_this_rank(len(self._rows), ROWS):
            batch = self._trainer._prepare_inputs(self._trainer.data_collator([self._rows[place] for place in mine]))
            logits_B4 = self._trainer.class_logits(self._trainer.model, batch["inputs"])
            if not dummy:
                found_N4[mine[0] : mine[-1] + 1] = logits_B4.double().softmax(dim=1)
        dist.all_reduce(found_N4)
        return found_N4.cpu().numpy()

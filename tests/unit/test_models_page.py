"""docs/models.md says what is on record, and nothing else."""

from __future__ import annotations

import json

from scripts import models_page
from tests import catalogue


def test_the_page_is_written_from_the_outcomes_on_record():
    assert models_page.PAGE.read_text() == models_page.page(json.loads(catalogue.OUTCOMES.read_text()))


def test_cells_on_record_exist_and_have_an_outcome():
    for row, column, outcome in catalogue.recorded():
        assert catalogue.applies(row, column)
        assert outcome["state"] == "right" or outcome["message"]


def test_a_cell_without_an_outcome_is_left_empty():
    record = {"python": "3", "versions": {}, "cells": {"Llama": {"sft": {"state": "right"}}, "LFM2": {}}}
    record["cells"]["LFM2"]["stage_c"] = {"state": "refused", "message": "It is refused."}
    text = models_page.page(record)
    assert "| | sft | stage_c |" in text
    assert "| Llama | ✓ |  |" in text
    assert "| LFM2 |  | 1 |" in text
    assert text.endswith("1. It is refused.\n")

"""Batches with NaN: kept, named, and then the run stops or goes on for a while."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from r0 import sampling
from r0.actors.learner.batch_fault import BatchFault
from r0.config import StageAConfig, TrackingSection
from r0.errors import UserError
from r0.records import Finish, PointwiseTask, Prompt, Rollout, Sampled, Scored, Verdict
from r0.runs import Recorder, RunDirectory
from r0.runs.bad_batches import IN_A_ROW, BadBatches
from r0.storage.rollout_lines import read_rollouts
from r0.trainer import Trainer


def scored(group: int, sample: int, logprob: float = -0.5) -> Scored:
    task, verdict = PointwiseTask(100 + group, "query", "document", 1), Verdict("yes", 3, True)
    rollout = Rollout(task, group, sample, Prompt((1, 2)), Sampled((7, 8), (-0.1, logprob), Finish.STOP, 0))
    return Scored(rollout, "text", verdict, {"accuracy": 1.0}, 1.0)


# After a refill group numbers have gaps.
BATCH = sampling.grouped(scored(group, sample) for group in (0, 4) for sample in range(6))


@pytest.fixture
def recorder(tmp_path):
    with RunDirectory.open(tmp_path / "run", "stage_a", StageAConfig()) as run, Recorder(run, TrackingSection(), 9) as made:
        yield made


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_log_probability_that_is_no_number_is_refused_with_its_task_and_the_batch_is_kept(recorder, tmp_path, on_nan, value):
    kept = tmp_path / "run" / "bad_batches" / "step-000003.jsonl.gz"
    batch = [*BATCH, *sampling.grouped([scored(5, 0), scored(5, 1, value)])]
    with pytest.raises(
        UserError, match=rf"step 3: the engine gave task 105 sample 1 a log-probability of {value}.* is in {kept};"
    ):
        BadBatches(on_nan, recorder).check_logprobs(3, batch)
    *others, _, bad = (one.scored.rollout for one in read_rollouts(kept))
    assert others == [one.rollout for one in sampling.whole(BATCH)]
    assert math.isnan(bad.sampled.logprobs[1])
    BadBatches(on_nan, recorder).check_logprobs(4, BATCH)


def test_a_bad_update_stops_the_run_and_names_the_samples(recorder, tmp_path):
    fault = BatchFault("the loss is nan", ((0, 2), (1, 5)))
    with pytest.raises(UserError) as error:
        BadBatches("stop", recorder).check_update(7, BATCH, 1.0, lambda: fault)
    said = str(error.value)
    assert said.startswith("step 7: the loss is nan (task 100 sample 2, task 104 sample 5); no weight was changed by it; ")
    assert said.endswith("step-000007.jsonl.gz; set a lower learning_rate, or on_nan=skip to go on without it")
    everything = BatchFault("the loss is nan", tuple((g, s) for g in (0, 1) for s in range(6)))
    with pytest.raises(UserError, match=r"\(task 100 sample 0, .*, task 104 sample 1 and 4 more\)"):
        BadBatches("stop", recorder).check_update(7, BATCH, 1.0, lambda: everything)


def test_skipped_updates_are_said_and_too_many_in_a_row_stop_the_run(recorder, capsys):
    bad, fault = BadBatches("skip", recorder), BatchFault("a gradient is NaN or infinite")
    for step in range(1, IN_A_ROW + 1):
        bad.check_update(step, BATCH, 1.0, lambda: fault)
    assert capsys.readouterr().out.count("skipped (on_nan=skip)") == IN_A_ROW
    bad.check_update(5, BATCH, 0.0, lambda: pytest.fail("nothing was wrong"))
    for step in range(6, 6 + IN_A_ROW):
        bad.check_update(step, BATCH, 1.0, lambda: fault)
    with pytest.raises(
        UserError, match=f"step 9: a gradient is NaN or infinite; .*{IN_A_ROW} steps in a row were skipped before it"
    ):
        bad.check_update(9, BATCH, 1.0, lambda: fault)


def test_a_resumed_run_forgets_the_bad_batches_of_steps_that_it_repeats(recorder, tmp_path):
    for step in (2, 5):
        recorder.keep_bad(step, BATCH)
    recorder.resume(3)
    assert [path.name for path in (tmp_path / "run" / "bad_batches").iterdir()] == ["step-000002.jsonl.gz"]


@pytest.mark.parametrize("gap", [math.nan, math.inf, 0.3])
def test_a_gap_that_is_too_large_or_no_number_is_fatal(recorder, gap):
    trainer = object.__new__(Trainer)
    trainer.config, trainer.recorder = StageAConfig(), recorder
    with pytest.raises(UserError, match=r"step 2: rollout and learner log-probabilities differ by .* nats"):
        trainer._check_gap(1, gap)
    trainer._check_gap(1, 0.19)


def test_a_batch_with_a_log_probability_that_is_no_number_is_refused_by_the_learner_too():
    from r0.actors.learner.batch import check_groups
    from r0.records import TrainCompletion, TrainGroup

    good = TrainCompletion((1, 2), (-0.1, -0.2), 1.0, 0)
    for value in (math.nan, math.inf, -math.inf):
        bad = replace(good, logprobs=(-0.1, value))
        with pytest.raises(UserError, match=rf"group 1, sample 1: the engine gave a log-probability of {value}"):
            check_groups([TrainGroup((1,), (good,)), TrainGroup((1,), (good, bad))], 0, 0)

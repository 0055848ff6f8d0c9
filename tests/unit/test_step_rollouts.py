"""One step off: what is sampled with which weights while the learner updates, and what a stop or a fault leaves."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from types import SimpleNamespace

import pytest
import torch

from r0.actors.calls import CallLeft, RoleDied
from r0.actors.learner.batch import check_scores, read_groups
from r0.actors.learner.comm import Comm
from r0.actors.learner.group import LearnerLost
from r0.actors.learner.metrics import UpdateMetrics
from r0.actors.pool import Pool
from r0.actors.restarts import Restarts
from r0.actors.reward.group import RewardBatch, SampledGroup
from r0.actors.roles import Roles
from r0.actors.rollout.group import RolloutGroup, RolloutsLost
from r0.algos.losses import LossInputs, LossSettings, ppo_clip
from r0.config import GRPOSection, StageAConfig
from r0.data.source import open_source
from r0.errors import RunFailed
from r0.process.objects import ObjectsLost
from r0.process.signals import StopRequest
from r0.records import Completions, Finish, Prompt, Sampled, SampleRequest, Score, ScoredGroup, Verdict
from r0.runs import Recorder, RunDirectory
from r0.runs.checkpoint import Checkpoints
from r0.runs.record import Clock
from r0.runs.rollout_log import RolloutLog
from r0.step_rollouts import StepRollouts
from r0.storage.manifest import entry
from r0.trainer import Trainer

STEPS = 4
WAIT_S = 20.0  # for the other thread; a test that needs it all has failed


def settings(staleness: int = 1) -> StageAConfig:
    values = {
        "algo": "grpo", "batch_size": 2, "builtin_rows": 40, "max_steps": STEPS, "eval": {"every": 0}, "checkpoint": {"every": 2},
        "grpo": {"num_generations": 2, "refill_rounds": 1}, "sync": {"max_staleness": staleness},
    }  # fmt: skip
    return StageAConfig.model_validate(values)


@dataclass
class Scores:
    """A batch of a reward that needs log-probabilities only."""

    groups: list[SampledGroup]

    def add(self, group):
        self.groups.append(group)

    def finish(self):
        return [self.scored(group) for group in sorted(self.groups, key=lambda one: one.group)]

    def scored(self, group):
        found = []
        for one in group.completions.sampled():
            total = float(int(one.logprobs[0] * 64) % 3)
            found.append(Score.of(one, Verdict("yes", 3, True), {"format": total}, total))
        return ScoredGroup(group.task, group.group, group.prompt, tuple(found), group.completions, ("text",) * group.size)


class RecordingRoles:
    """Engines and a learner whose weights are a number; every call is written down. Results depend on weights and seeds only."""

    def __init__(self, staleness: int, fault: str = "", at: int = -1, stop: StopRequest | None = None):
        self.staleness = staleness
        self.log: list[tuple] = []
        self.fault, self.at, self.stop = fault, at, stop
        self.weights = self.engine_weights = self.version = 0
        self.sampling, self.began, self.early = 0, threading.Event(), False
        self.rollout = SimpleNamespace(stream=self.stream, restart=self.restart_rollout)
        self.reward = SimpleNamespace(batch=lambda: Scores([]))
        self.restarts = Restarts(most=1)
        self.learner = SimpleNamespace(save=self.save, saved_files=self.saved_files, load=self.load, batch_fault=None)

    def connect(self):
        self.log.append(("connect",))

    def sync(self, version):
        assert not self.sampling, "weights were sent while the engines sampled"
        self.engine_weights, self.version = self.weights, version
        self.log.append(("sync", version))

    def stream(self, groups, temperature, max_new_tokens, greedy=False, leave=None):
        self.sampling += 1
        if leave:
            self.began.set()
        try:
            self.log.append(("sample", self.version, "ahead" if leave else "now"))
            if leave and self.fault.startswith("rollouts lost") and self.version == self.at:
                self.early, self.fault = self.fault.endswith("early"), ""
                raise RolloutsLost("no rollout worker is left")
            while leave and self.fault == "left" and self.version == self.at:
                if leave():
                    raise CallLeft("left")
            for place in reversed(range(len(groups))):  # in no order
                values = [(one.seed % 97 + self.engine_weights % 89) / 64 for one in groups[place]]
                yield place, Completions.of([Sampled((5, 6), (-value, -0.5), Finish.STOP, self.version) for value in values])
        finally:
            self.sampling -= 1

    def learn(self, unread, step, leave):
        check_scores(unread, step, self.staleness)
        groups = read_groups(unread)
        if self.staleness and step + 1 < STEPS:
            assert self.began.wait(WAIT_S), "the next step is not sampled meanwhile"
        self.began.clear()
        if self.early:  # the update looks between its rows
            end = time.monotonic() + WAIT_S
            while not leave():
                assert time.monotonic() < end
            self.early = False
            return {}
        if step == self.at and self.fault:
            fault = self.fault
            if fault == "learner lost":
                self.fault = ""
                raise LearnerLost("a learner rank died")
            if fault in ("left", "stopped"):
                self.stop.asked = signal.SIGTERM
            if fault == "left":
                return {}
        for completion in (one for group in groups for one in group.completions):
            self.weights = (self.weights * 31 + int(completion.logprobs[0] * 64) * 7 + int(completion.reward) + 1) % 1_000_003
        self.log.append(("learn", step, groups[0].completions[0].version))
        return {"skipped_updates": 0.0, "weights": float(self.weights)}

    def restart(self, lost):
        assert not self.sampling, "the engines still sample"
        self.log.append(("restart", type(lost).__name__))
        self.weights = self.engine_weights = self.version = 0

    def restart_rollout(self, failed):
        self.log.append(("restart", "rollout"))
        self.engine_weights = self.weights

    def save(self, directory):
        self.file = Path(directory) / "weights.json"
        self.file.write_text(json.dumps(self.weights))

    def saved_files(self, wait):
        return {"weights.json": entry(self.file)}

    def load(self, directory):
        self.weights = json.loads((Path(directory) / "weights.json").read_text())


def train(folder: Path, fault: str = "", at: int = -1, staleness: int = 1) -> tuple[RecordingRoles, bool]:
    """A run with the fault at that step (or weight version); the roles, and whether all steps are done."""
    config = settings(staleness)
    prompter = SimpleNamespace(prompt=lambda task: Prompt((1, task.task_id)))
    with RunDirectory.open(folder, "stage_a", config) as run, StopRequest() as stop:
        roles = RecordingRoles(staleness, fault, at, stop)
        with Recorder(run, config.tracking, STEPS) as recorder:
            source, checkpoints = open_source(config, config.seed), Checkpoints(folder, 9, recorder.say)
            done = Trainer(StepRollouts(config, source, prompter, roles, recorder), checkpoints, stop).train(STEPS)
    return roles, done


def results(folder: Path) -> dict[str, bytes]:
    files = [folder / "metrics.jsonl", *(folder / "rollouts").iterdir(), *folder.glob("checkpoints/step-00000004/weights.json")]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture
def whole(tmp_path) -> dict[str, bytes]:
    assert train(tmp_path / "whole")[1]
    return results(tmp_path / "whole")


def test_the_next_step_is_sampled_with_the_weights_that_the_update_began_with(tmp_path):
    log = train(tmp_path / "run")[0].log
    assert [line for line in log if line[0] != "sample"] == [
        ("connect",), ("sync", 0),
        ("learn", 0, 0), ("sync", 1),
        ("learn", 1, 0), ("sync", 2),
        ("learn", 2, 1), ("sync", 3),
        ("learn", 3, 2), ("sync", 4),
    ]  # fmt: skip
    sampled = list(dict.fromkeys(line for line in log if line[0] == "sample"))
    assert sampled == [("sample", 0, "now"), ("sample", 0, "ahead"), ("sample", 1, "ahead"), ("sample", 2, "ahead")]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["staleness"] for line in lines] == [0.0, 1.0, 1.0, 1.0]
    timed = [json.loads(line) for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    assert all({"sample", "reward", "learn"} <= set(line) for line in timed)
    assert ["wait" in line for line in timed] == [True, True, True, False]


def test_without_it_sampling_and_learning_take_turns(tmp_path):
    log = train(tmp_path / "run", staleness=0)[0].log
    assert {line for line in log if line[0] == "sample"} == {("sample", version, "now") for version in range(STEPS)}
    assert [line[1:] for line in log if line[0] == "learn"] == [(step, step) for step in range(STEPS)]
    assert "staleness" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("fault", ["left", "stopped"])
@pytest.mark.parametrize("at", range(STEPS))
def test_a_stopped_run_goes_on_like_one_that_was_not(tmp_path, whole, capsys, fault, at):
    first, done = train(tmp_path / "run", fault, at)
    assert not done or (fault, at) == ("stopped", STEPS - 1)
    learned = at + (fault == "stopped")  # an update that was begun is finished, and so are the samples that the next one needs
    assert [line[1] for line in first.log if line[0] == "learn"] == list(range(learned))
    assert ("is sampled to its end first" in capsys.readouterr().out) <= (fault == "stopped")
    second, done = train(tmp_path / "run")
    assert done
    if 0 < learned < STEPS:
        assert (tmp_path / "run" / "checkpoints" / f"step-{learned:08d}" / "ahead" / f"step-{learned + 1:06d}.jsonl.gz").is_file()
        assert ("sample", learned, "now") not in second.log
    assert results(tmp_path / "run") == whole


LOSSES = {"learner lost": "LearnerLost", "rollouts lost": "RolloutsLost", "rollouts lost early": "rollout"}


@pytest.mark.parametrize(("fault", "restarted"), LOSSES.items())
@pytest.mark.parametrize("at", range(STEPS - 1))
def test_after_a_loss_the_run_goes_on_from_the_newest_checkpoint_or_at_once(tmp_path, whole, fault, restarted, at):
    roles, done = train(tmp_path / "run", fault, at)
    assert done
    assert [line for line in roles.log if line[0] == "restart"] == [("restart", restarted)]
    assert results(tmp_path / "run") == whole


def test_rollouts_that_are_damaged_make_their_checkpoint_damaged(tmp_path, whole, capsys):
    train(tmp_path / "run", "stopped", 2)
    file = tmp_path / "run" / "checkpoints" / "step-00000003" / "ahead" / "step-000004.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-1])
    assert train(tmp_path / "run")[1]
    assert "ahead/step-000004.jsonl.gz has" in capsys.readouterr().out
    assert results(tmp_path / "run") == whole


def test_rollouts_that_are_lost_with_a_machine_are_sampled_again(tmp_path, whole, monkeypatch, capsys):
    finish, fails = Scores.finish, iter([False, True])

    def loses(batch):
        if next(fails, False):
            raise ObjectsLost("rollouts are lost with the machine that held them (ObjectLostError)")
        return finish(batch)

    monkeypatch.setattr(Scores, "finish", loses)
    roles, done = train(tmp_path / "run")
    assert done
    assert roles.restarts.total == 1
    assert "that held them (ObjectLostError); they are sampled again" in capsys.readouterr().out
    assert results(tmp_path / "run") == whole


def test_rollouts_that_are_lost_before_they_are_stored_are_sampled_and_learned_again(tmp_path, whole, monkeypatch, capsys):
    write, fails = RolloutLog.write, iter([False, False, True])  # those of step 3

    def loses(log, step, *arguments):
        if log.folder.name == "rollouts" and next(fails, False):
            raise ObjectsLost("rollouts are lost with the machine that held them (ObjectLostError)")
        return write(log, step, *arguments)

    monkeypatch.setattr(RolloutLog, "write", loses)
    roles, done = train(tmp_path / "run")
    assert done
    assert ("restart", "ObjectsLost") in roles.log
    assert "that held them (ObjectLostError); new learner ranks go on from the newest checkpoint" in capsys.readouterr().out
    assert results(tmp_path / "run") == whole


# --- workers that fail while no weights can be given


class FailingPool(Pool):
    """Plain workers; those in ``failing`` die once, at their next call."""

    def __init__(self, size: int, failing: set[int]):
        super().__init__("rollout", lambda index: index, size)
        self.failing, self.calls, self.replaced = failing, [], []

    def attempt_some(self, method, arguments, deadline_s, leave=None):
        return dict.fromkeys(arguments)

    def stream_some(self, method, arguments, deadline_s, leave=None):
        """One that dies has completed its first group."""
        self.calls += [(method, index) for index in arguments]
        for index, (groups, *_) in arguments.items():
            for place, group in enumerate(groups):
                if place and index in self.failing:
                    self.failing.remove(index)
                    yield index, RoleDied(f"rollout {index}: its process ended")
                    break
                yield index, (Completions.of([Sampled((one.seed,), (-0.1,), Finish.STOP, 3) for one in group]), (place, 3))

    def replace(self, index):
        self.replaced.append(index)


def group(pool: Pool, most: int = 1) -> RolloutGroup:
    made = RolloutGroup(pool, 60.0, 60.0, Restarts(most))
    made.give_weights = dict  # all are well
    return made


REQUESTS = [[SampleRequest((1, prompt), seed=10 * prompt + sample) for sample in range(2)] for prompt in range(6)]
SEEDS = {place: [one.seed for one in group] for place, group in enumerate(REQUESTS)}


def sampled(workers: RolloutGroup, again: int = 0) -> dict[int, list[int]]:
    """The tokens of each group; ``again`` groups come twice, since the machine that held the first may be gone."""
    given = list(workers.stream(REQUESTS, 1.0, 4, leave=lambda: False))
    found = {place: list(completions.token_ids) for place, completions in given}
    assert len(given) == len(found) + again
    return found


@pytest.mark.parametrize("failing", [{0}, {1}, {0, 2}])
def test_while_the_learner_updates_the_others_take_a_lost_share_and_the_lost_are_restarted_later(failing):
    pool = FailingPool(3, set(failing))
    workers = group(pool)
    assert sampled(workers, again=len(failing)) == SEEDS
    assert (pool.replaced, set(workers.lost)) == ([], failing)
    pool.calls.clear()
    assert sampled(workers) == SEEDS  # a refill round: the lost ones are not asked
    assert {index for _, index in pool.calls} == {0, 1, 2} - failing
    workers.restart({})
    assert (sorted(pool.replaced), workers.lost) == (sorted(failing), {})


def test_a_worker_that_ends_without_all_of_its_completions_has_failed():
    class Ends(FailingPool):
        def stream_some(self, method, arguments, deadline_s, leave=None):
            for index, found in super().stream_some(method, arguments, deadline_s, leave):
                if not isinstance(found, RoleDied):
                    yield index, found

    pool = Ends(2, {1})
    assert dict(place_and_seeds(group(pool))) == SEEDS
    assert pool.replaced == [1]


def place_and_seeds(workers: RolloutGroup):
    return ((place, list(completions.token_ids)) for place, completions in workers.stream(REQUESTS, 1.0, 4))


def test_a_group_that_was_sampled_again_is_scored_instead_of_the_first():
    begun = SimpleNamespace(
        begin=lambda index, group: SimpleNamespace(figures=lambda deadline_s: ("score",), rest=f"texts of {group.completions}"),
        settle=lambda group, sample, outcome: outcome,
    )
    batch = RewardBatch(begun, 2, 60.0)
    for number, address in ((0, "gone"), (1, "one"), (0, "again")):
        batch.add(SampledGroup("task", number, Prompt((1,)), 1, address))
    assert [(one.group, one.completions, one.texts) for one in batch.finish()] == [
        (0, "again", "texts of again"), (1, "one", "texts of one"),
    ]  # fmt: skip


def test_workers_that_failed_before_they_are_connected_are_restarted_and_connected():
    calls, errors = [], iter([RoleDied("rollout 0: its process ended")])

    def connect():
        calls.append("connect")
        if error := next(errors, None):
            raise error

    rollout = SimpleNamespace(
        failed=lambda: {0: RoleDied("gone")}, restart=lambda failed, give_weights: calls.append((set(failed), give_weights))
    )
    config = SimpleNamespace(samples=True, ray=SimpleNamespace(inline=False))
    Roles.connect(SimpleNamespace(config=config, rollout=rollout, _connect=connect))
    assert calls == ["connect", ({0}, False), "connect"]


def test_where_all_are_lost_the_samples_are_too():
    pool = FailingPool(2, {0, 1})
    workers = group(pool, most=0)
    with pytest.raises(RolloutsLost, match="no rollout worker is left to sample the next step: rollout 0: its process ended"):
        sampled(workers)
    with pytest.raises(RunFailed, match=r"ray.max_restarts=0"):
        workers.restart({})


# --- the spread of the importance ratio


def row(learner: list[float], rollout: list[float]) -> LossInputs:
    """Log-probabilities by the learner before the update, and by the engine, with advantages of 1."""
    before_T, rollout_T, seq_T = torch.tensor(learner), torch.tensor(rollout), torch.zeros(len(learner), dtype=torch.long)
    return LossInputs(before_T, torch.ones(len(learner)), seq_T, 1, 4, old_logp_T=before_T, rollout_logp_T=rollout_T)


def test_the_ratio_of_all_rows_is_spread_out_and_a_gap_is_of_equal_weights_only():
    rows = [row([-1.0, -2.0, -0.5], [-1.0, -1.0, -1.5]), row([-0.7], [-0.2])]
    ratios = [1.0, math.exp(-1.0), math.exp(1.0), math.exp(-0.5)]
    settings = LossSettings(tis_cap=1.5)
    for fresh in (0.0, 1.0):
        metrics = UpdateMetrics(torch.device("cpu"), stale=True)
        for inputs in rows:
            sums = ppo_clip(inputs, settings).sums
            for first in (torch.full_like(inputs.logp_T, fresh), None):  # the second pass over the batch adds nothing
                metrics.policy(sums, inputs.logp_T, torch.zeros(()), inputs, first)
        metrics.step(0.0, 1.0)
        metrics.step(0.0, 1.0)
        found = metrics.reduce(Comm(1, torch.device("cpu")), GRPOSection(), reference=False)
        # Both passes over four tokens with a denominator of 4; policies are equal, so a token's loss is its capped weight.
        assert found["policy_loss"] == pytest.approx(-fmean(min(ratio, 1.5) for ratio in ratios))
        assert found["importance_mean"] == pytest.approx(fmean(ratios))
        assert found["importance_std"] == pytest.approx(pstdev(ratios))
        assert found["importance_max"] == pytest.approx(math.e)
        assert found["tis_capped_share"] == 0.25
        assert ("gap" in found, "gap_max" in found) == (fresh == 1.0, fresh == 1.0)


def test_a_second_signal_during_the_wait_leaves_the_sampling():
    recorder = SimpleNamespace(clock=Clock(), say=lambda text: None)
    rollouts = StepRollouts(settings(), None, None, None, recorder)
    begun = []

    def blocked(step, clock, leave):
        begun.append(step)
        while not leave():
            time.sleep(0.01)
        raise CallLeft("left")

    def interrupted():
        raise KeyboardInterrupt

    rollouts._rollouts = blocked
    with pytest.raises(KeyboardInterrupt), rollouts.ahead(1, interrupted):
        pass
    rollouts._ahead.join(WAIT_S)
    assert not rollouts._ahead.is_alive()
    assert begun == [1]

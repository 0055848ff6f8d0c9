"""Runs learner ranks in processes of their own, and the same updates in plain torch on one sequence at a time.

The processes stay for the next test: importing torch and DeepSpeed takes longer than most jobs.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import multiprocessing
import socket
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from learner_models import plain_logprobs, random_groups, tiny_model

from r0.actors.learner.idle import skip_idle
from r0.actors.learner.shares import assign_groups
from r0.config import StageAConfig
from r0.records import TrainGroup

__all__ = ["Job", "plain_logprobs", "plain_training", "random_groups", "run_ranks", "tiny_model"]
Batches = list[list[TrainGroup]]


@dataclass(frozen=True)
class Job:
    """Updates on some batches: the weights after them, or whether a resumed learner ends with the same; or, with ``poison``,
    what a first and a second update leave that a gradient or a token keeps from being made; or, with ``gradients``, those of
    every optimizer update with and without idle groups.
    """

    name: str
    config: dict
    batches: Batches
    model: Path
    resume: bool = False
    left: bool = False
    gradients: bool = False
    poison: str = ""  # policy, critic: a gradient of that network is NaN on the last rank; a number: that token has no embedding


def run_ranks(world: int, jobs: list[Job], folder: Path) -> dict[str, dict]:
    """Results of all jobs by name, as rank 0 wrote them; ``world`` processes do all jobs one after another."""
    ranks = _ranks(world)
    for _, connection in ranks:
        connection.send((jobs, folder))
    waiting = {connection for _, connection in ranks}
    trouble = ""
    while waiting and not trouble:
        ready = wait(waiting, 800)
        waiting -= set(ready)
        trouble = "\n".join(filter(None, map(_answer, ready))) if ready else "a rank hangs"
    if trouble:
        for process, _ in ranks:
            process.kill()
        _ranks.cache_clear()
    assert not trouble, trouble
    return torch.load(folder / "results.pt", weights_only=True)


@functools.cache
def _ranks(world: int) -> list[tuple[BaseProcess, Connection]]:
    """Processes that wait for jobs; they end with this one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    found = []
    for rank in range(world):
        here, there = context.Pipe()
        found.append((context.Process(target=_rank, args=(rank, world, port, there), daemon=True), here))
        found[-1][0].start()
        there.close()  # so that a dead rank is the end of its file
    return found


def _answer(connection: Connection) -> str:
    """What went wrong on a rank that has answered, or nothing."""
    try:
        return connection.recv()
    except EOFError:
        return "a rank died"


def _rank(rank: int, world: int, port: int, asked: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            jobs, folder = asked.recv()
        except EOFError:
            return
        try:
            _work(rank, world, f"127.0.0.1:{port}", jobs, folder)
            asked.send("")
        except Exception:
            asked.send(traceback.format_exc())


def _work(rank: int, world: int, master: str, jobs: list[Job], folder: Path) -> None:
    results = {}
    for job in jobs:
        work = _poisoned if job.poison else _gradients if job.gradients else _resume if job.resume else _train
        results[job.name] = work(job, rank, world, master, folder / job.name)
    if rank == 0:
        torch.save(results, folder / "results.pt")


def _learner(job: Job, rank: int, world: int, master: str):
    from r0.actors.learner.worker import Learner

    return Learner(StageAConfig(**job.config), str(job.model), 10, rank, world, master, "cpu")


def _update(learner, job: Job, step: int, skip: bool = True) -> dict[str, float]:
    section, groups = learner.config.section, job.batches[step]
    groups = skip_idle(groups, learner.config, step) if skip else groups
    shares = assign_groups(groups, learner.world, section.num_ppo_epochs, section.num_mini_batches, learner.config.seed, step)
    share = shares[learner.rank]
    return learner.update(share.groups, 0, share.schedule)


def _weights(learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.weights()}


def _train(job: Job, rank: int, world: int, master: str, folder: Path) -> dict:
    learner = _learner(job, rank, world, master)
    figures = [_update(learner, job, step) for step in range(len(job.batches))]
    learner.save_model(str(folder))
    return {"weights": _weights(learner), "figures": figures, "shared_prefix": learner.networks.shared_prefix}


def _resume(job: Job, rank: int, world: int, master: str, folder: Path) -> dict:
    done, next_ = (1, 0) if job.left else (0, 1)  # a batch of several rows is left
    first = _learner(job, rank, world, master)
    _update(first, job, done)
    saved = first
    if job.left:
        saved = _learner(job, rank, world, master)
        _update(saved, job, done)
        looks, policy = iter([False]), saved.networks.policy  # rank 0 alone knows, in the middle of the rows with gradients
        saved.updater.left = lambda: rank == 0 and policy.module.training and next(looks, True)
        assert _update(saved, job, next_) == {}
        saved.updater.left = lambda: False
    saved.save(str(folder))
    saved.saved_files(wait=True)
    figures = [_update(first, job, next_)]
    second = _learner(job, rank, world, master)
    second.load(str(folder))
    figures.append(_update(second, job, next_))
    if job.left:  # the learner that left the batch can also go on itself
        figures.append(_update(saved, job, next_))
        found, wanted = _weights(saved), _weights(first)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    return {"first": _weights(first), "second": _weights(second), "figures": figures}


def _gradients(job: Job, rank: int, world: int, master: str, folder: Path) -> dict:
    found: dict = {"figures": []}
    for name, skip in (("skipped", True), ("whole", False)):
        learner = _learner(job, rank, world, master)
        found[name] = _note_gradients(learner)
        found["figures"].append([_update(learner, job, step, skip) for step in range(len(job.batches))])
    return found


def _note_gradients(learner) -> list[torch.Tensor]:
    """A list to which every optimizer update adds the policy's gradient over all ranks, as one vector."""
    engine, noted = learner.networks.policy, []
    parameters = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    sums = [torch.zeros(getattr(parameter, "ds_shape", parameter.shape)) for parameter in parameters]
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.register_hook(lambda gradient, total=total: total.add_(gradient) * 0 + gradient)
    step = engine.step

    def noting() -> None:
        whole = torch.cat([total.flatten() for total in sums])
        noted.append(learner.updater.comm.sum(whole).clone() / learner.world)
        for total in sums:
            total.zero_()
        step()

    engine.step = noting
    return noted


def _poisoned(job: Job, rank: int, world: int, master: str, folder: Path) -> dict:
    """Three updates on the first batch: poisoned, good, poisoned again. ``changed``: on how many ranks."""
    learner = _learner(job, rank, world, master)
    states, figures, faults = [_everything(learner)], [], []
    for poisoned in (True, False, True):
        with _poison(learner, job.poison) if poisoned else contextlib.nullcontext():
            figures.append(_update(learner, job, 0))
        states.append(_everything(learner))
        faults.append((learner.batch_fault().reason, learner.batch_fault().samples))
    changed = [len(a) != len(b) or not all(map(torch.equal, a, b)) for a, b in itertools.pairwise(states)]
    changed_on_ranks = torch.tensor(changed, dtype=torch.long)
    if world > 1:
        torch.distributed.all_reduce(changed_on_ranks)
    return {"changed": changed_on_ranks.tolist(), "figures": figures, "faults": faults}


def _everything(learner) -> list[torch.Tensor]:
    """Copies of all weights and moments of this rank."""
    from r0.actors.learner.zero import master_weights

    found = list(_weights(learner).values())
    for engine in filter(None, (learner.networks.policy, learner.networks.critic)):
        found += [tensor.clone() for tensor in master_weights(engine)]
        found += [v.clone() for each in engine.basic_optimizer.state.values() for v in each.values()]
    return found


@contextlib.contextmanager
def _poison(learner, what: str):
    if what.isdigit():
        (weight,) = (p for n, p in learner.networks.policy.module.named_parameters() if n.endswith("embed_tokens.weight"))
        row = weight.data[int(what)].clone()
        weight.data[int(what)] = math.nan
        yield
        weight.data[int(what)] = row
        return
    parameter = next(getattr(learner.networks, what).module.parameters())
    last = learner.rank == learner.world - 1
    hook = parameter.register_hook(lambda gradient: gradient * (math.nan if last else 1.0))
    yield
    hook.remove()


def plain_training(config: StageAConfig, model, batches: Batches) -> dict[str, torch.Tensor]:
    """The same updates by the book: one sequence a forward, whole mini-batch in one graph, torch's AdamW, one process."""
    reference = copy.deepcopy(model)
    critic = copy.deepcopy(model.model) if config.algo == "ppo" else None
    head = torch.nn.Linear(model.config.hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    networks = [list(model.parameters())]
    if critic is not None:
        networks.append([*critic.parameters(), *head.parameters()])
    optimizers = [torch.optim.AdamW(group, lr=config.learning_rate, weight_decay=0.0) for group in networks]

    def values(group: TrainGroup, s: int) -> torch.Tensor:
        tokens = group.completions[s].token_ids
        hidden = critic(torch.tensor([group.prompt_ids + tokens])).last_hidden_state[0]
        return head(hidden[len(group.prompt_ids) - 1 : -1])[:, 0]

    for step, groups in enumerate(batches):
        known = _first_passes(config, model, reference, values if critic is not None else None, groups)
        section = config.section
        (share,) = assign_groups(groups, 1, section.num_ppo_epochs, section.num_mini_batches, config.seed, step)
        for epoch in share.schedule:
            for mini in epoch:
                items = [(g, s) for g in mini for s in range(len(groups[g].completions))]
                _plain_step(config, model, values, groups, items, known, optimizers, networks)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _first_passes(config, model, reference, values, groups) -> dict:
    """(group, sample) → old log-probabilities, old values, advantages and returns, each [tokens]."""
    known = {}
    with torch.no_grad():
        for g, group in enumerate(groups):
            rewards = torch.tensor([c.reward for c in group.completions])
            for s, completion in enumerate(group.completions):
                old = plain_logprobs(model, group, s, config.temperature)
                entry = {"old": old, "rollout": torch.tensor(completion.logprobs)}
                if config.algo == "grpo":
                    entry["advantage"] = ((rewards[s] - rewards.mean()) / (rewards.std() + 1e-4)).expand_as(old)
                else:
                    ref = plain_logprobs(reference, group, s, config.temperature)
                    value = values(group, s)
                    reward = -config.kl_coef * (old - ref)
                    reward[-1] += completion.reward
                    entry |= {"value": value, "advantage": _gae(reward, value, config.ppo.gamma, config.ppo.lam)}
                    entry["return"] = entry["advantage"] + value
                known[g, s] = entry
    if config.algo == "ppo":
        every = torch.cat([entry["advantage"] for entry in known.values()])
        for entry in known.values():
            entry["advantage"] = (entry["advantage"] - every.mean()) / (every.var() + 1e-8).sqrt()
    return known


def _gae(reward: torch.Tensor, value: torch.Tensor, gamma: float, lam: float) -> torch.Tensor:
    found, following, after = torch.zeros_like(reward), 0.0, 0.0
    for t in reversed(range(len(reward))):
        delta = reward[t] + gamma * after - value[t]
        following = delta + gamma * lam * following
        found[t], after = following, value[t]
    return found


def _plain_step(config, model, values, groups, items, known, optimizers, networks) -> None:
    total = sum(len(known[item]["old"]) for item in items)
    losses = [torch.zeros(()), torch.zeros(())]
    for g, s in items:
        entry = known[g, s]
        logp = plain_logprobs(model, groups[g], s, config.temperature)
        ratio = (logp - entry["old"]).exp()
        low, high = (0.2, 0.28) if config.algo == "grpo" else (config.ppo.cliprange, config.ppo.cliprange)
        surrogate = torch.maximum(-ratio * entry["advantage"], -ratio.clamp(1 - low, 1 + high) * entry["advantage"])
        if config.algo == "grpo":
            surrogate = surrogate * (entry["old"] - entry["rollout"]).exp().clamp(max=3.0)
        else:
            value = values(groups[g], s)
            held = entry["value"] + (value - entry["value"]).clamp(-config.ppo.cliprange_value, config.ppo.cliprange_value)
            error = torch.maximum((value - entry["return"]).square(), (held - entry["return"]).square())
            losses[1] = losses[1] + config.ppo.vf_coef * 0.5 * error.sum() / total
        losses[0] = losses[0] + surrogate.sum() / total
    for optimizer, parameters, loss in zip(optimizers, networks, losses, strict=False):
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.learner.max_grad_norm)
        assert math.isfinite(float(norm))
        optimizer.step()

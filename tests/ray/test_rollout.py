"""Sampling with real vLLM in Ray actors: reproducible by seed, with the log-probabilities that a learner computes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r0.actors.pool import Pool
from r0.actors.rollout.engine import Engine
from r0.actors.rollout.engines import make_engine
from r0.actors.rollout.group import RolloutGroup
from r0.actors.rollout.settings import EngineSettings, stop_ids
from r0.actors.rollout.worker import RolloutWorker
from r0.errors import UserError
from r0.records import Finish, Sampled, SampleRequest
from tests.helpers import rewrite_model, tiny_model
from tests.logprob_gap import gap, load

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pool(vllm_workers, folder):
    """Two vLLM workers with the model."""
    pool = Pool("rollout", lambda index: vllm_workers[index], 2)
    pool.all("open", EngineSettings(folder, 256), deadline_s=300)
    return pool


def requests(prompts: int = 6, samples: int = 4) -> list[SampleRequest]:
    dice = random.Random(7)
    asked = []
    for prompt in range(prompts):
        ids = tuple(dice.randrange(3, 259) for _ in range(20 + 23 * prompt))
        asked += [SampleRequest(ids, 2**62 + 1000 * prompt + sample) for sample in range(samples)]
    return asked


def test_sampling_repeats_bit_for_bit_for_a_subset_and_in_another_worker(pool):
    asked = requests()
    everything, same = pool.each("sample", [(asked, 0.8, 48, False)] * 2, deadline_s=300)
    assert everything == same
    again, subset = pool.each("sample", [(asked, 0.8, 48, False), (asked[5:14], 0.8, 48, False)], deadline_s=300)
    assert again == everything
    assert subset == everything[5:14]
    assert len({one.token_ids for one in everything}) > len(everything) // 2


def test_two_workers_give_what_one_gives_in_the_order_of_the_requests(pool):
    asked = requests()
    (alone,) = pool.each("sample", [(asked, 0.8, 48, False)], deadline_s=300)
    group = RolloutGroup(pool, deadline_s=300)
    assert group.sample(asked, temperature=0.8, max_new_tokens=48) == alone
    assert group.versions() == [0, 0]
    assert group.sample([], temperature=0.8, max_new_tokens=48) == []


def test_logprobs_are_those_of_the_sampled_distribution(pool, folder):
    asked = requests()
    group = RolloutGroup(pool, deadline_s=300)
    for temperature in (0.7, 1.0, 1.3):
        assert gap(load(folder), asked, group.sample(asked, temperature, 32), temperature) < 1e-3


def test_completions_end_at_the_stop_id_or_the_limit_and_greedy_ignores_seeds(pool, folder):
    stop = stop_ids(Path(folder))
    asked = requests(prompts=3, samples=30)
    group = RolloutGroup(pool, deadline_s=300)
    sampled = group.sample(asked, temperature=1.5, max_new_tokens=64)
    assert {one.finish for one in sampled} == {Finish.STOP, Finish.LENGTH}
    for one in sampled:
        assert (one.finish is Finish.STOP) == (one.token_ids[-1] in stop)
        assert not stop & set(one.token_ids[:-1])
        assert len(one.token_ids) == len(one.logprobs)
        assert one.finish is Finish.STOP or len(one.token_ids) == 64
    greedy = group.sample(asked[:3], temperature=1.5, max_new_tokens=8, greedy=True)
    assert greedy[0] == greedy[1] == greedy[2]


def test_hf_engine_and_vllm_agree(pool, folder):
    asked = requests()
    hf = RolloutWorker(EngineSettings(folder, 256, engine="hf", transfer="local"))
    (greedy,) = pool.each("sample", [(asked, 1.0, 16, True)], deadline_s=300)
    same = hf.sample(asked, 1.0, 16, True)
    assert [one.token_ids for one in same] == [one.token_ids for one in greedy]
    assert [one.finish for one in same] == [one.finish for one in greedy]
    worst = max(abs(x - y) for a, b in zip(same, greedy, strict=True) for x, y in zip(a.logprobs, b.logprobs, strict=True))
    assert worst < 1e-3
    hf.close()


ALLOWED = ((40, 41), (), (200, 7, 55))  # of every third request


def with_allowed(asked: list[SampleRequest]) -> list[SampleRequest]:
    return [replace(one, allowed_ids=ALLOWED[i % 3]) for i, one in enumerate(asked)]


def stepped(engine: Engine, asked: list[SampleRequest], *way) -> list[Sampled]:
    """Half of the requests first, the others while those are pending."""
    half = len(asked) // 2
    for key in range(half):
        engine.submit(key, asked[key], *way)
    found = dict(engine.step())
    for key in range(half, len(asked)):
        engine.submit(key, asked[key], *way)
    while len(found) < len(asked):
        found |= dict(engine.step())
    assert engine.step() == []
    return [found[key] for key in range(len(asked))]


@pytest.fixture(scope="module")
def engines(folder):
    """Both engines in this process, with room for fewer requests than the tests have."""
    settings = EngineSettings(folder, 256, transfer="local", max_num_seqs=10)
    made = [make_engine(settings), make_engine(replace(settings, engine="hf"))]
    yield made
    for engine in made:
        engine.close()


def test_requests_submitted_while_others_are_pending_give_what_one_batch_gives(engines):
    vllm, hf = engines
    asked = with_allowed(requests())
    for way in ((0.8, 24, False), (1.0, 24, True)):
        assert stepped(vllm, asked, *way) == vllm.sample(asked, *way)
        batch = hf.sample(asked, *way)
        assert [one.token_ids for one in stepped(hf, asked, *way)] == [one.token_ids for one in batch]


def test_allowed_ids_alone_are_sampled_and_share_the_probability(engines, folder):
    asked = with_allowed(requests())
    model = load(folder)
    for engine in engines:
        for temperature, greedy in ((0.7, False), (1.0, True)):
            for one, sampled in zip(asked, engine.sample(asked, temperature, 6, greedy), strict=True):
                assert len(sampled.logprobs) == len(sampled.token_ids)
                assert len(sampled.allowed_logprobs) == len(one.allowed_ids)
                if not one.allowed_ids:
                    continue
                assert set(sampled.token_ids) <= set(one.allowed_ids)
                place = one.allowed_ids.index(sampled.token_ids[0])
                assert sampled.allowed_logprobs[place] == sampled.logprobs[0]
                with torch.inference_mode():
                    logits = model(torch.tensor([one.prompt_ids])).logits[0, -1, list(one.allowed_ids)] / temperature
                wanted = logits.log_softmax(-1).tolist()
                assert sampled.allowed_logprobs == pytest.approx(wanted, abs=1e-3)
                if greedy:
                    assert place == wanted.index(max(wanted))


def test_a_key_or_an_allowed_id_given_twice_is_refused(engines):
    one = SampleRequest((3, 4, 5), 1)
    for engine in engines:
        engine.submit(0, one, 1.0, 4, True)
        with pytest.raises(ValueError, match="already pending"):
            engine.submit(0, one, 1.0, 4, True)
        while not engine.step():
            pass
        with pytest.raises(ValueError, match="given twice"):
            engine.submit(0, replace(one, allowed_ids=(9, 9)), 1.0, 1, True)
        assert engine.step() == []
    vllm, _ = engines
    vllm.submit(0, one, 1.0, 4, True)
    with pytest.raises(RuntimeError, match="are pending"):
        vllm.sample([one], 1.0, 4, True)
    while not vllm.step():
        pass


def test_a_prompt_that_leaves_no_room_is_refused(pool):
    with pytest.raises(ValueError, match="exceed max_model_len=256"):
        pool.each("sample", [([SampleRequest(tuple(range(3, 203)), 1)], 1.0, 64, False)], deadline_s=300)


def test_vllm_refuses_a_model_with_too_few_positions_before_it_loads(folder):
    with pytest.raises(UserError, match="has 2048 positions"):
        RolloutWorker(EngineSettings(folder, 4096))


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "original_max_position_embeddings": 256},
        pytest.param({"rope_type": "linear"}, marks=pytest.mark.slow),
    ],
)
def test_vllm_takes_prompts_beyond_the_positions_before_rope_scaling(tmp_path, scaling):
    folder = tiny_model(tmp_path / "model", positions=256)
    rewrite_model(folder, config={"rope_parameters": {"rope_theta": 1e4, "factor": 8.0, **scaling}})
    worker = RolloutWorker(EngineSettings(folder, 1024))
    dice = random.Random(3)
    asked = [SampleRequest(tuple(dice.randrange(3, 259) for _ in range(900)), seed) for seed in range(2)]
    sampled = worker.sample(asked, 1.0, 16, False)
    worker.close()
    assert gap(load(folder), asked, sampled) < 1e-3


def test_vllm_names_the_quantization_that_it_does_not_load(tmp_path):
    folder = tiny_model(tmp_path / "model")
    rewrite_model(folder, config={"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    with pytest.raises(UserError, match=r"is quantized \(bitsandbytes\) and cannot be loaded here"):
        RolloutWorker(EngineSettings(folder, 256))

"""The bucketed transfer between processes, and loading weights into the transformers engine. No vLLM, no Ray."""

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from r0.actors.rollout.group import assign_groups
from r0.actors.rollout.settings import EngineSettings, check_length, stop_ids
from r0.actors.rollout.worker import RolloutWorker
from r0.actors.sync.buckets import largest_slot, make_buckets, size
from r0.actors.sync.channels import GlooReceiveChannel, Ring, RingReceiveChannel
from r0.actors.sync.rendezvous import Rendezvous, host_store, join
from r0.actors.sync.sync import Follower, make_sender
from r0.actors.sync.transfer import Receiver, Sender, TransferError
from r0.errors import UserError
from r0.records import Finish, SampleRequest
from tests.helpers import tiny_model
from tests.weight_source import ModelWeights

SHAPES = [[3], [5, 7], [64, 33], [1], [40, 40], [2, 2, 2], [100, 100]]
DTYPES = ["float32", "bfloat16", "float32", "int64", "bfloat16", "float32", "float32"]


def rendezvous(world: int, bucket_bytes: int, deadline_s: float = 20.0, port: int = 0, ring: str = "") -> Rendezvous:
    names = [f"p{i}" for i in range(len(SHAPES))]
    return Rendezvous("127.0.0.1", port, 1, world, deadline_s, bucket_bytes, ring, names, DTYPES, SHAPES)


def weights(seed: int) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (f"p{i}", (torch.randn(shape, generator=generator) * 100).to(getattr(torch, dtype)))
        for i, (shape, dtype) in enumerate(zip(SHAPES, DTYPES, strict=True))
    ]


def make_ring(bucket_bytes: int) -> Ring | None:
    place = rendezvous(2, bucket_bytes)
    return Ring.create(largest_slot(make_buckets(place.names, place.dtypes, place.shapes, bucket_bytes), bucket_bytes))


def connect(world: int, bucket_bytes: int, deadline_s: float = 20.0, shared: bool = True):
    """A sender, its receivers, and the store that must outlive them."""
    store = host_store("127.0.0.1", deadline_s)
    ring = make_ring(bucket_bytes) if shared else None
    place = rendezvous(world, bucket_bytes, deadline_s, store.port, ring.path if ring else "")
    with ThreadPoolExecutor(world) as threads:
        joining = [threads.submit(Receiver, place, rank) for rank in range(1, world)]
        sender = Sender(join(place, 0, store), place, ring)
        return sender, [each.result() for each in joining], store


def send_often(sender: Sender) -> None:
    for _ in range(100):  # small messages fit the socket's buffer
        sender.send(iter(weights(0)))


def test_buckets_hold_whole_parameters_within_the_limit_and_in_order():
    place = rendezvous(2, 8000)
    buckets = make_buckets(place.names, place.dtypes, place.shapes, 8000)
    assert [entry.name for bucket in buckets for entry in bucket] == place.names
    assert all(size(bucket) <= 8000 or len(bucket) == 1 for bucket in buckets)
    assert all(entry.offset % 64 == 0 for bucket in buckets for entry in bucket)
    assert len(make_buckets(place.names, place.dtypes, place.shapes, 1)) == len(SHAPES)
    assert len(make_buckets(place.names, place.dtypes, place.shapes, 10**9)) == 1


both_channels = pytest.mark.parametrize("shared", [True, False])


@both_channels
@pytest.mark.parametrize("bucket_bytes", [1, 8000, 10**9])
def test_every_receiver_gets_every_bit_again_and_again(bucket_bytes, shared):
    sender, receivers, _store = connect(3, bucket_bytes, shared=shared)
    assert all(isinstance(receiver._channel, RingReceiveChannel if shared else GlooReceiveChannel) for receiver in receivers)
    with ThreadPoolExecutor(2) as threads:
        for seed in range(3):
            sent = weights(seed)
            # The list holds every tensor back: memory that is still looked at must not be used again.
            receiving = [threads.submit(lambda receiver: list(receiver.weights()), receiver) for receiver in receivers]
            sender.send(iter(sent))
            for got in receiving:
                for (name, tensor), (name_got, tensor_got) in zip(sent, got.result(20), strict=True):
                    assert name == name_got
                    assert tensor.dtype == tensor_got.dtype
                    assert torch.equal(tensor, tensor_got)


@both_channels
def test_a_source_that_is_not_what_was_agreed_on_is_refused(shared):
    sender, receivers, _store = connect(2, 8000, shared=shared)
    with ThreadPoolExecutor(1) as threads:
        receiving = threads.submit(lambda: list(receivers[0].weights()))
        wrong = weights(0)
        wrong[1] = ("p1", torch.zeros(7, 5, dtype=torch.bfloat16))
        with pytest.raises(TransferError, match=r"p1 .* was agreed on, but the source gives p1"):
            sender.send(iter(wrong))
        sender.close()
        with pytest.raises(TransferError, match="the sender gone or late"):
            receiving.result(20)


def test_a_receiver_that_never_joins_raises_at_the_deadline():
    store = host_store("127.0.0.1", 1.0)
    with pytest.raises(TransferError, match=r"did not meet .* within 1 s"):
        join(rendezvous(2, 8000, 1.0, store.port), 0, store)


@both_channels
def test_a_receiver_that_does_not_receive_raises_at_the_deadline(shared):
    sender, _receivers, _store = connect(2, 8000, 1.0, shared)
    with pytest.raises(TransferError, match=r"receivers gone or late \(deadline 1 s\)"):
        send_often(sender)


@both_channels
def test_a_receiver_that_leaves_ends_the_senders_wait(shared):
    sender, receivers, _store = connect(2, 8000, 60.0, shared)
    receivers[0].close()
    with pytest.raises(TransferError, match="receivers gone or late") as error:
        send_often(sender)
    assert not re.search("timeout|timed out", str(error.value))  # the closed connection ends the wait, not the deadline


@both_channels
def test_a_receiver_without_a_sender_raises_at_the_deadline(shared):
    _sender, receivers, _store = connect(2, 8000, 1.0, shared)
    with pytest.raises(TransferError, match=r"the sender gone or late \(deadline 1 s\)"):
        list(receivers[0].weights())


def test_a_receiver_on_another_node_turns_all_to_gloo_and_no_file_stays(monkeypatch):
    def open_elsewhere(path: str) -> Ring | None:
        paths.append(path)
        return original(path) if len(paths) == 1 else None  # one of two finds the memory

    paths: list[str] = []
    original = Ring.open
    monkeypatch.setattr(Ring, "open", open_elsewhere)
    sender, receivers, _store = connect(3, 8000)
    assert all(isinstance(receiver._channel, GlooReceiveChannel) for receiver in receivers)
    assert not Path(paths[0]).exists()
    with ThreadPoolExecutor(2) as threads:
        receiving = [threads.submit(lambda receiver: len(list(receiver.weights())), receiver) for receiver in receivers]
        sender.send(iter(weights(0)))
        assert [each.result(20) for each in receiving] == [len(SHAPES)] * 2


def _follow(place: Rendezvous, rounds: int, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    receiver = Receiver(place, 1)
    memory = []
    for _ in range(rounds):
        for _pair in receiver.weights():
            pass
        memory.append(psutil.Process().memory_info().rss)
    queue.put(memory)


@both_channels
def test_memory_is_flat_over_fifty_syncs(shared):
    store = host_store("127.0.0.1", 60.0)
    ring = make_ring(8000) if shared else None
    place = rendezvous(2, 8000, 60.0, store.port, ring.path if ring else "")
    context = multiprocessing.get_context("fork" if not torch.cuda.is_available() else "spawn")
    queue = context.Queue()
    process = context.Process(target=_follow, args=(place, 60, queue))
    process.start()
    sender = Sender(join(place, 0, store), place, ring)
    sent, own = weights(0), []
    for _ in range(60):
        sender.send(iter(sent))
        own.append(psutil.Process().memory_info().rss)
    theirs = queue.get(timeout=60)
    process.join(20)
    assert own[-1] - own[9] < 2 * 2**20
    assert theirs[-1] - theirs[9] < 2 * 2**20


# The transformers engine: same contract, same transfer ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models with other weights each: (folder, folder)."""
    root = tmp_path_factory.mktemp("models")
    return tiny_model(root / "a", seed=0), tiny_model(root / "b", seed=1)


def requests(count: int = 9) -> list[SampleRequest]:
    return [SampleRequest(tuple(range(3 + i // 3, 40 - 5 * (i // 3))), 2**62 + 1000 * i) for i in range(count)]


def learner_gap(model: torch.nn.Module, asked, sampled, temperature: float) -> float:
    """Largest difference between returned log-probabilities and those of a plain forward pass, in nats."""
    worst = 0.0
    with torch.no_grad():
        for request, one in zip(asked, sampled, strict=True):
            ids = torch.tensor([request.prompt_ids + one.token_ids])
            logprobs = (model(ids).logits[0].float() / temperature).log_softmax(-1)[len(request.prompt_ids) - 1 : -1]
            expected = logprobs.gather(1, ids[0, len(request.prompt_ids) :, None])[:, 0]
            worst = max(worst, (expected - torch.tensor(one.logprobs)).abs().max().item())
    return worst


def load(folder: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_hf_engine_samples_the_distribution_it_reports(models):
    worker = RolloutWorker(EngineSettings(models[0], 128, engine="hf", transfer="local", max_num_seqs=4))
    sampled = worker.sample(requests(), 0.7, 24, False)
    assert learner_gap(load(models[0]), requests(), sampled, 0.7) < 1e-3
    assert sampled == worker.sample(requests(), 0.7, 24, False)
    subset = worker.sample(requests()[4:6], 0.7, 24, False)
    assert [one.token_ids for one in subset] == [one.token_ids for one in sampled[4:6]]
    assert len({one.token_ids for one in sampled}) == len(sampled)
    stop = stop_ids(Path(models[0]))
    for one in sampled:
        assert len(one.token_ids) == len(one.logprobs) <= 24
        assert (one.finish is Finish.STOP) == (one.token_ids[-1] in stop)
        assert not stop & set(one.token_ids[:-1])
    greedy = worker.sample(requests(), 0.7, 24, True)
    assert greedy[0].token_ids == greedy[1].token_ids
    worker.close()


@pytest.mark.parametrize("tied", [True, False])
def test_local_sync_into_the_hf_engine_is_exact(tmp_path, tied):
    folder, other = tiny_model(tmp_path / "a", tied=tied), tiny_model(tmp_path / "b", tied=tied, seed=1)
    worker = RolloutWorker(EngineSettings(folder, 128, engine="hf", transfer="local"))
    learner = load(other)
    make_sender("local", ModelWeights(learner), [worker], 0, 1, 20.0).send(7)
    sampled = worker.sample(requests(), 1.0, 16, False)
    assert worker.version() == 7
    assert {one.version for one in sampled} == {7}
    assert learner_gap(learner, requests(), sampled, 1.0) < 1e-3


def test_gloo_sync_into_the_hf_engine_rounds_to_its_dtype(models):
    worker = RolloutWorker(EngineSettings(models[0], 128, engine="hf", dtype="bf16"))
    sender = make_sender("gloo", ModelWeights(load(models[1])), [worker], 0, 1, 20.0, bucket_bytes=50_000)
    sender.send(1)
    sender.send(2)
    expected = dict(load(models[1]).named_parameters())
    for name, parameter in worker._engine._model.named_parameters():
        assert torch.equal(parameter, expected[name].to(torch.bfloat16)), name
    assert worker.version() == 2


def test_an_update_that_leaves_a_parameter_out_fails_and_the_worker_samples_no_more(models):
    class Forgetful(ModelWeights):
        def __iter__(self):
            return (pair for pair in super().__iter__() if pair[0] != "lm_head.weight")

    worker = RolloutWorker(EngineSettings(models[0], 128, engine="hf"))
    sender = make_sender("gloo", Forgetful(load(models[1])), [worker], 0, 1, 20.0)
    with pytest.raises(TransferError, match=r"1 parameters were not sent, the first is lm_head\.weight"):
        sender.send(1)
    assert worker.version() == -1
    with pytest.raises(RuntimeError, match="incomplete after a failed sync"):
        worker.sample(requests(), 1.0, 8, False)


def test_other_ranks_gather_to_the_end_when_a_sync_fails(models):
    seen = []

    class Counted(ModelWeights):
        def __iter__(self):
            for pair in super().__iter__():
                seen.append(pair[0])
                yield pair

    source = Counted(load(models[1]))
    follower = make_sender("gloo", source, [], 1, 2, 20.0)
    assert isinstance(follower, Follower)
    follower.send(1)
    complete = list(seen)
    seen.clear()
    worker = RolloutWorker(EngineSettings(models[0], 128, engine="hf"))
    sender = make_sender("gloo", source, [worker], 0, 2, 20.0)
    seen.clear()
    worker.close()
    with pytest.raises((TransferError, AttributeError)):
        sender.send(1)
    assert seen == complete


# Dealing and settings ----------------------------------------------------------------------------------------------------------


def test_dealing_keeps_groups_together_and_balances_tokens():
    prompts = [tuple(range(length)) for length in (10, 300, 20, 30, 280, 15)]
    asked = [SampleRequest(prompt, seed) for prompt in prompts for seed in range(4)]
    groups = [asked[at : at + 4] for at in range(0, 24, 4)]
    shares = assign_groups(groups, 2, 50)
    assert sorted(group for share in shares for group in share) == list(range(6))
    for share in shares:
        assert share == sorted(share)
    tokens = [sum(len(groups[group][0].prompt_ids) for group in share) for share in shares]
    assert abs(tokens[0] - tokens[1]) < 100
    assert assign_groups(groups[:1], 3, 50) == [[0]]
    assert assign_groups([], 3, 50) == []


def test_a_model_with_too_few_positions_is_refused(models, tmp_path):
    with pytest.raises(UserError, match=r"is 4096, but the model in .* has 2048 positions"):
        RolloutWorker(EngineSettings(models[0], 4096, engine="hf"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        check_length(tmp_path, 10)


def test_unknown_and_impossible_backends_are_refused(models):
    source = ModelWeights(load(models[0]))
    with pytest.raises(UserError, match="none of local, gloo, nccl, ipc"):
        make_sender("carrier_pigeon", source, [], 0, 1, 5.0)
    with pytest.raises(UserError, match=r"local is for ray\.inline"):
        make_sender("local", source, [object(), object()], 0, 1, 5.0)
    with pytest.raises(UserError, match="nccl needs vLLM"):
        RolloutWorker(EngineSettings(models[0], 128, engine="hf", transfer="nccl"))

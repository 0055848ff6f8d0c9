"""The GPU check on a CPU: its table and its limits, and that a broken part takes no other with it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check
from benchmarks import learner as bench
from benchmarks.gpu_check_parts.claims import Claim, Report, State, read, table
from benchmarks.gpu_check_parts.parts import PARTS, Part, absent, chosen
from benchmarks.gpu_check_parts.setting import Setting
from benchmarks.gpu_check_parts.updates import differences, within

CLAIMS = {"first": "it starts", "second": "it ends"}


def setting(folder: Path) -> Setting:
    (folder / "out").mkdir(exist_ok=True)
    return Setting("cpu", "tiny", folder, folder / "out")


@pytest.fixture
def attempted(tmp_path, monkeypatch):
    """The claims of a part whose process runs the given code; it may use ``claim(key, held)``."""

    def attempt(code: str, seconds: float = 60.0, left: float = 600.0, needs: tuple[str, ...] = ()) -> list[Claim]:
        file = tmp_path / "broken.jsonl"
        head = (
            "from pathlib import Path\nfrom benchmarks.gpu_check_parts.claims import Report\n"
            f"report = Report('broken', {CLAIMS!r}, Path({str(file)!r}))\ndef claim(key, held): report.claim(key, held, 'seen')\n"
        )
        script = tmp_path / "part.py"
        script.write_text(head + code)
        monkeypatch.setattr(gpu_check, "__file__", str(script))
        monkeypatch.setattr(gpu_check, "ON_CPU", 1.0)
        return gpu_check.attempt(Part("broken", "none:none", CLAIMS, needs, seconds), setting(tmp_path), "", left)

    return attempt


def states(claims: list[Claim]) -> list[tuple[str, State]]:
    return [(claim.text, claim.state) for claim in claims]


def test_a_part_that_ends_keeps_its_claims(attempted):
    assert states(attempted("claim('first', True)\nclaim('second', False)")) == [
        ("it starts", State.HELD),
        ("it ends", State.NOT_HELD),
    ]


def test_a_part_that_raises_does_not_hold_and_its_error_is_the_note(attempted, capsys):
    claims = attempted("claim('first', True)\nraise ValueError('no index')")
    assert states(claims) == [("it starts", State.HELD), ("it ends", State.NOT_HELD)]
    assert claims[1].note == "exit code 1: ValueError: no index"
    assert "no index" in capsys.readouterr().err


def test_a_part_that_crashes_does_not_hold(attempted):
    claims = attempted("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert states(claims) == [("it starts", State.NOT_HELD), ("it ends", State.NOT_TRIED)]
    assert claims[0].note.startswith("ended by signal 11")


def test_a_part_that_hangs_is_ended_and_does_not_hold(attempted, monkeypatch):
    monkeypatch.setattr(gpu_check, "GRACE", 0.1)
    claims = attempted("import time\ntime.sleep(600)", seconds=0.5)
    assert claims[0].state == State.NOT_HELD
    assert "longer than" in claims[0].note


def test_a_part_that_the_end_of_the_check_cuts_off_is_not_tried(attempted, monkeypatch):
    monkeypatch.setattr(gpu_check, "LEAST", 0.0)
    assert {claim.state for claim in attempted("import time\ntime.sleep(600)", left=0.5)} == {State.NOT_TRIED}


def test_without_time_or_packages_nothing_is_started(attempted, tmp_path):
    for claims, why in (
        (attempted("", left=1.0), "no time was left; give more --seconds"),
        (attempted("", needs=("torch", "no_such_package")), "not installed: no_such_package"),
    ):
        assert [(claim.state, claim.note) for claim in claims] == [(State.NOT_TRIED, why)] * 2
    assert not (tmp_path / "out" / "broken.log").exists()


def test_one_sentence_names_missing_packages_and_their_parts():
    parts = [Part(name, "none:none", CLAIMS, needs, 1) for name, needs in (("one", ("json", "absent_a")), ("two", ("absent_a",)))]
    assert absent(parts) == "Not installed: absent_a (for one, two). These parts are not tried."
    assert absent([Part("three", "none:none", CLAIMS, ("json",), 1)]) == ""


def test_every_part_can_be_loaded_and_its_claims_are_different_sentences():
    texts = [text for part in PARTS for text in part.claims.values()]
    assert len(set(texts)) == len(texts)
    for part in PARTS:
        if not part.missing():
            assert callable(part.load())
    with pytest.raises(ValueError, match="there is no part nothing; parts are machine, start"):
        chosen(["nothing"])


def test_the_table_is_markdown_and_a_figure_cannot_break_it(tmp_path):
    report = Report("part", CLAIMS, tmp_path / "claims.jsonl")
    report.claim("first", True, "a | b\nc", number=1.5)
    report.skip("second", "on a CPU")
    claims = read(tmp_path / "claims.jsonl")
    assert claims[0].values == {"number": 1.5}
    assert table(claims).splitlines()[2:] == ["| it starts | held | a / b c |", "| it ends | not tried | on a CPU |"]


@pytest.mark.parametrize(
    ("device", "hidden", "seen"), [("cuda", None, "0"), ("cuda:2", None, "2"), ("cuda:1", "4,7", "7"), ("cpu", "4,7", "")]
)
def test_a_part_sees_the_chosen_card_only(device, hidden, seen, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert gpu_check.visible_card(device) == seen


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:1"])
def test_a_device_that_is_none_is_refused(device, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ValueError, match="--device"):
        gpu_check.visible_card(device)


def test_exit_codes_follow_the_claims(monkeypatch, capsys, tmp_path):
    for state, code in ((State.HELD, 0), (State.NOT_TRIED, 0), (State.NOT_HELD, 1)):
        monkeypatch.setattr(gpu_check, "attempt", lambda part, *rest, state=state: [Claim(part.name, "it", state)])
        monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--parts", "machine", "--out", str(tmp_path)])
        assert gpu_check.main() == code
        assert (tmp_path / "gpu_check.json").is_file()
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "tpu"])
    assert gpu_check.main() == 2
    assert "gpu_check: --device: tpu is none of" in capsys.readouterr().err


def test_weights_that_moved_otherwise_are_not_equal():
    before = {"w": torch.zeros(4)}
    first = {"loss": [1.0], "norm": [2.0], "before": before, "after": {"w": torch.ones(4)}}
    near = {**first, "after": {"w": torch.ones(4) * 1.001}}
    assert within(differences(first, first))
    assert within(differences(first, near))
    for changed in ({"loss": [1.01]}, {"norm": [2.1]}, {"after": {"w": torch.ones(4) * 1.5}}):
        assert not within(differences(first, {**first, **changed}))


@pytest.mark.ray  # starts DeepSpeed in processes of its own
@pytest.mark.slow
def test_the_parts_of_a_learner_hold_on_a_cpu(tmp_path):
    from benchmarks.gpu_check_parts import updates

    given, found = setting(tmp_path), []
    for part in chosen(["start", "equal", "probe"]):
        file = tmp_path / f"{part.name}.jsonl"
        getattr(updates, part.function.partition(":")[2])(given, Report(part.name, part.claims, file))
        found += read(file)
    assert [claim.state for claim in found] == [State.HELD, State.NOT_TRIED, *[State.HELD] * 4], table(found)


def test_the_random_model_for_whole_runs_has_a_word_for_every_id(tmp_path):
    from transformers import AutoTokenizer

    folder = setting(tmp_path).chat_model("tiny")
    tokenizer, tiny = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained("r0/assets/r0-tiny")
    size = bench.SHAPES["tiny"][0]
    assert len(tokenizer) == size
    assert None not in tokenizer.convert_ids_to_tokens(list(range(size)))
    text = "<think>the film was published</think><answer>yes</answer>"
    assert tokenizer(text).input_ids == tiny(text).input_ids


def test_ragged_groups_have_prompts_and_completions_of_unlike_length():
    ragged, equal = (bench.make_groups(8, 40, 20, 4, 100, ragged=kind, seed=3) for kind in (True, False))
    prompts = [len(group.prompt_ids) for group in ragged]
    completions = [len(each.token_ids) for group in ragged for each in group.completions]
    assert len(set(prompts)) > 1
    assert len(set(completions)) > 1
    assert min(prompts) >= 20
    assert max(prompts) <= 40
    assert min(completions) >= 10
    assert max(completions) <= 20
    assert {(len(group.prompt_ids), *(len(each.token_ids) for each in group.completions)) for group in equal} == {(40, *[20] * 4)}


@pytest.mark.parametrize(("text", "device"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:3", "cuda:3")])
def test_a_gpu_of_the_learner_benchmark_has_an_index(text, device):
    assert bench.device_name(text) == device


def test_the_speed_part_claims_nothing_on_a_cpu(tmp_path, monkeypatch):
    from benchmarks.gpu_check_parts import speed

    monkeypatch.setattr(speed, "SMALL", (16, 8, 2, 2))
    (part,) = chosen(["speed"])
    speed.updates(setting(tmp_path), Report(part.name, part.claims, tmp_path / "speed.jsonl"))
    assert [claim.state for claim in read(tmp_path / "speed.jsonl")] == [State.NOT_TRIED] * 2


def test_memory_beside_no_card_is_not_tried(tmp_path):
    from benchmarks.gpu_check_parts import memory

    report = Report("memory", chosen(["memory"])[0].claims, tmp_path / "memory.jsonl")
    memory.checkpointed(SimpleNamespace(cuda=False), report)
    assert [claim.state for claim in read(tmp_path / "memory.jsonl")] == [State.NOT_TRIED]

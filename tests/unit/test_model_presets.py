"""Model presets: each file loads for each command it names, has the right precedence, and shows its notice."""

import pytest

from r0 import launch
from r0.config import RankingKeys, ScoreConfig, SftConfig, StageAConfig
from r0.config.load import load
from r0.config.models import FOLDER, NAMES, notice, preset
from r0.errors import UserError
from r0.launch import COMMANDS, parse
from r0.records import Form, PointwiseTask
from r0.rerank.job import Job
from r0.rerank.judge import Judge
from r0.rerank.protocol import Question
from r0.runs.modelcard import CardFacts, model_card
from r0.text.prompts import Prompter
from tests.architectures import ARCHITECTURES

NEEDED = {  # keys that a command cannot do without
    "rerank": ["data=x"],
    "distill train": ["data=x"],
    "distill": ["data=x", "teacher.model=y"],
    "esci": ["data=x"],
    "esci eval": ["data=x"],
}
PAIRS = [(name, command) for name in NAMES for command in preset(name).commands if command in COMMANDS]
MOBILE = "mobilellm-r1-950m"
JOB = Job(0, "q", "q", ("d",))


def test_every_file_has_its_name_and_a_tiny_model():
    assert {path.stem for path in FOLDER.glob("*")} == set(NAMES) == set(ARCHITECTURES)
    assert {command for name in NAMES for command in preset(name).commands} <= {*COMMANDS, "finetune", "stage_c"}


@pytest.mark.parametrize(("name", "command"), PAIRS)
def test_a_preset_holds_in_every_command_it_is_for(name, command):
    config, _ = parse(command, [f"model_preset={name}", *NEEDED.get(command, [])])
    assert config.model == preset(name).values["model"]
    lora = getattr(config, "lora", None) or (getattr(config, "learner", None) and config.learner.lora)
    assert lora is None or list(lora.target_modules) == preset(name).values["lora"]["target_modules"]


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_preset_belongs_to_some_command(name):
    known = {key for command in COMMANDS.values() for key in command.config.model_fields}
    assert set(preset(name).values) <= known


def test_lora_targets_are_layers_of_the_architecture():
    import torch
    from transformers import AutoConfig, AutoModel

    for name in NAMES:
        one = ARCHITECTURES[name]
        settings = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2}
        with torch.device("meta"):
            model = AutoModel.from_config(AutoConfig.for_model(one.model_type, **settings, **one.settings))
        layers = {path.rpartition(".")[2] for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        assert set(preset(name).values["lora"]["target_modules"]) <= layers, name


def test_a_preset_yields_to_the_file_and_overrides_it_on_the_command_line(tmp_path):
    (tmp_path / "run.yaml").write_text("model_preset: qwen3-0.6b\nmodel: mine\nlearner: {ranks: 2, lora: {r: 8}}\n")
    below = load(StageAConfig, tmp_path / "run.yaml")
    assert (below.model, below.learner.ranks, below.learner.lora.r) == ("mine", 2, 8)
    assert below.learner.lora.target_modules[0] == "q_proj"
    over = load(StageAConfig, tmp_path / "run.yaml", ["learner.lora.r=4", "model_preset=qwen2.5-1.5b"])
    assert (over.model, over.learner.ranks, over.learner.lora.r) == ("Qwen/Qwen2.5-1.5B", 2, 4)
    last = load(StageAConfig, tmp_path / "run.yaml", ["model=other", "model_preset=qwen2.5-1.5b"])
    assert last.model == "other"
    assert load(SftConfig, None, ["model_preset=qwen3-0.6b"]).lora.target_modules == below.learner.lora.target_modules


def test_a_resolved_configuration_loads_again_as_it_was():
    config = load(RankingKeys, None, ["model_preset=qwen3-reranker-8b", "max_prompt_tokens=4096", "query_format="])
    assert (config.max_prompt_tokens, config.query_format, config.rollout.max_num_seqs) == (4096, None, 8)
    assert RankingKeys.model_validate(config.model_dump()) == config


def test_a_preset_that_is_not_for_the_command_or_not_known_is_refused():
    with pytest.raises(UserError, match=r"bge-reranker-v2-m3 supports finetune, rerank, .*, distill, but not stage_a"):
        parse("stage_a", ["model_preset=bge-reranker-v2-m3"])
    with pytest.raises(UserError, match="model_preset"):
        parse("stage_a", ["model_preset=qwen4"])


def test_a_noncommercial_licence_is_shown_whenever_the_model_is_named(capsys, tmp_path):
    for how in (f"model_preset={MOBILE}", "model=facebook/MobileLLM-R1-950M"):
        launch.main(["stage_a", how, "--dry-run", f"output={tmp_path / 'run'}"])
        assert "noncommercial research only" in capsys.readouterr().err
    launch.main(["stage_a", "model_preset=qwen3-0.6b", "--dry-run", f"output={tmp_path / 'run'}"])
    assert "noncommercial" not in capsys.readouterr().err
    assert [name for name in NAMES if notice(preset(name).values["model"])] == [MOBILE]


def test_the_model_card_of_a_trained_model_shows_it_too():
    card = model_card(load(StageAConfig, None, [f"model_preset={MOBILE}"]), CardFacts("stage_a", 1))
    assert "FAIR Noncommercial Research License" in card
    assert "base_model: facebook/MobileLLM-R1-950M" in card
    assert "Noncommercial" not in model_card(load(StageAConfig, None, []), CardFacts("stage_a", 1))


# What stands behind the user message, and behind it what r0 writes where thinking is switched off.
ENDINGS = {
    "deepseek-r1-distill-qwen-1.5b": ("<｜Assistant｜><think>\n", "</think><answer>"),
    "qwen3-0.6b": ("<|im_start|>assistant\n", "<think></think><answer>"),
    "qwen2.5-1.5b": ("<|im_start|>assistant\n", "<think></think><answer>"),
    "mobilellm-r1-950m": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<think></think><answer>"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_prompts_keep_the_models_own_convention_for_thoughts(name):
    tokenizer = ARCHITECTURES[name].tokenizer()
    opened, closed = ENDINGS[name]
    prompt = Prompter(tokenizer, "Judge.").prompt(PointwiseTask(0, "q", "d", label=1))
    text = tokenizer.decode(prompt.token_ids)
    assert "Query: q\nDocument: d" in text
    assert text.endswith(opened)
    assert prompt.prefix == ("<think>\n" if "<think>" in opened else "")
    asked = next(
        Judge(tokenizer, RankingKeys(thinking=False, system_prompt="Judge."), 900).reply_to(JOB, Question((0,), Form.YES_NO))
    )
    assert tokenizer.decode(asked.request.prompt_ids) == text + closed
    assert tokenizer.convert_ids_to_tokens(list(asked.request.allowed_ids)) == ["yes", "no"]


def test_an_override_of_a_presets_section_stays_in_its_own_configuration():
    first = load(ScoreConfig, None, ["model_preset=qwen3-reranker-0.6b", "data=x", "rollout.workers=3"])
    second = load(ScoreConfig, None, ["model_preset=qwen3-reranker-0.6b", "data=x"])
    assert (first.rollout.workers, second.rollout.workers) == (3, 1)

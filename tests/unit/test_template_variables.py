"""Variables of a chat template: a closed thought is opened, a date that is read is fixed, what it does not know is refused."""

from __future__ import annotations

import inspect
import re
from datetime import date
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from r0.config import RankingKeys, SftConfig, StageAConfig
from r0.config.types import DATE, RESERVED
from r0.errors import UserError
from r0.records import Form, PointwiseTask
from r0.rerank.prompt_budget import open_template
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.esci.prompt_file import PromptSettings, load_prompt_settings
from r0.supervised.finetune.template import own_prompt
from r0.text.prompt_file import save_prompt, template_variables
from r0.text.prompts import Prompter
from r0.text.template import Template
from r0.text.template_variables import reads_date
from tests.helpers import tiny_model
from tests.unit.prompt_tokenizers import CHATML, DATED, R1, SWITCHED, byte_level

THOUGHT = PointwiseTask(0, "q", "d", label=1, think="the harbor")
CLOSED = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif")
LIKE_DEEPSEEK = CHATML.replace("assistant\n{% endif", "assistant\n{% if thinking %}<think>{% else %}</think>{% endif %}{% endif")


def taught(prompter: Prompter) -> str:
    return prompter.tokenizer.decode(prompter.training_pair(THOUGHT).completion_ids)


@pytest.mark.parametrize(
    ("template", "name", "prefix"), [(SWITCHED, "enable_thinking", "<think>\n"), (LIKE_DEEPSEEK, "thinking", "<think>")]
)
def test_a_template_that_can_think_is_told_to_and_the_thought_is_taught(template, name, prefix):
    prompter = Prompter(byte_level(template), "", 512)
    assert prompter.template.variables == {name: True}
    assert (prompter.prefix, prompter.template.closed, prompter.template_note) == (prefix, False, "")
    assert taught(prompter).startswith("the harbor</think><answer>yes</answer>")
    prompter.template.check_thinks()


def test_a_template_that_thinks_by_itself_is_left_as_it_is():
    qwen3 = CHATML.replace(
        "assistant\n{% endif",
        "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif",
    )
    assert Template(byte_level(qwen3)).variables == {}
    assert Template(byte_level(qwen3)).tail_ids == Template(byte_level()).tail_ids
    assert Template(byte_level(R1)).variables == {}


@pytest.mark.parametrize("template", [SWITCHED, LIKE_DEEPSEEK])
def test_thinking_that_is_switched_off_stays_off_and_is_said(template):
    name = "enable_thinking" if template is SWITCHED else "thinking"
    found = Template(byte_level(template), "", {name: False})
    assert found.closed
    assert found.note == f"the chat template closes the thought ({name}=false), so that the model writes none"
    found.check_thinks()  # it was asked for
    with pytest.raises(UserError, match="closes the thought"):
        found.check_thinks(unless_chosen=False)  # of a teacher, whose thoughts are all that is wanted


def test_a_template_that_always_closes_the_thought_is_refused_where_a_thought_is_wanted():
    found = Template(byte_level(CLOSED))
    assert found.closed
    with pytest.raises(UserError, match=r"closes the thought before the model writes.*chat_template_kwargs"):
        found.check_thinks()


@pytest.mark.parametrize(
    ("name", "words"),
    [("enable_thinkin", "did you mean enable_thinking?"), ("date_string", "correct the name, or remove it")],
)
def test_a_variable_that_the_template_does_not_have_is_refused(name, words):
    with pytest.raises(
        UserError, match=re.escape(f"chat_template_kwargs.{name}: the model's chat template has no variable {name}; {words}")
    ):
        Template(byte_level(SWITCHED), "", {name: True})


def test_a_variable_is_shown_to_the_template():
    tokenizer = byte_level("{{ style | default('plain') ~ '\n' }}" + CHATML)
    assert Template(tokenizer, "", {"style": "short"}).head.startswith("short\n")
    assert Template(tokenizer).head.startswith("plain\n")


def test_the_date_of_a_template_is_fixed(monkeypatch):
    today = date.today()
    found = Template(byte_level(DATED))
    assert found.variables == {DATE: today.isoformat()}
    assert found.head.startswith(f"Today is {today:%d %b %Y}.")
    other = Template(byte_level(DATED), "", {DATE: "2024-07-26"})
    assert other.head.startswith("Today is 26 Jul 2024.")
    assert Template(byte_level(DATED), "", other.variables).head_ids == other.head_ids


def test_the_names_that_are_no_variables_are_those_of_the_call_that_renders():
    call = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert {name for name, one in call.items() if name != "self" and one.kind is not inspect.Parameter.VAR_KEYWORD} <= {*RESERVED}


def test_a_models_folder_keeps_its_variables_for_every_form_of_answer(tmp_path: Path):
    prompter = Prompter(byte_level(DATED), "", 512, variables={DATE: "2024-07-26"})
    save_prompt(tmp_path, Form.PICK, prompter.system_prompt, prompter.template.variables)
    assert template_variables(tmp_path, {}) == {DATE: "2024-07-26"}
    assert template_variables(tmp_path, {DATE: "2025-01-01", "x": 1}) == {DATE: "2025-01-01", "x": 1}
    assert template_variables(tmp_path / "none", {}) == {}
    (tmp_path / "r0_prompt.json").write_text('{"answer": "pick", "system_prompt": "", "chat_template_kwargs": [1]}')
    assert template_variables(tmp_path, {}) == {}


@pytest.fixture(scope="module")
def switched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template closes the thought unless a variable prevents it, and reads the date."""
    folder = Path(tiny_model(tmp_path_factory.mktemp("switched"), hidden=32, layers=1))
    (folder / "chat_template.jinja").write_text(DATED.removesuffix(CHATML) + SWITCHED)
    return folder


@pytest.mark.parametrize("config", [StageAConfig, SftConfig])
def test_training_asks_as_the_start_model_was_asked_and_reranking_as_the_trained_one(config, switched, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(switched)
    given = config(chat_template_kwargs={DATE: "2024-07-26"})
    prompter = Prompter.of(given, tokenizer, folder=switched)
    tokenizer.save_pretrained(tmp_path)
    save_prompt(tmp_path, Form.YES_NO, "", prompter.template.variables)
    assert Prompter.of(config(), tokenizer, folder=tmp_path).template.head_ids == prompter.template.head_ids
    keys = RankingKeys(model=str(tmp_path))
    found = open_template(keys, tmp_path)
    assert (found.head_ids, found.tail_ids) == (prompter.template.head_ids, prompter.template.tail_ids)
    assert found.variables == {DATE: "2024-07-26", "enable_thinking": True}
    off = open_template(keys.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}}), tmp_path)
    assert off.closed


def test_the_date_is_looked_for_in_a_models_folder(switched, tmp_path):
    assert reads_date(switched)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert not reads_date(tmp_path)


def test_a_score_without_a_thought_is_read_behind_the_same_template(switched):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(switched)
    pair = own_prompt(tokenizer, "", {DATE: "2024-07-26"})
    assert "Today is 26 Jul 2024." in pair.before
    assert pair.behind.endswith("<think>\n</think><answer>")


def test_an_esci_model_is_measured_with_the_variables_that_it_was_trained_with(switched, tmp_path):
    prompter = EsciPrompter.open(switched, PromptSettings(max_prompt_tokens=600, chat_template_kwargs={DATE: "2024-07-26"}))
    prompter.settings.save(tmp_path)
    known = load_prompt_settings(tmp_path)
    assert known == prompter.settings
    assert known.chat_template_kwargs == {DATE: "2024-07-26", "enable_thinking": True}
    assert EsciPrompter.open(switched, known).ids("q", "d") == prompter.ids("q", "d")
    assert prompter.pair.behind.endswith("<think>\n\n</think>\n\n")

"""The system prompt is stored in a model's folder."""

import pytest

from r0.records import Form
from r0.text.messages import SYSTEM_PROMPTS
from r0.text.prompt_file import FILE, load_system_prompt, save_prompt


@pytest.mark.parametrize("prompt", ["", "Judge.", 'Zeile 1\nSay "ja" or ‹no›.'])
def test_the_stored_prompt_is_read_back(tmp_path, prompt):
    save_prompt(tmp_path, Form.YES_NO, prompt, {})
    assert load_system_prompt(tmp_path, Form.YES_NO) == prompt


def test_other_forms_and_other_models_get_the_default_prompt(tmp_path):
    assert load_system_prompt(tmp_path, Form.PICK) == SYSTEM_PROMPTS[Form.PICK]
    save_prompt(tmp_path, Form.YES_NO, "Judge.", {})
    assert load_system_prompt(tmp_path, Form.PICK) == SYSTEM_PROMPTS[Form.PICK]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"answer": "yes_no"}', '{"answer": "yes_no", "system_prompt": 3}'])
def test_a_damaged_file_is_ignored(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert load_system_prompt(tmp_path, Form.YES_NO) == SYSTEM_PROMPTS[Form.YES_NO]

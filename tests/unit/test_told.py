"""A model's folder says what it was told."""

import pytest

from r0.records import Form
from r0.text.messages import SYSTEM_PROMPTS
from r0.text.prompt_file import FILE, remember, told


@pytest.mark.parametrize("prompt", ["", "Judge.", 'Zeile 1\nSay "ja" or ‹no›.'])
def test_what_a_model_was_trained_with_is_said_again(tmp_path, prompt):
    remember(tmp_path, Form.YES_NO, prompt)
    assert told(tmp_path, Form.YES_NO) == prompt


def test_another_form_and_other_models_are_told_r0s_own(tmp_path):
    assert told(tmp_path, Form.PICK) == SYSTEM_PROMPTS[Form.PICK]
    remember(tmp_path, Form.YES_NO, "Judge.")
    assert told(tmp_path, Form.PICK) == SYSTEM_PROMPTS[Form.PICK]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"answer": "yes_no"}', '{"answer": "yes_no", "system_prompt": 3}'])
def test_a_damaged_file_is_passed_over(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert told(tmp_path, Form.YES_NO) == SYSTEM_PROMPTS[Form.YES_NO]

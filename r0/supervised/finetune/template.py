"""The prompt of a decoder for a query and a document: a chat template with the roles ``query`` and ``document``.

sentence-transformers passes a pair to the chat template under these roles, and keeps the text after the document when a long pair
is truncated. So the format of a decoder is stored in its folder, and every library renders the same prompt. Texts are data: tags
and control tokens in them are escaped (``<`` becomes ``‹``, as in ``r0.text.tags``). All other conversations are rendered by the
tokenizer's previous template.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from r0.config import FinetuneConfig
from r0.config.finetune import FORMATS
from r0.errors import UserError
from r0.records import Answer
from r0.text.completion import ANSWER, THINK
from r0.text.messages import user_message
from r0.text.tags import ESCAPED_LESS_THAN, TAG_NAMES
from r0.text.template import DEFAULT_CHAT_TEMPLATE, Template
from r0.text.template_variables import Variables

QUERY_FORMAT, DOCUMENT_FORMAT, SEQ = "query: {}", "document: {}", " "
_PAIR = "{% if messages | selectattr('role', 'equalto', 'document') | list %}"
_TEXT = (
    "{% macro text(role) %}{% set found = namespace(text='') %}"
    "{% for message in messages if message.role == role %}"
    "{% set content = message.content if message.content is string else message.content | map(attribute='text') | join %}"
    "{% set found.text = content TRIM %}{% endfor %}"
    "{% for tag in TAGS %}{% set found.text = found.text | replace(tag, '‹' + tag[1:]) %}{% endfor %}"
    "{{ found.text }}{% endmacro %}"
)


@dataclass(frozen=True)
class PairFormat:
    """The text before the query, between query and document, and after the document, where the score is read."""

    before: str
    between: str
    behind: str

    def chat_template(self, tokenizer: Any, trims: bool = True) -> str:
        """A chat template that writes pairs in this format, and everything else as the tokenizer's own does.

        ``trims``: whether white space around query and document is left out. r0's own prompts keep it.
        """
        added = {token for token in tokenizer.get_added_vocab() if token.startswith("<")} | set(tokenizer.all_special_tokens)
        own = {f"<{slash}{name}>" for name in TAG_NAMES for slash in ("", "/")}
        tags = sorted(tag for tag in added | own if len(tag) > 1)
        macro = _TEXT.replace("TAGS", json.dumps(tags, ensure_ascii=False)).replace("‹", ESCAPED_LESS_THAN)
        macro = macro.replace(" TRIM", " | trim" if trims else "")
        pair = f"{_literal(self.before)}{{{{ text('query') }}}}{_literal(self.between)}{{{{ text('document') }}}}"
        rest = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else DEFAULT_CHAT_TEMPLATE
        return f"{_PAIR}{macro}{pair}{_literal(self.behind)}{{% else %}}{rest}{{% endif %}}"


def pair_format(
    config: FinetuneConfig, tokenizer: Any, yes_no: bool, system_prompt: str = "", variables: Variables | None = None
) -> PairFormat:
    """The format that the configuration asks for; ``system_prompt`` and the chat template's ``variables`` are those of r0's own
    prompt for yes and no.

    Raises:
        UserError: the tokenizer or its own chat template cannot be used.
    """
    given = [name for name in FORMATS if getattr(config, name) is not None]
    if yes_no and not given:
        return own_prompt(tokenizer, system_prompt, variables)
    query = (QUERY_FORMAT if config.query_format is None else config.query_format).partition("{}")
    document = (DOCUMENT_FORMAT if config.document_format is None else config.document_format).partition("{}")
    between = query[2] + (SEQ if config.seq is None else config.seq) + document[0]
    return PairFormat(_begin(tokenizer) + query[0], between, document[2] + (config.special_token or ""))


@dataclass(frozen=True)
class AnswerWords:
    """The format that ends right before the answer token, and the token ids of yes and no."""

    format: PairFormat
    yes: int
    no: int


def answer_words(tokenizer: Any, pair: PairFormat) -> AnswerWords:
    """The two tokens whose logits make the score, as the tokenizer writes the words behind the prompt.

    Some vocabularies join the prompt's last letter and the word: then that letter leaves the prompt.

    Raises:
        UserError: both words begin with the same token, or the prompt cannot end where they part.
    """
    yes, no = (tokenizer.encode(f"{pair.behind}{word}", add_special_tokens=False) for word in (Answer.YES, Answer.NO))
    shared = next((place for place, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
    if shared is None:
        raise UserError(
            "model: its tokenizer begins yes and no with the same token, so that their logits are no score; use "
            "model_type=llm_decoder, or another model"
        )
    behind = tokenizer.decode(yes[:shared], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if tokenizer.encode(behind, add_special_tokens=False) != yes[:shared] or not pair.behind.startswith(behind):
        raise UserError(
            f"special_token: behind {pair.behind[-20:]!r} the words yes and no begin with the same token, so that their logits "
            "are no score; end it with another letter, or use model_type=llm_decoder"
        )
    return AnswerWords(PairFormat(pair.before, pair.between, behind), yes[shared], no[shared])


def own_prompt(tokenizer: Any, system_prompt: str, variables: Variables | None = None) -> PairFormat:
    """r0's prompt for one document with thinking switched off: an empty thought, then the answer's tag.

    Raises:
        UserError: the tokenizer or its own chat template cannot be used.
    """
    template = Template(tokenizer, system_prompt, variables)
    before, between, _ = user_message("\0", "\1").replace("\1", "\0").split("\0")
    opening = "" if THINK[1] in template.prefix else THINK[1] if template.prefix else "".join(THINK)
    return PairFormat(template.head + before, between, template.tail + opening + ANSWER[0])


def _begin(tokenizer: Any) -> str:
    """The bos token, if the tokenizer adds it to a text; a chat template must render it."""
    bos = tokenizer.bos_token
    return bos if bos and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else ""


def _literal(text: str) -> str:
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""

"""What r0-tiny can do, probe by probe: format, lookup, conclusion and verdict are counted apart, so that no mean hides a gap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from r0.data.builtin import DEMO_SYSTEM_PROMPT, builtin_task, claimed_kind, lookup_correct
from r0.messages import user_message
from r0.records import PointwiseTask
from r0.tools.tiny_rows import LONG_PROMPT

HELD_OUT_SEED = 7  # below BASE_SEED_START, so none of its rows was trained on


@torch.no_grad()
def complete(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[PointwiseTask],
    system: str | None = DEMO_SYSTEM_PROMPT,
    max_new_tokens: int = 96,
    batch: int = 125,
) -> list[str]:
    """The greedy completion of each task as text, tags kept, the end token dropped."""
    texts: list[str] = []
    head = [] if system is None else [{"role": "system", "content": system}]
    for at in range(0, len(tasks), batch):
        chats = [[*head, {"role": "user", "content": user_message(t.query, t.document)}] for t in tasks[at : at + batch]]
        prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        ids = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, max_new_tokens=max_new_tokens
        )
        texts += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def probe(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 500) -> dict[str, float]:
    """Shares over ``count`` held-out rows, greedy, with the demo's prompt; then the verdict under other prompts and lengths."""
    model.eval()
    tasks = [builtin_task(index, HELD_OUT_SEED) for index in range(count)]
    found = _count(tasks, complete(model, tokenizer, tasks))
    few = tasks[: count // 5]
    for name, system in (("no_system_prompt", None), ("long_prompt", LONG_PROMPT)):
        found |= {f"verdict_{name}": _count(few, complete(model, tokenizer, few, system))["verdict"]}
    longer = [builtin_task(index, HELD_OUT_SEED, sentences=15) for index in range(count // 5)]
    found |= {"verdict_15_sentences": _count(longer, complete(model, tokenizer, longer))["verdict"]}
    return found


def _count(tasks: Sequence[PointwiseTask], texts: Sequence[str]) -> dict[str, float]:
    """Shares of completions that are right, for each probe and for the verdict of each kind."""
    hits: dict[str, list[bool]] = {}
    for task, text in zip(tasks, texts, strict=True):
        think, _, rest = text.removeprefix("<think>").partition("</think>")
        answer = rest.removeprefix("<answer>").removesuffix("</answer>")
        right = answer == ("yes" if task.label else "no")
        formed = text == f"<think>{think}</think><answer>{answer}</answer>" and answer in ("yes", "no")
        rows = {"format": formed, "lookup": lookup_correct(task, think), "conclusion": claimed_kind(think) == task.kind}
        for name, value in {**rows, "verdict": right, f"verdict_{task.kind}": right}.items():
            hits.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in hits.items()}

"""What r0-tiny can do, probe by probe: format, lookup, conclusion and verdict are counted apart, so that no mean hides a gap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from r0.data.builtin.lists import builtin_list_task, checks_right, claimed_grades, linked_answer
from r0.data.builtin.pairs import DEMO_SYSTEM_PROMPT, builtin_task, claimed_kind, lookup_correct
from r0.ranking import groups_of_order, ndcg
from r0.records import Form, ListLabel, ListwiseTask, PointwiseTask, Task
from r0.text.answers import read_strict
from r0.text.messages import SYSTEM_PROMPTS, list_message, user_message
from r0.tools.tiny_rows import LONG_PROMPT

HELD_OUT_SEED = 7  # below BASE_SEED_START, so none of its rows was trained on


@torch.no_grad()
def complete(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[Task],
    system: str | None,
    max_new_tokens: int = 96,
    batch: int = 125,
) -> list[str]:
    """The greedy completion of each task as text, tags kept, the end token dropped."""
    texts: list[str] = []
    head = [] if system is None else [{"role": "system", "content": system}]
    for at in range(0, len(tasks), batch):
        chats = [[*head, {"role": "user", "content": _message(task)}] for task in tasks[at : at + batch]]
        prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        ids = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, max_new_tokens=max_new_tokens
        )
        texts += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def _message(task: Task) -> str:
    if isinstance(task, ListwiseTask):
        return list_message(task.query, task.documents, task.form)
    return user_message(task.query, task.document)


def probe(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 500) -> dict[str, float]:
    """Shares over ``count`` held-out rows, greedy, with the demo's prompt; then the verdict under other prompts and lengths; then
    over fewer lists."""
    model.eval()
    tasks = [builtin_task(index, HELD_OUT_SEED) for index in range(count)]
    found = _count(tasks, complete(model, tokenizer, tasks, DEMO_SYSTEM_PROMPT))
    few = tasks[: count // 5]
    for name, system in (("no_system_prompt", None), ("long_prompt", LONG_PROMPT)):
        found |= {f"verdict_{name}": _count(few, complete(model, tokenizer, few, system))["verdict"]}
    longer = [builtin_task(index, HELD_OUT_SEED, sentences=15) for index in range(count // 5)]
    found |= {"verdict_15_sentences": _count(longer, complete(model, tokenizer, longer, DEMO_SYSTEM_PROMPT))["verdict"]}
    return found | _probe_lists(model, tokenizer, 2 * count // 5)


def _probe_lists(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int) -> dict[str, float]:
    """Lists of four documents to be ordered; half as many for other lengths and forms."""
    found = _list_shares(model, tokenizer, Form.PERMUTATION, 4, count)
    for documents in (6, 10):
        more = _list_shares(model, tokenizer, Form.PERMUTATION, documents, count // 2)
        found |= {f"{name}_{documents}_documents": more[name] for name in ("list_format", "list_ndcg@10")}
    for form in (Form.PICK, Form.SCORES):
        found[f"list_best_answer_{form}"] = _list_shares(model, tokenizer, form, 4, count // 2)["list_best_answer"]
    return found


def _list_shares(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, form: Form, documents: int, count: int
) -> dict[str, float]:
    """Shares and means over ``count`` held-out lists, greedy, with r0's own system prompt; a failed answer is the given order."""
    tasks = [builtin_list_task(index, HELD_OUT_SEED, form, documents) for index in range(count)]
    hits: dict[str, list[float]] = {}
    for task, text in zip(tasks, complete(model, tokenizer, tasks, SYSTEM_PROMPTS[form], 48 + 24 * documents), strict=True):
        think, _, rest = text.removeprefix("<think>").partition("</think>")
        answer = rest.removeprefix("<answer>").removesuffix("</answer>")
        read = read_strict(answer, form, documents)
        claimed = claimed_grades(think, documents)
        follows = claimed is not None and answer == linked_answer(form, ListLabel(tuple(map(float, claimed)), task.label.given))
        values = {
            "list_format": text == f"<think>{think}</think><answer>{answer}</answer>" and read.answer is not None,
            "list_checks": sum(checks_right(task, think)) / documents,
            "list_answer_follows": follows,
            "list_best_answer": answer == linked_answer(form, task.label),
            "list_ndcg@10": ndcg(task.label.grades, read.ranking or groups_of_order(task.label.given), 10),
            "list_ndcg@10_given": ndcg(task.label.grades, groups_of_order(task.label.given), 10),
        }
        for name, value in values.items():
            hits.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in hits.items()}


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

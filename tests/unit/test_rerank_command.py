"""What rerank says and refuses before and after a model has worked: budgets, placement, the report."""

import json
import subprocess
import sys

import pytest

from r0.actors.placement import bundles
from r0.commands.rerank import report, run
from r0.config import RankingKeys, RaySection, RerankConfig, RolloutSection
from r0.errors import UserError
from r0.records import Form
from r0.rerank.methods import concurrent_questions
from r0.rerank.prompt_budget import ANSWER_PREFIX_TOKENS, prompt_budget
from r0.rerank.session import Session
from r0.rerank.store import Totals


def folder(path, **config):
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_the_prompt_budget_follows_the_model_unless_given(tmp_path):
    assert prompt_budget(RankingKeys(), folder(tmp_path)) == 8192  # the model does not say
    assert prompt_budget(RankingKeys(), folder(tmp_path, max_position_embeddings=131072)) == 8192
    assert prompt_budget(RankingKeys(), folder(tmp_path, max_position_embeddings=4096)) == 4096 - 1024 - ANSWER_PREFIX_TOKENS
    assert prompt_budget(RankingKeys(max_prompt_tokens=20000), folder(tmp_path, max_position_embeddings=32768)) == 20000


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"max_prompt_tokens": 3041}, "lower max_prompt_tokens to at most 3040"),
        ({"max_new_tokens": 4096}, "max_new_tokens=4096 leaves no room for a prompt in the 4096 positions"),
    ],
)
def test_budgets_beyond_the_models_positions_are_refused(tmp_path, keys, words):
    with pytest.raises(UserError, match=words):
        prompt_budget(RankingKeys(**keys), folder(tmp_path, max_position_embeddings=4096))


def test_each_method_has_its_answer_form():
    forms = {method: RankingKeys(method=method).form for method in ("pointwise", "listwise", "setwise", "groupwise")}
    assert list(forms.values()) == [Form.YES_NO, Form.PERMUTATION, Form.PICK, Form.SCORES]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"window": 10, "step": 10}, "is not below window=10"),
        ({"method": "pointwise", "samples": 2}, "nothing to shuffle"),
        ({"rollout": RolloutSection(workers=2), "ray": RaySection(inline=True)}, "set rollout.workers=1"),
        ({"set_size": 1}, "set_size"),
        ({"fusion_weight": 1.5}, "fusion_weight"),
    ],
)
def test_keys_that_make_no_sense_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        RankingKeys(**keys)


def test_one_bundle_a_worker():
    keys = RankingKeys(rollout=RolloutSection(workers=3, cpus=2.0, tensor_parallel_size=2))
    assert [(one.role, one.cpus, one.gpus) for one in bundles(keys, has_gpus=True)] == [("rollout", 2.0, 2.0)] * 3
    assert [one.gpus for one in bundles(keys, has_gpus=False)] == [0.0] * 3


def test_wide_methods_hold_fewer_queries():
    methods = ("listwise", "setwise", "groupwise", "pointwise")
    assert [concurrent_questions(RankingKeys(method=method), 100) for method in methods] == [1, 6, 5, 100]
    assert concurrent_questions(RankingKeys(samples=8), 100) == 8


def test_the_report_has_a_table_of_failures_and_what_a_query_took():
    totals = Totals()
    row = {"documents": ["a", "b"], "asks": 4, "failed": 2, "failures": {"no_answer": 1, "cut": 2}, "refused": ""}
    for _ in range(2):
        totals.add({**row, "prompt_tokens": 1000, "new_tokens": 50, "seconds": 2.0})
    lines = report(totals, Session(jobs=1, seconds=3.0)).splitlines()
    assert lines == [
        "2 queries, 4 candidates, 8 answers",
        "tokens a query: 1,000 read, 50 written",
        "seconds a query: 3.00 (1 in 0:03, many at one time)",
        "answers that could not be read as they should: 4 of 8 (50.0%)",
        "  cut              4   50.0%",
        "  no_answer        2   25.0%",
    ]
    totals.add({**row, "refused": "query q: too long", "prompt_tokens": 0, "new_tokens": 0, "seconds": 0.0})
    assert report(totals, Session()).splitlines()[-1] == "  query q: too long"
    assert "0.0%" in report(Totals(), Session())


@pytest.mark.parametrize(
    ("document", "tag", "words"),
    [
        ("d\t1", "r0", r"requests.jsonl: the id .* is not allowed in a TREC run"),
        ("d1", "two words", "tag: .* is not allowed in a run's last column"),
    ],
)
def test_what_no_run_can_hold_is_refused_before_a_model_works(tmp_path, document, tag, words):
    candidates = [{"docid": name, "score": 1.0, "doc": {"contents": "text"}} for name in (document, "d2")]
    request = {"query": {"text": "query", "qid": "q"}, "candidates": candidates}
    (tmp_path / "requests.jsonl").write_text(json.dumps(request) + "\n")
    config = RerankConfig(model="r0-tiny", data=str(tmp_path / "requests.jsonl"), output=str(tmp_path / "run"), tag=tag)
    with pytest.raises(UserError, match=words):
        run(config, dry_run=False)
    assert not (tmp_path / "run").exists()


def test_the_methods_can_be_imported_without_engines_and_tokenizers():
    code = (
        "import sys, r0.rerank, r0.rerank.listwise; heavy = {'torch', 'vllm', 'ray', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy; from r0.rerank import Reranker; assert Reranker.__name__ == 'Reranker'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Metrics of a batch of lists, against values computed by hand and scipy; probes of the built-in lists."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from r0.config import StageBConfig
from r0.data.builtin.lists import builtin_list_task
from r0.data.source import open_source
from r0.ranking import ideal_groups
from r0.records import Finish, Form, ListLabel, ListwiseTask, Prompt, Rollout, Sampled, Scored, Verdict, Violation
from r0.runs.metrics import paired_p, rollout_metrics
from r0.runs.probes import probes
from r0.sampling import grouped

MUSIQUE = Path(__file__).parents[2].parent / "shared" / "data" / "musique100"
# Grades 0, 2, 1 in the given order: DCG = 2 / log2(3) + 1 / log2(4), at best 2 + 1 / log2(3).
BEST = 2 + 1 / math.log2(3)
GIVEN = (2 / math.log2(3) + 0.5) / BEST
NEAR = (1 + 2 / math.log2(3)) / BEST  # the two relevant documents the wrong way round


def scored(group, sample=0, ranking=None, violations=(), form=Form.PERMUTATION, grades=(0.0, 2.0, 1.0), total=1.0) -> Scored:
    task = ListwiseTask(group, "q", ("a", "b", "c"), ListLabel(grades, (0, 1, 2)), form)
    answer = None if ranking is None else "…"
    verdict = Verdict(answer, 5, True, frozenset(violations), ranking)
    sampled = Sampled((7, 8), (-0.1, -0.2), Finish.STOP, 4)
    return Scored(Rollout(task, group, sample, Prompt((1, 2, 3)), sampled), "…", verdict, {"ndcg": total}, total)


RIGHT, SWAPPED, SHOWN = ((1,), (2,), (0,)), ((2,), (1,), (0,)), ((0,), (1,), (2,))


def test_figures_of_lists_are_what_a_person_would_count():
    batch = [
        scored(0, 0, RIGHT),
        scored(0, 1, SWAPPED, [Violation.EXTRA_TEXT]),
        scored(1, 0, None, [Violation.MISSING_ID, Violation.EXTRA_TEXT]),
        scored(2, 0, RIGHT, grades=(1.0, 0.0, 0.0)),  # the given order was better: 1, and now 1 / log2(4)
    ]
    metrics = rollout_metrics(grouped(batch))
    assert metrics["ndcg@10"] == pytest.approx((1 + NEAR + GIVEN + 0.5) / 4)
    assert metrics["ndcg@10_answered"] == pytest.approx((1 + NEAR + 0.5) / 3)
    assert metrics["ndcg@10_well_formed"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["ndcg@10_given"] == pytest.approx((3 * GIVEN + 1) / 4)
    assert metrics["ndcg@10_given_well_formed"] == pytest.approx((GIVEN + 1) / 2)
    assert metrics["ndcg@10_gain"] == pytest.approx(metrics["ndcg@10"] - metrics["ndcg@10_given"])
    found, given = [(1 + NEAR) / 2, GIVEN, 0.5], [GIVEN, GIVEN, 1.0]
    assert metrics["ndcg@10_gain_p"] == pytest.approx(ttest_rel(found, given).pvalue)
    assert metrics["format_rate"] == 0.75
    assert metrics["well_formed_rate"] == 0.5
    assert metrics["violation/extra_text"] == 0.5
    assert metrics["violation/missing_id"] == 0.25
    assert metrics["reward/ndcg"] == metrics["reward"] == 1.0
    assert not [name for name in metrics if "accuracy" in name or name == "yes_share"]


def test_a_tie_is_worth_its_mean_and_a_pick_leaves_the_others_in_the_given_order():
    tied = rollout_metrics(grouped([scored(0, ranking=((1, 2), (0,)))]))["ndcg@10"]
    assert tied == pytest.approx((1 + NEAR) / 2)
    picked = rollout_metrics(grouped([scored(0, ranking=((2,),), form=Form.PICK)]))["ndcg@10"]
    assert picked == pytest.approx((1 + 2 / math.log2(4)) / BEST)  # 2, then 0, then 1


def test_a_batch_without_answers_is_the_given_order():
    metrics = rollout_metrics(grouped([scored(group, violations=[Violation.NO_ANSWER]) for group in range(3)]))
    assert metrics["ndcg@10"] == metrics["ndcg@10_given"] == pytest.approx(GIVEN)
    assert (metrics["ndcg@10_gain"], metrics["ndcg@10_gain_p"]) == (0.0, 1.0)
    assert math.isnan(metrics["ndcg@10_answered"])
    assert math.isnan(metrics["ndcg@10_well_formed"])
    assert math.isnan(metrics["ndcg@10_given_well_formed"])


def test_a_list_without_a_relevant_document_is_worth_nothing():
    assert rollout_metrics(grouped([scored(0, ranking=SHOWN, grades=(0.0, 0.0, -1.0))]))["ndcg@10"] == 0.0


def test_the_paired_test_is_scipys():
    differences = [0.1, -0.05, 0.2, 0.0, 0.07, 0.3]
    assert paired_p(differences) == pytest.approx(ttest_rel(differences, [0.0] * 6).pvalue, rel=1e-12)
    assert math.isnan(paired_p([0.3]))
    assert paired_p([0.25, 0.25]) == 0.0
    assert paired_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("form", [Form.PERMUTATION, Form.PICK, Form.SCORES])
def test_probes_of_the_built_in_lists_tell_lookup_from_verdict(form):
    task = builtin_list_task(3, 7, form, 6)
    best = ideal_groups(task.label.grades)
    ranking = best[:1] if form == Form.PICK else best

    def scored_with(think: str, ranking, violations=()) -> Scored:
        verdict = Verdict(None if ranking is None else "…", 5, True, frozenset(violations), ranking)
        rollout = Rollout(task, 0, 0, Prompt((1,)), Sampled((7,), (-0.1,), Finish.STOP, 0))
        return Scored(rollout, f"<think>{think}</think><answer>…</answer>", verdict, {}, 0.0)

    honest = scored_with(task.think, ranking)
    assert probes(grouped([honest])) == {"probe/format": 1.0, "probe/lookup": 1.0, "probe/verdict": 1.0}
    worst = (best[-1],) if form == Form.PICK else best[::-1]
    assert probes(grouped([honest, scored_with(task.think, worst)]))["probe/verdict"] == 0.5
    first, _, rest = task.think.partition(" [2] ")
    silent = probes(grouped([scored_with(f"[2] {rest}", None, [Violation.NO_ANSWER])]))
    assert silent == {"probe/format": 0.0, "probe/lookup": pytest.approx(5 / 6)}
    assert first.startswith("[1] ")


def test_other_lists_have_no_probes():
    assert probes(grouped([scored(0, ranking=RIGHT)])) == {}


def test_the_given_order_of_musique_is_what_evaluation_says():
    if not MUSIQUE.is_dir():
        pytest.skip("musique100 is not beside the project")
    keys = StageBConfig(data=str(MUSIQUE), run=str(MUSIQUE / "given_order.trec"), heldout_share=0.0)
    verdict = Verdict(None, 0, False, frozenset([Violation.NO_ANSWER]))
    sampled = Sampled((7,), (-0.1,), Finish.STOP, 0)
    tasks = list(open_source(keys, seed=5).tasks())
    batch = [Scored(Rollout(task, group, 0, Prompt((1,)), sampled), "", verdict, {}, 0.0) for group, task in enumerate(tasks)]
    assert len(batch) == 100
    assert rollout_metrics(grouped(batch))["ndcg@10"] == pytest.approx(0.3148, abs=1e-3)

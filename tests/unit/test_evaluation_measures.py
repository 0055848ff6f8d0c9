"""Measures against pytrec_eval and against implementations of their definitions; significance tests against known values."""

import math
import random

import numpy as np
import pytest
import pytrec_eval
from scipy import stats

from r0.errors import UserError
from r0.evaluation.measure_names import read_measures
from r0.evaluation.measures import EXPONENTIAL, MEASURES, measure
from r0.evaluation.significance import p_value

CUTOFFS = (1, 5, 10)
KEYS = {
    **{f"nDCG@{cutoff}": f"ndcg_cut_{cutoff}" for cutoff in CUTOFFS},
    **{f"Hit@{cutoff}": f"success_{cutoff}" for cutoff in CUTOFFS},
    **{f"Recall@{cutoff}": f"recall_{cutoff}" for cutoff in (10, 100)},
    "MAP": "map",
    "MRR@10": "recip_rank",
}


def plain(run, grades, exponential=False):
    """Every measure of one query by its definition, in trec_eval's order."""
    order = sorted(run, key=lambda document: (np.float32(run[document]), document.encode()), reverse=True)
    relevant = {document for document, grade in grades.items() if grade > 0}
    found = [document in relevant for document in order]

    def gain(grade, exponential):
        return 0.0 if grade <= 0 else float(2**grade - 1 if exponential else grade)

    def ndcg(cutoff, exponential=False):
        def dcg(listed):
            return sum(gain(grade, exponential) / math.log2(rank + 2) for rank, grade in enumerate(listed[:cutoff]))

        best = dcg(sorted(grades.values(), reverse=True))
        return dcg([grades.get(document, 0) for document in order]) / best if best else 0.0

    first = found.index(True) + 1 if True in found else math.inf
    hits = 0
    precisions = []
    for rank, is_relevant in enumerate(found, 1):
        hits += is_relevant
        precisions += [hits / rank] if is_relevant else []
    values = {f"nDCG@{cutoff}": ndcg(cutoff) for cutoff in CUTOFFS}
    values |= {f"Hit@{cutoff}": float(any(found[:cutoff])) for cutoff in CUTOFFS}
    values |= {f"Recall@{cutoff}": sum(found[:cutoff]) / max(1, len(relevant)) for cutoff in (10, 100)}
    values["MAP"] = sum(precisions) / max(1, len(relevant))
    values["MRR@10"] = 1 / first if first <= 10 else 0.0
    values["judged@10"] = sum(document in grades for document in order[:10]) / min(10, len(order))
    if exponential:
        values |= {f"nDCG_exp@{cutoff}": ndcg(cutoff, exponential=True) for cutoff in CUTOFFS}
    return values


def random_case(seed):
    """A run and judgements with ties (in double and in single precision), documents of one missing in the other, odd ids."""
    draw = random.Random(seed)
    ids = [f"{prefix}{number}" for prefix in ("d", "é/", "it's ", "Z") for number in range(40)]
    grades = {"elsewhere": {"d0": 1}}
    run = {"unjudged": {"d0": 1.0}}
    for query in ("q1", "q/2", "3'"):
        judged = draw.sample(ids, draw.randint(1, 60))
        grades[query] = {document: draw.choice([-1, 0, 0, 1, 2, 3]) for document in judged}
        scores = draw.choice([[0.0], [1.0, 2.0], [1.0, 1.0 + 1e-9, 1.0 + 1e-5], None])
        listed = draw.sample(ids, draw.randint(1, 150))
        run[query] = {document: draw.gauss(0, 1) if scores is None else draw.choice(scores) for document in listed}
    return run, grades


def test_a_thousand_random_runs_equal_pytrec_eval_and_the_definitions_to_1e_9():
    keys = {"ndcg_cut_1,5,10", "map", "recip_rank", "recall_10,100", "success_1,5,10"}
    for seed in range(1_000):
        run, grades = random_case(seed)
        found = measure(run, grades, (*MEASURES, *EXPONENTIAL))
        theirs = pytrec_eval.RelevanceEvaluator(grades, keys).evaluate(run)
        assert found.missing == {"elsewhere"}
        assert found.unjudged == 1
        for at, query in enumerate(found.query_ids):
            mine = {name: values_Q[at] for name, values_Q in found.values.items()}
            if query == "elsewhere":
                assert set(mine.values()) == {0.0}
                continue
            for name, key in KEYS.items():
                expected = theirs[query][key]
                if name == "MRR@10" and expected < 0.1:
                    expected = 0.0
                assert mine[name] == pytest.approx(expected, abs=1e-9), (seed, query, name)
            assert mine == pytest.approx(plain(run[query], grades[query], exponential=True), abs=1e-9), (seed, query)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_chosen_measures_equal_pytrec_eval_at_any_relevance_level(level):
    keys = {
        "nDCG@20": "ndcg_cut_20",
        "nDCG": "ndcg",
        "P@5": "P_5",
        "R@1000": "recall_1000",
        "AP": "map",
        "AP@7": "map_cut_7",
        "RR": "recip_rank",
        "Success@3": "success_3",
        "Rprec": "Rprec",
        "Bpref": "bpref",
    }
    measures = read_measures([*keys, "AP(rel=2)", "P(rel=3)@5", "Judged@4"])
    for seed in range(40):
        run, grades = random_case(seed)
        judged = {query: {name: grade for name, grade in of.items() if grade >= 0} for query, of in grades.items()}
        found = measure(run, grades, measures, relevance_level=level)
        assert list(found.values) == [*keys, "AP(rel=2)", "P(rel=3)@5", "Judged@4"]
        theirs = pytrec_eval.RelevanceEvaluator(judged, set(keys.values()), relevance_level=level).evaluate(run)
        fixed = {rel: pytrec_eval.RelevanceEvaluator(judged, {"map", "P_5"}, relevance_level=rel).evaluate(run) for rel in (2, 3)}
        for at, query in enumerate(found.query_ids):
            if query in theirs:
                for name, key in keys.items():
                    assert found.values[name][at] == pytest.approx(theirs[query][key], abs=1e-9), (seed, query, name)
                assert found.values["AP(rel=2)"][at] == pytest.approx(fixed[2][query]["map"], abs=1e-9)
                assert found.values["P(rel=3)@5"][at] == pytest.approx(fixed[3][query]["P_5"], abs=1e-9)


def test_a_measure_has_the_names_of_ir_measures_of_trec_eval_and_of_papers():
    same = [
        ("nDCG@10", "ndcg@10", "NDCG@10", "ndcg_cut_10", "ndcg_cut.10"),
        ("AP", "MAP", "map", "ap"),
        ("AP@100", "MAP@100", "map_cut_100"),
        ("RR@10", "MRR@10", "mrr@10"),
        ("RR", "recip_rank"),
        ("R@1000", "Recall@1000", "recall_1000"),
        ("P@5", "P_5", "precision@5"),
        ("Success@1", "Hit@1", "success_1"),
        ("Judged@10", "judged@10"),
    ]
    for names in same:
        assert len({measure[1:] for name in names for measure in read_measures([name])}) == 1, names
    assert [measure.name for measure in read_measures(["ndcg@10", "map", "nDCG@10", " P@05 "])] == ["nDCG@10", "MAP", "P@5"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NDGC@20", "measures: there is no NDGC@20; did you mean nDCG@20?"),
        ("Recal@5", "measures: there is no Recal@5; did you mean Recall@5?"),
        ("Rpre", "measures: there is no Rpre; did you mean Rprec?"),
        ("nDCG@ten", "measures: there is no nDCG@ten; did you mean nDCG?"),
        ("ERR@x!", "measures: there is no ERR@x!; did you mean RR?"),
        ("zzz", "measures: there is no zzz; measures: nDCG@10, nDCG_exp@10, AP@10"),
        ("P", "measures: P needs a cutoff; write P@10"),
        ("Rprec@5", "measures: Rprec has no cutoff; write Rprec instead of Rprec@5"),
        ("P@0", "measures: P@0 counts no document; the lowest cutoff is P@1"),
        ("nDCG(rel=2)@5", "measures: nDCG needs no lowest relevant grade; remove the parentheses from nDCG(rel=2)@5"),
        ("AP(rel=0)", "the lowest level is 1"),
        ("", "measures: there is no ; measures: nDCG@10"),
    ],
)
def test_an_unknown_measure_is_refused_with_the_nearest_name(name, message):
    with pytest.raises(UserError) as error:
        read_measures([name])
    assert message in str(error.value)


def test_ties_are_broken_by_document_id_last_first_and_scores_count_in_single_precision():
    grades = {"q": {"a": 1}}
    assert measure({"q": {"a": 1.0, "b": 1.0}}, grades).mean("Hit@1") == 0.0
    assert measure({"q": {"a": 1.0, "A": 1.0}}, grades).mean("Hit@1") == 1.0
    assert measure({"q": {"a": 1.0 + 1e-12, "b": 1.0}}, grades).mean("Hit@1") == 0.0
    assert measure({"q": {"a": 1.0 + 1e-6, "b": 1.0}}, grades).mean("Hit@1") == 1.0


def test_mrr_stops_at_rank_ten():
    grades = {"q": {"x": 1}}
    for rank, expected in ((10, 0.1), (11, 0.0)):
        run = {"q": {("x" if at == rank else f"d{at}"): -float(at) for at in range(1, 15)}}
        assert measure(run, grades).mean("MRR@10") == expected


def test_a_judged_query_that_the_run_lacks_counts_zero():
    found = measure({"q1": {"a": 1.0}, "other": {"a": 1.0}}, {"q1": {"a": 1}, "q2": {"a": 1}})
    assert found.mean("nDCG@10") == 0.5
    assert found.missing == {"q2"}
    assert found.unjudged == 1


def test_judged_is_the_share_of_what_is_shown_and_a_grade_of_zero_is_a_judgement():
    grades = {"q": {"a": 0, "b": -1, "c": 2}}
    assert measure({"q": {"a": 3.0, "b": 2.0, "x": 1.0, "y": 0.5}}, grades).mean("judged@10") == 0.5
    long = {f"x{at}": float(at) for at in range(100, 120)} | {"a": 500.0, "c": 1.0}
    assert measure({"q": long}, grades).mean("judged@10") == pytest.approx(0.1)


def test_queries_without_relevant_documents_or_without_candidates_count_zero():
    found = measure({"q1": {"a": 1.0}, "q2": {}}, {"q1": {"a": 0}, "q2": {"a": 1}})
    assert all(found.mean(name) == 0.0 for name in KEYS)
    assert found.mean("judged@10") == 0.5
    assert not found.missing


def test_exponential_gain_has_its_own_columns_and_the_plain_one_stays_linear():
    found = measure({"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1, "b": 3}}, (*MEASURES, *EXPONENTIAL))
    discount = 1 / math.log2(3)
    assert found.mean("nDCG@10") == pytest.approx((1 + 3 * discount) / (3 + discount))
    assert found.mean("nDCG_exp@10") == pytest.approx((1 + 7 * discount) / (7 + discount))
    assert "nDCG_exp@10" not in measure({"q": {"a": 1.0}}, {"q": {"a": 1}}).values


def test_no_common_query_and_grades_that_are_not_grades_are_refused():
    with pytest.raises(UserError, match="none of the run's 1 queries is among the 1 judged ones"):
        measure({"q": {"a": 1.0}}, {"p": {"a": 1}})
    with pytest.raises(UserError, match="1 judged ones; their ids differ in case only: write them alike"):
        measure({"Q": {"a": 1.0}}, {"q": {"a": 1}})
    with pytest.raises(UserError, match='query "q", document "a": the grade 1000000000 is above'):
        measure({"q": {"a": 1.0}}, {"q": {"a": 10**9}})
    with pytest.raises(UserError, match="with exponential_gain the grade 40"):
        measure({"q": {"a": 1.0}}, {"q": {"a": 40}}, (*MEASURES, *EXPONENTIAL))
    with pytest.raises(UserError, match="exponential_gain: some grades are not whole numbers"):
        measure({"q": {"a": 1.0}}, {"q": {"a": 0.5}}, (*MEASURES, *EXPONENTIAL))
    with pytest.raises(UserError, match=r'query "q", document "a": the grade 0\.123456 has too many decimals'):
        measure({"q": {"a": 1.0}}, {"q": {"a": 0.123456}})


def test_grades_with_decimals_have_their_own_gain_and_are_relevant_from_1():
    found = measure({"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}, {"q": {"a": 0.01, "b": 0.1, "c": 1, "d": -0.5}})
    gains, best = (0.01, 0.1, 1.0), (1.0, 0.1, 0.01)
    dcg, ideal = (sum(gain / math.log2(rank + 1) for rank, gain in enumerate(of, 1)) for of in (gains, best))
    assert found.mean("nDCG@10") == pytest.approx(dcg / ideal)
    assert (found.mean("MRR@10"), found.mean("Hit@1"), found.mean("Recall@10")) == (pytest.approx(1 / 3), 0.0, 1.0)


def test_the_t_test_is_the_paired_two_sided_one():
    draw = np.random.default_rng(7)
    values_Q, others_Q = draw.random(50), draw.random(50)
    expected = stats.ttest_rel(values_Q, others_Q).pvalue
    assert p_value(values_Q, others_Q, "t") == pytest.approx(expected, rel=1e-9)
    assert p_value(others_Q, values_Q, "t") == pytest.approx(expected, rel=1e-9)


def test_the_permutation_test_is_exact_for_few_queries():
    values_Q = np.array([0.5, 0.4, 0.9, 0.7])
    assert p_value(values_Q, np.zeros(4), "permutation") == pytest.approx(2 / 16)


def test_both_tests_agree_and_repeat():
    draw = np.random.default_rng(3)
    others_Q = draw.random(200)
    values_Q = others_Q + draw.normal(0.015, 0.1, 200)
    found = [p_value(values_Q, others_Q, "permutation") for _ in range(2)]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(p_value(values_Q, others_Q, "t"), abs=0.01)


@pytest.mark.parametrize("test", ["t", "permutation"])
def test_runs_that_do_not_differ_are_not_significant_and_one_query_has_no_test(test):
    values_Q = np.array([0.1, 0.5, 0.9])
    assert p_value(values_Q, values_Q.copy(), test) == 1.0
    assert p_value(values_Q[:1], values_Q[1:2], test) is None


def test_the_same_difference_everywhere_is_significant_without_a_warning(recwarn):
    values_Q = np.linspace(0, 0.5, 30)
    assert p_value(values_Q + 0.1, values_Q, "t") == 0.0
    assert not recwarn.list

"""Published ranking rewards as weights of stage B's components: what a preset sets, and how it differs from its source.

For every preset:

* The verdict is r0's own: each tag exactly once and in order, one whole answer of the asked form, ids compared as numbers of the
  list. So an answer that repeats, omits or invents ids is never ranked, and ``[0]`` is no document.
* nDCG has linear gains. Ties are worth what their documents are worth on average.
* Text behind the answer costs ``extra_text_penalty`` (r0's own value), which none of the sources ask for.
* Penalties are such that a worse answer never pays: broken tags are worth at most what an answer of the wrong form is, and that
  at most what the worst ranking is.

``reasonrank``
    ReasonRank (Liu et al. 2025, arXiv 2508.07050), ``answer=permutation``. nDCG@10 + 0.2 · Recall@10 + 0.1 · RBO; 0 where the
    answer is no permutation, −1 without the tags. Differences: its code compares how many ids there are, so that a foreign id
    can stand for a missing one, and reads ``[0]`` as the last document; its overlap has p = 1, which is not rank-biased. Here
    p = 0.9, with the order of the grades, as a share of the largest overlap that an order can have with it.
``rearank``
    REARANK (Zhang et al. 2025, arXiv 2505.20046), ``answer=permutation``. 0.8 · r + 0.1 for the tags + 0.1 for the form of the
    answer, where r is the nDCG@10 gained over the given order as a share of what there was to gain. Differences: r has a floor
    of −1 (over a nearly ideal given order it would be boundless), and is nDCG − 1 where the given order is ideal; broken tags
    are −1 in all and an invalid answer −0.8, because at 0 both would be worth more than an order that loses.
``rank_r1``
    Rank-R1 (Zhuang et al. 2025, arXiv 2503.06034), ``answer=pick``. 1 where the tags hold and the answer is the number of the
    relevant document, else 0. Differences: each of several relevant documents counts; broken tags are −0.2, as much as
    text behind an answer costs.
``grouprank``
    GroupRank (Sun et al. 2025, arXiv 2511.11653), ``answer=scores``. nDCG@10 + 0.2 · Recall@10 + 0.1 · (1 − JS); −0.1 for tags
    without valid scores, −0.5 otherwise. Differences: scores are JSON with every document once; distributions are made by
    dividing by the sum (how the source makes them is not published).
``tfrank``
    TFRank (Fan et al. 2025, arXiv 2508.09539), the reward of its lists, ``answer=permutation``. (exact + r) / 2, where r is the
    relative gain of nDCG, and 1 for a thought of 256 to 4,096 characters (64 to 1,024 tokens here). Differences: linear instead
    of exponential gains, nDCG@10 instead of the whole list; its code takes every order without ties for exact, and lets repeated
    ids collect their gains again: here exact means that no document stands behind one of a lower grade. r has a floor of −1
    instead of −5; invalid answers are −0.5 and broken tags −0.7 instead of 0, which an order that loses could not reach.
"""

from __future__ import annotations

# What no source has: penalties of length and of the token limit; nDCG and the format's weights, where they are not its own.
_NONE = {
    "tag_weight": 0.0,
    "answer_weight": 0.0,
    "ndcg_weight": 0.0,
    "length_penalty": 0.0,
    "missing_eos_penalty": 0.0,
}

PRESETS: dict[str, dict[str, float]] = {
    "reasonrank": {
        **_NONE,
        "ndcg_weight": 1.0,
        "recall_weight": 0.2,
        "rbo_weight": 0.1,
        "rbo_p": 0.9,
        "invalid_tag_penalty": 1.0,
        "invalid_answer_penalty": 0.0,
    },
    "rearank": {
        **_NONE,
        "tag_weight": 0.1,
        "answer_weight": 0.1,
        "ndcg_gain_weight": 0.8,
        "invalid_tag_penalty": 1.0,
        "invalid_answer_penalty": 0.9,
    },
    "rank_r1": {
        **_NONE,
        "pick_weight": 1.0,
        "invalid_tag_penalty": 0.2,
        "invalid_answer_penalty": 0.0,
    },
    "grouprank": {
        **_NONE,
        "ndcg_weight": 1.0,
        "recall_weight": 0.2,
        "js_weight": 0.1,
        "invalid_tag_penalty": 0.5,
        "invalid_answer_penalty": 0.1,
    },
    "tfrank": {
        **_NONE,
        "ndcg_gain_weight": 0.5,
        "exact_weight": 0.5,
        "think_bonus": 1.0,
        "min_think_tokens": 64,
        "max_think_tokens": 1024,
        "invalid_tag_penalty": 0.7,
        "invalid_answer_penalty": 0.5,
    },
}

"""Published ranking rewards, expressed as weights of stage B's components, and how each preset differs from its source.

All presets:

* The verdict is r0's: each tag exactly once and in order, one complete answer of the requested form, ids compared as numbers
  of the list. An answer that repeats, omits or invents ids is never ranked, and ``[0]`` is not a document.
* nDCG has linear gains. Ties are worth the mean over their orders.
* Text after the answer costs ``extra_text_penalty`` (r0's default), which none of the sources has.
* Penalties ensure that a worse answer never gets more: broken tags are worth at most as much as an answer of the wrong form,
  and that at most as much as the worst ranking.

``reasonrank``
    ReasonRank (Liu et al. 2025, arXiv 2508.07050), ``answer=permutation``. nDCG@10 + 0.2 · Recall@10 + 0.1 · RBO; 0 if the
    answer is not a permutation, −1 without the tags. Differences: its code compares the number of ids, so a foreign id
    can replace a missing one, and reads ``[0]`` as the last document; its overlap has p = 1, which is not rank-biased. Here
    p = 0.9, with the order of the grades, divided by the largest overlap that an order can have with it.
``rearank``
    REARANK (Zhang et al. 2025, arXiv 2505.20046), ``answer=permutation``. 0.8 · r + 0.1 for the tags + 0.1 for the form of the
    answer, where r is the gain in nDCG@10 over the first-stage order, divided by the possible gain. Differences: r has a floor
    of −1 (it would be unbounded for a nearly ideal first stage), and is nDCG − 1 if the first-stage order is ideal; broken tags
    give −1 in total and an invalid answer −0.8, because 0 would be more than an order that loses nDCG gets.
``rank_r1``
    Rank-R1 (Zhuang et al. 2025, arXiv 2503.06034), ``answer=pick``. 1 if the tags are correct and the answer is the number of
    the relevant document, otherwise 0. Differences: each of several relevant documents counts; broken tags give −0.2, which
    is the cost of text after an answer.
``grouprank``
    GroupRank (Sun et al. 2025, arXiv 2511.11653), ``answer=scores``. nDCG@10 + 0.2 · Recall@10 + 0.1 · (1 − JS); −0.1 for tags
    without valid scores, −0.5 otherwise. Differences: scores are JSON with each document once; scores are divided by their sum
    to give distributions (the source does not publish its method).
``tfrank``
    TFRank (Fan et al. 2025, arXiv 2508.09539), its reward of lists, ``answer=permutation``. (exact + r) / 2, where r is the
    relative gain in nDCG, and 1 for a thought of 256 to 4,096 characters (64 to 1,024 tokens here). Differences: linear instead
    of exponential gains, nDCG@10 instead of the whole list. Its code treats every order without ties as exact, and counts
    the gains of repeated ids again; here exact means that no document follows one of a lower grade. r has a floor of −1
    instead of −5; invalid answers give −0.5 and broken tags −0.7 instead of 0, which an order that loses nDCG could not reach.
"""

from __future__ import annotations

# Components that presets switch off unless they set them: format weights, nDCG, and the penalties of length and token limit.
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

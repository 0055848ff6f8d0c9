"""More training data by a rule: a sentence is taken out of a document, and is the query for what is left of it. This is the
inverse cloze task of Lee et al. (2019), "Latent Retrieval for Weakly Supervised Open Domain Question Answering"."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

from r0.storage.files import json_line, write_atomic

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"(])")
WORDS = range(6, 41)  # of a sentence that becomes a query
SHARE = 1 / 3  # of a document's sentences, at most


def write_questions(folder: Path, documents: Mapping[str, str], seed: int) -> None:
    """Write a BEIR folder (``mine`` finds its negatives): the documents without their sentences that became queries.

    Args:
        folder: is made.
        documents: texts by id.
        seed: of the choice of sentences.
    """
    draws = random.Random(seed)
    corpus, queries, judgements = [], [], ["query-id\tcorpus-id\tscore\n"]
    for document, text in documents.items():
        sentences = SENTENCE_END.split(text)
        # The first sentence stays: it names the subject.
        fit = [place for place in range(1, len(sentences)) if len(sentences[place].split()) in WORDS]
        taken = set(draws.sample(fit, min(len(fit), int(SHARE * len(sentences)))))
        for place in sorted(taken):
            queries.append(json_line({"_id": f"{document}~{place}", "text": sentences[place]}))
            judgements.append(f"{document}~{place}\t{document}\t1\n")
        left = " ".join(sentence for place, sentence in enumerate(sentences) if place not in taken)
        corpus.append(json_line({"_id": document, "title": "", "text": left}))
    (folder / "qrels").mkdir(parents=True)
    write_atomic(folder / "corpus.jsonl", corpus)
    write_atomic(folder / "queries.jsonl", queries)
    write_atomic(folder / "qrels" / "train.tsv", ["".join(judgements).encode()])

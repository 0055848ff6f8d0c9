"""More training data by a rule: a sentence is taken out of a document, and is the query for what is left of it. This is the
inverse cloze task of Lee et al. (2019), "Latent Retrieval for Weakly Supervised Open Domain Question Answering"."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from r0.storage.files import json_line, write_atomic

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"(])")
WORDS = range(6, 41)  # of a sentence that becomes a query
SHARE = 1 / 3  # of a document's sentences, at most


@dataclass(frozen=True)
class Questions:
    """Made questions by id, the id of the document that answers each, and the documents without the sentences that became
    questions."""

    queries: Mapping[str, str]
    answers: Mapping[str, str]
    documents: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Make ``folder``, a BEIR folder; ``mine`` finds its negatives."""
        judgements = [f"{query}\t{document}\t1\n" for query, document in self.answers.items()]
        (folder / "qrels").mkdir(parents=True)
        corpus = (json_line({"_id": name, "title": "", "text": text}) for name, text in self.documents.items())
        write_atomic(folder / "corpus.jsonl", corpus)
        write_atomic(folder / "queries.jsonl", (json_line({"_id": name, "text": text}) for name, text in self.queries.items()))
        write_atomic(folder / "qrels" / "train.tsv", ["".join(["query-id\tcorpus-id\tscore\n", *judgements]).encode()])


def make_questions(documents: Mapping[str, str], seed: int) -> Questions:
    """Questions of the documents (texts by id); ``seed`` is of the choice of sentences."""
    draws = random.Random(seed)
    queries, answers, left = {}, {}, {}
    for document, text in documents.items():
        sentences = SENTENCE_END.split(text)
        # The first sentence stays: it names the subject.
        fit = [place for place in range(1, len(sentences)) if len(sentences[place].split()) in WORDS]
        taken = set(draws.sample(fit, min(len(fit), int(SHARE * len(sentences)))))
        for place in sorted(taken):
            queries[f"{document}~{place}"], answers[f"{document}~{place}"] = sentences[place], document
        left[document] = " ".join(sentence for place, sentence in enumerate(sentences) if place not in taken)
    return Questions(queries, answers, left)

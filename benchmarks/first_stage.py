"""The first stage and its evaluation: nDCG@10 on musique100, and what BM25 over a large corpus costs.

    python benchmarks/first_stage.py [--documents 200000] [--data ../shared/data/musique100]

Runs `retrieve` over the whole corpus and over each query's own candidates, then `eval` beside the given order (left out where the
folder is not there). Then `retrieve` over a generated corpus (60 words a document, Zipf's law), with its seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from r0.launch import main as launch

WORDS_A_DOCUMENT = 60
QUERIES = 50
VOCABULARY = 500_000
_BATCH = 10_000


def figures(data: Path, folder: Path) -> None:
    given = data / "given_order.trec"
    launch(["retrieve", f"data={data}", f"output={folder / 'bm25_corpus.trec'}"])
    launch(["retrieve", f"data={data}", f"candidates={given}", f"output={folder / 'bm25_candidates.trec'}"])
    runs = f"runs={folder / 'bm25_corpus.trec'},{folder / 'bm25_candidates.trec'}"
    launch(["eval", f"qrels={data / 'qrels' / 'test.tsv'}", f"first_stage={given}", runs])


def generate(folder: Path, documents: int, seed: int) -> None:
    """A BEIR folder whose words follow Zipf's law."""
    draw = np.random.default_rng(seed)

    def texts(count: int, size: int) -> list[str]:
        words = np.minimum(draw.zipf(1.15, (count, size)), VOCABULARY)
        return [" ".join(f"w{word}" for word in row) for row in words.tolist()]

    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for start in range(0, documents, _BATCH):
            for at, text in enumerate(texts(min(_BATCH, documents - start), WORDS_A_DOCUMENT), start):
                file.write(json.dumps({"_id": f"d{at}", "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for at, text in enumerate(texts(QUERIES, 8)):
            file.write(json.dumps({"_id": f"q{at}", "text": text}) + "\n")


def large(folder: Path, documents: int, seed: int) -> None:
    generate(folder, documents, seed)
    before, start = _peak_mb(), time.perf_counter()
    launch(["retrieve", f"data={folder}", f"output={folder / 'bm25.trec'}"])
    seconds = time.perf_counter() - start
    size = (folder / "corpus.jsonl").stat().st_size / 1e6
    print(f"{documents:,} documents ({size:.0f} MB): {seconds:.1f} s, peak memory {_peak_mb():.0f} MB ({before:.0f} MB before)")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1].parent / "shared" / "data" / "musique100")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data.is_dir():
            figures(arguments.data, Path(folder))
        else:
            print(f"{arguments.data} is not there: no figures on musique100")
        large(Path(folder), arguments.documents, arguments.seed)


if __name__ == "__main__":
    main()

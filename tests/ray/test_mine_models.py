"""Mining with real models: sentence-transformers' own mining finds the same negatives; rerankers; finetune reads the files."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from r0.commands.mine import run
from r0.config import ConvertConfig, FinetuneConfig, MineConfig, RaySection, RolloutSection
from r0.data.builtin.convert import convert_builtin
from r0.errors import UserError
from r0.mining.collection import open_collection
from r0.mining.rescored import Rescored
from r0.rerank import Reranker
from r0.supervised.finetune import run as finetune
from tests.launching import record
from tests.tiny_encoder import tiny_bert

pytestmark = pytest.mark.ray

INLINE = RaySection(inline=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in lists as a BEIR folder; only the highest grade is relevant, one document a query or two."""
    path = tmp_path_factory.mktemp("data") / "beir"
    convert_builtin(ConvertConfig(input="builtin", output=str(path), rows=12, candidates=4))
    return path


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    path = tmp_path_factory.mktemp("models")
    transformer = Transformer(tiny_bert(path / "bert"))
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save_pretrained(str(path / "embedder"))
    return str(path / "embedder")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    from sentence_transformers import CrossEncoder

    path = tmp_path_factory.mktemp("scorer")
    CrossEncoder(tiny_bert(path / "bert"), num_labels=1, device="cpu").save_pretrained(str(path / "model"))
    return str(path / "model")


def config(folder: Path, output: Path, **changes: object) -> MineConfig:
    values: dict = {"data": str(folder), "qrels": "test", "output": str(output), "relevance_threshold": 2.0, "ray": INLINE}
    return MineConfig(**{**values, "ranks": ("1-20",), "negatives": 5, "sampling": "top", **changes})


def mined(settings: MineConfig) -> dict[str, list[dict]]:
    """The hits of each query of the first epoch."""
    assert run(settings, dry_run=False) == 0
    files = sorted((Path(str(settings.output)) / "data").glob("groups*.jsonl"))
    return {row["query"]: row["hits"] for row in map(json.loads, files[0].open())}


def content(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "data").iterdir()}


def test_a_dense_model_gives_what_sentence_transformers_own_mining_gives(folder: Path, embedder: str, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    settings = {"source": "dense", "model": embedder, "relative_margin": 0.001, "negatives": 6}
    found = mined(config(folder, tmp_path / "one", ranks=("1-40",), **settings))
    mined(config(folder, tmp_path / "two", ranks=("1-40",), **settings))
    assert content(tmp_path / "one") == content(tmp_path / "two")
    collection = open_collection(config(folder, tmp_path))
    single = [query for query in collection.queries if len(query.positives) == 1]
    texts = dict(collection.documents)
    pairs = [(query.text, texts[query.positives[0]]) for query in single]
    dataset = Dataset.from_dict({"query": [query for query, _ in pairs], "answer": [answer for _, answer in pairs]})
    theirs = mine_hard_negatives(
        dataset, SentenceTransformer(embedder, device="cpu"), corpus=sorted(texts.values()), range_max=39, relative_margin=0.001,
        num_negatives=6, output_format="n-tuple", verbose=False,
    )  # fmt: skip
    compared = 0
    for row in theirs:
        ours = [hit["content"] for hit in found[row["query"]] if not hit["label"]]
        assert ours == [row[f"negative_{number}"] for number in range(1, 7)]
        compared += 1
    assert compared >= 3


def test_a_reranker_orders_by_its_own_scores_and_an_interrupted_run_goes_on(
    folder: Path, scorer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import CrossEncoder

    settings = {"reranker": scorer, "depth": 20, "ranks": ("1-8",), "margin": 0.0}
    found = mined(config(folder, tmp_path / "whole", **settings))
    model = CrossEncoder(scorer, device="cpu")
    for query, hits in found.items():
        positives = [hit["content"] for hit in hits if hit["label"]]
        scores = dict(zip([h["content"] for h in hits], model.predict([(query, h["content"]) for h in hits]), strict=True))
        negatives = [scores[hit["content"]] for hit in hits if not hit["label"]]
        assert negatives == sorted(negatives, reverse=True)
        assert max(negatives) <= min(scores[text] for text in positives) + 1e-6
    mined(config(folder, tmp_path / "cut", **settings))
    (tmp_path / "cut" / "finished.json").unlink()
    lines = (tmp_path / "cut" / "queries.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut" / "queries.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:20])
    asked = []
    job = Reranker.job
    monkeypatch.setattr(Reranker, "job", lambda self, name, *rest, **keys: asked.append(name) or job(self, name, *rest, **keys))
    mined(config(folder, tmp_path / "cut", **settings))
    assert len(asked) == len(lines) - 5
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    (tmp_path / "cut" / "finished.json").unlink()
    changed = (tmp_path / "cut" / "queries.jsonl").read_text().replace('"given": "', '"given": "other')
    (tmp_path / "cut" / "queries.jsonl").write_text(changed)
    with pytest.raises(UserError, match=r"queries.jsonl:1: query q1 had other documents when it was scored; start over"):
        run(config(folder, tmp_path / "cut", **settings), dry_run=False)


def test_a_signal_leaves_no_files_and_the_same_command_goes_on(
    folder: Path, scorer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(folder, tmp_path / "out", reranker=scorer, depth=20, ranks=("1-8",))
    score = Rescored.score

    def asked(self: Rescored, stop: Callable[[], bool]) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return score(self, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Rescored, "score", asked)
        assert run(settings, dry_run=False) == 128 + signal.SIGTERM
    assert not (tmp_path / "out" / "data").exists()
    assert mined(settings)


def test_r0s_own_model_is_a_reranker_too(folder: Path, tmp_path: Path) -> None:
    run_of = {"source": "run", "run": str(folder / "given.trec"), "depth": 4, "ranks": ("1-4",), "negatives": 3}
    rollout = RolloutSection(engine="hf", dtype="fp32")
    found = mined(config(folder, tmp_path / "out", reranker="r0-tiny", thinking=False, rollout=rollout, **run_of))
    assert len(found) >= 10
    (figures,) = json.loads((tmp_path / "out" / "data" / "statistics.json").read_text())
    assert 0 <= figures["negative score, mean"] <= 1


def test_finetune_learns_from_harder_negatives_epoch_by_epoch(folder: Path, embedder: str, scorer: str, tmp_path: Path) -> None:
    epochs = ("15-30", "1-10")
    mined(config(folder, tmp_path / "mined", source="dense", model=embedder, ranks=epochs, sampling="random"))
    data = tmp_path / "mined" / "data"
    hard = [json.loads(line) for line in (data / "groups-2.jsonl").open()]
    for row in hard:  # a gap of 5 between the labels makes RankNet's loss five times as large: so it is seen which file was read
        row["hits"] = [{**hit, "label": 5 * hit["label"]} for hit in row["hits"]]
    (data / "groups-2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hard))
    settings = FinetuneConfig(
        model=scorer, data=str(data / "groups-{}.jsonl"), output=str(tmp_path / "run"), epochs=3.0, batch_size=4,
        train_group_size=8, learning_rate=1e-9, max_prompt_tokens=300, ray=INLINE,
    )  # fmt: skip
    finetune.run(settings)
    losses = [line["loss"] for line in record(tmp_path / "run") if "loss" in line]
    assert len(losses) % 3 == 0
    third = len(losses) // 3
    easy, late = losses[:third], losses[third:]
    assert min(late) > 2 * max(easy)

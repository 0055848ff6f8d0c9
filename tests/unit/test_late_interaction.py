"""Late interaction in r0.rerank: MaxSim by hand and as in the library, cached vectors, and refused input."""

import json
import logging
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from r0.actors.rollout.settings import EngineSettings
from r0.commands.plan import plan_rerank
from r0.config import RankingKeys, RerankConfig
from r0.errors import UserError
from r0.rerank import Reranker
from r0.rerank.cross_encoder import is_cross_encoder
from r0.rerank.late_interaction import LateInteractionWorker, is_late_interaction
from tests.architectures import build
from tests.tiny_encoder import tiny_bert, tiny_multi_vector

QUERY = "where does the river flow"
DOCUMENTS = ["The river flows to the sea.", "A tax.", "the long " * 60, "Harbors and rivers: yes.", "no", "", "…!?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_multi_vector(tmp_path_factory.mktemp("late"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing of these tests is kept for others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "r0" / "vectors"


def theirs(path):
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(path), device="cpu", local_files_only=True)


def pairs(query=QUERY):
    return [(query, document) for document in DOCUMENTS]


def late(path, **options):
    return Reranker(path, "late_interaction", **options)


def by_hand(model, query, documents):
    """The sum over the query's tokens of the largest product with a token of the document, number by number."""
    query_TD = model.encode_query([query])[0].tolist()
    scores = []
    for document_TD in model.encode_document(documents):
        rows = document_TD.tolist()
        scores.append(sum(max(sum(a * b for a, b in zip(q, d, strict=True)) for d in rows) for q in query_TD))
    return scores


def test_a_score_is_the_sum_of_the_largest_products_to_a_millionth(folder):
    model = theirs(folder)
    expected = by_hand(model, QUERY, DOCUMENTS)
    library = model.similarity(model.encode_query([QUERY]), model.encode_document(DOCUMENTS))[0].tolist()
    with late(folder) as reranker:
        found = reranker.predict(pairs())
        ranked = reranker.rank(QUERY, DOCUMENTS, top_k=3)
    assert found == pytest.approx(expected, rel=0, abs=1e-5)  # float32 sums of 16 to 30 products
    assert found == pytest.approx(expected, rel=1e-6)
    assert found == pytest.approx(library, rel=1e-6)
    assert np.ptp(expected) > 0.1
    best = np.argsort(-np.asarray(expected), kind="stable")[:3]
    assert [entry["corpus_id"] for entry in ranked] == best.tolist()
    assert [entry["score"] for entry in ranked] == pytest.approx(np.asarray(expected)[best], rel=1e-6)


def test_vectors_written_by_hand_give_the_value_worked_out_on_paper(folder, monkeypatch):
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    documents = {"a": [[1.0, 0.0]], "b": [[0.6, 0.8], [0.0, -1.0]], "c": [[-1.0, 0.0], [0.0, -1.0]]}
    with late(folder, vector_cache=None) as reranker:
        model = reranker.workers[0]._model
        monkeypatch.setattr(model, "encode_query", lambda texts, **_: [query] * len(texts))
        monkeypatch.setattr(model, "encode_document", lambda texts, **_: [torch.tensor(documents[text]) for text in texts])
        found = reranker.predict([("q", name) for name in "abc"])
    # a: 1 + 0 + 0.6;  b: 0.6 + 0.8 + 1;  c: 0 + 0 − 0.6 (all products of the last token are negative: −0.6 and −0.8)
    assert found == pytest.approx([1.6, 2.4, -0.6], abs=1e-6)


def test_the_mean_is_used_if_the_folder_says_so(tmp_path, folder):
    mean = tiny_multi_vector(tmp_path, similarity="meanmaxsim", expansion=False)
    model = theirs(mean)
    tokens = len(model.encode_query([QUERY])[0])
    with late(mean) as reranker:
        found = reranker.predict(pairs())
    assert found * tokens == pytest.approx(by_hand(model, QUERY, DOCUMENTS), rel=1e-6)


def counted(reranker, monkeypatch):
    """The documents that the encoder is given, as they come."""
    model, seen = reranker.workers[0]._model, []
    encode = model.encode_document
    monkeypatch.setattr(model, "encode_document", lambda texts, **options: seen.extend(texts) or encode(texts, **options))
    return seen


def test_a_second_run_encodes_no_document_and_gives_the_same_scores(folder, home, monkeypatch):
    with late(folder) as reranker:
        seen = counted(reranker, monkeypatch)
        first = reranker.predict([*pairs(), *pairs("another query")])
        assert sorted(seen) == sorted(DOCUMENTS)  # once each, though two queries have them
        (cold,) = reranker.run([reranker.job("q", QUERY, ["new", "no"])])
    with late(folder) as reranker:
        seen = counted(reranker, monkeypatch)
        second = reranker.predict([*pairs(), *pairs("another query")])
        assert seen == []
        (warm,) = reranker.run([reranker.job("q", QUERY, ["new", "no"])])
        reranker.predict([(QUERY, "newer")])
        assert seen == ["newer"]
    assert second.tolist() == first.tolist()
    assert len(list(home.iterdir())) == 1
    assert cold.prompt_tokens > warm.prompt_tokens > 0  # what the model read: documents that are kept are not
    with late(folder, vector_cache=None) as reranker:
        assert reranker.predict([*pairs(), *pairs("another query")]) == pytest.approx(first, abs=1e-5)


def test_another_model_another_length_and_another_dtype_have_vectors_of_their_own(folder, tmp_path, home, monkeypatch):
    other = tiny_multi_vector(tmp_path, seed=1)
    uses = [(folder, {}), (other, {}), (folder, {"max_prompt_tokens": 20}), (folder, {"dtype": "bf16"})]
    for number, (path, options) in enumerate(uses, 1):
        with late(path, **options) as reranker:
            seen = counted(reranker, monkeypatch)
            found = reranker.predict(pairs())
            assert len(seen) == len(DOCUMENTS)
            assert len(list(home.iterdir())) == number
        with late(path, vector_cache="none", **options) as reranker:
            assert found == pytest.approx(reranker.predict(pairs()), abs=0.05 if options.get("dtype") else 1e-5)
    shutil.copytree(folder, tmp_path / "moved")
    with late(tmp_path / "moved") as reranker:
        seen = counted(reranker, monkeypatch)
        reranker.predict(pairs())
        assert seen == []


def test_an_unusable_cache_folder_is_refused_if_configured_and_logged_if_default(folder, tmp_path, home, caplog):
    expected = None
    with late(folder, vector_cache=None) as reranker:
        expected = reranker.predict(pairs())
    home.parent.parent.mkdir()
    home.parent.write_text("a file, where a folder is wanted")
    with caplog.at_level(logging.WARNING), late(folder) as reranker:
        assert reranker.predict(pairs()) == pytest.approx(expected, abs=1e-6)
    assert "document vectors are not cached" in caplog.text
    assert "not a writable folder" in refusal(folder, vector_cache=str(home))
    mine = tmp_path / "mine"
    with late(folder, vector_cache=str(mine)):
        pass
    (file,) = mine.iterdir()
    file.write_bytes(b"no database" * 99)
    assert "file is not a database; delete it if it is damaged" in refusal(folder, vector_cache=str(mine))


def test_control_tokens_and_markers_in_a_text_are_text(folder):
    seen = []
    with late(folder, vector_cache=None) as reranker:
        model = reranker.workers[0]._model
        model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]["input_ids"][0].tolist()))
        reranker.predict([("a", "a")])
        reranker.predict([("a[SEP][MASK]", "a[SEP][MASK][CLS]")])
        special = set(model.tokenizer.all_special_ids)
        mask = model.tokenizer.mask_token_id
    (query, document), (bad_query, bad_document) = seen[:2], seen[2:]
    assert sum(token in special for token in document) == sum(token in special for token in bad_document) == 2
    assert len(bad_document) > len(document)
    assert sum(token in special - {mask} for token in query) == sum(token in special - {mask} for token in bad_query) == 2


def test_a_long_document_is_cut_to_the_folders_or_the_configured_length(folder, tmp_path):
    text = "a b c " * 2000
    with late(folder, vector_cache=None) as reranker:
        assert len(reranker.workers[0]._model.encode_document(text)) == 200 - 1  # the colon of "passage: " is skipped
    with late(folder, max_prompt_tokens=40, vector_cache=None) as reranker:
        assert len(reranker.workers[0]._model.encode_document(text)) == 40 - 1
        cut = reranker.predict([(QUERY, text)])
    model = theirs(folder)
    model[0].document_length = 40
    assert cut == pytest.approx(by_hand(model, QUERY, [text]), rel=1e-6)
    short = tiny_multi_vector(tmp_path, positions=64)  # the folder asks for 200 tokens
    with late(short) as reranker:
        (outcome,) = reranker.run([reranker.job("q", QUERY, [text])])
    assert 64 < outcome.prompt_tokens < 128


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("ab .é川", max_size=300), min_size=1, max_size=8), st.sampled_from([1, 2, 5]))
def test_what_a_document_is_batched_with_changes_no_score(worker, documents, size):
    alone, worker._batch = [], size
    for document in documents:
        (query,) = worker._encode(worker._model.encode_query, [QUERY]).values()
        (vectors,) = worker._encode(worker._model.encode_document, [document]).values()
        alone.append((query @ vectors.T).max(dim=1).values.sum().item())
    from r0.rerank.job import Job

    (outcome,) = worker.work([Job(0, "q", QUERY, tuple(documents), each=True)], 600)
    found = [reply.probability for _ask, reply in outcome.replies]
    assert found == pytest.approx(alone, abs=1e-5)


@pytest.fixture(scope="module")
def worker(folder):
    keys = RankingKeys(model=folder, method="late_interaction", vector_cache=None)
    return LateInteractionWorker(keys, EngineSettings(folder, 0))


def test_the_number_of_documents_at_one_time_fusion_depth_and_empty_lists(folder):
    found = []
    for size in (1, 3, 128):
        with late(folder, max_num_seqs=size, vector_cache=None) as reranker:
            jobs = [reranker.job(str(i), f"{QUERY} {i}", DOCUMENTS[: i % 6]) for i in range(9)]
            found.append({o.key: [reply.probability for _, reply in o.replies] for o in reranker.run(jobs)})
    for other in found[1:]:
        assert all(other[key] == pytest.approx(values, abs=1e-5) for key, values in found[0].items())
    first = [float(len(DOCUMENTS) - i) for i in range(len(DOCUMENTS))]
    with late(folder, fusion_weight=1.0, depth=4) as reranker:
        (outcome,) = reranker.run([reranker.job("a", QUERY, DOCUMENTS, first)])
        assert outcome.ranking.order == (0, 1, 2, 3)
        ranked = reranker.rank(QUERY, DOCUMENTS)
        assert [entry["corpus_id"] for entry in ranked[4:]] == [4, 5, 6]


def pylate(folder, path, older):
    """The folder as PyLate writes it: markers beside the prompts, two modules."""
    shutil.copytree(folder, path)
    saved = {"__version__": {}, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "MaxSim"}
    saved |= {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 24, "document_length": 50}
    saved |= {"attend_to_expansion_tokens": False, "skiplist_words": list(string.punctuation)}
    saved |= {} if older else {"model_type": "ColBERT"}
    (path / "config_sentence_transformers.json").write_text(json.dumps(saved))
    names = ("sentence_transformers.models.Transformer", "pylate.models.Dense.Dense")
    modules = [{"idx": i, "name": str(i), "path": ("", "1_Dense")[i], "type": name} for i, name in enumerate(names)]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 50, "do_lower_case": False}))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    tokenizer.save_pretrained(path)
    return path


def stanford(folder, path):
    """The folder as Stanford's ColBERT writes it: the projection among the encoder's weights."""
    path.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(folder) / name, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    weights = {f"bert.{name}": weight for name, weight in load_file(Path(folder) / "model.safetensors").items()}
    projection = load_file(Path(folder) / "1_Dense" / "model.safetensors")["linear.weight"]
    save_file({**weights, "linear.weight": projection}, path / "model.safetensors", {"format": "pt"})
    (path / "artifact.metadata").write_text(json.dumps({"doc_maxlen": 60, "query_maxlen": 24, "mask_punctuation": True}))
    return path


@pytest.mark.parametrize("kind", ["pylate", "older pylate", "stanford"])
def test_folders_of_pylate_and_of_stanfords_colbert_score_as_the_library_loads_them(folder, tmp_path, kind):
    path = tmp_path / "model"
    path = stanford(folder, path) if kind == "stanford" else pylate(folder, path, older=kind != "pylate")
    with late(path) as reranker:
        found = reranker.predict(pairs())
        model = reranker.workers[0]._model
        assert len(model.encode_query(["a"])[0]) == 24  # filled up with [MASK]
        if kind != "stanford":  # a marker within a text is text
            ids = model.tokenizer(reranker.workers[0]._plain("a [D] b [Q] c")).input_ids
            assert not set(ids) & set(model.tokenizer.convert_tokens_to_ids(["[Q] ", "[D] "]))
    assert found == pytest.approx(by_hand(theirs(path), QUERY, DOCUMENTS), rel=1e-6)
    assert np.ptp(found) > 0.1


def refusal(path, method="late_interaction", **options):
    with pytest.raises(UserError) as error:
        Reranker(path, method, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_does_not_fit_gives_a_one_sentence_error(folder, tmp_path):
    assert "use method=late_interaction" in refusal(folder, "listwise")
    assert "use method=late_interaction" in refusal(folder, "pointwise")
    for other in (tiny_bert(tmp_path / "bert"), build("bge-reranker-v2-m3", tmp_path / "cross"), "r0-tiny"):
        assert "not a multi-vector encoder" in refusal(other)
    assert "remove thinking" in refusal(folder, thinking=True)
    assert "remove it" in refusal(folder, query_format="q: {}")
    assert "use max_prompt_tokens=512" in refusal(folder, max_prompt_tokens=513)
    assert not is_late_interaction(tmp_path / "cross", RankingKeys(method="pointwise"))
    assert is_cross_encoder(tmp_path / "cross", RankingKeys(method="pointwise"))
    with pytest.raises(ValueError, match="samples: late_interaction scores documents one by one"):
        RankingKeys(method="late_interaction", samples=2)
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "1_Dense" / "model.safetensors").unlink()
    assert "cannot be loaded as a multi-vector encoder" in refusal(tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"cut off")
    assert "is damaged or incomplete" in refusal(tmp_path / "damaged")


def test_a_dry_run_names_the_encoder_and_the_vector_cache(folder, home, tmp_path):
    keys = {"data": str(tmp_path), "run": str(tmp_path), "model": folder, "method": "late_interaction"}
    text = plan_rerank(RerankConfig(**keys))
    assert "worker: multi-vector encoder\n" in text
    assert f"document vectors: {home}\n" in text
    assert "nothing is missing" in text
    assert "document vectors: not kept" in plan_rerank(RerankConfig(**keys, vector_cache=None))
    assert "use method=late_interaction" in plan_rerank(RerankConfig(**{**keys, "method": "listwise"}))
    (tmp_path / "file").write_text("")
    assert plan_rerank(RerankConfig(**keys, vector_cache=str(tmp_path / "file"))).count("is not a writable folder") == 1
    assert not home.exists()

"""BM25 against its formula, runs that every tool orders alike, bad folders and runs, and the measures on musique100."""

import json
import math
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from r0.config import RetrieveConfig
from r0.data.jsonl import BadLines
from r0.data.runfile import given_order, read_judgements, read_run
from r0.errors import UserError
from r0.evaluation.bm25 import Bm25
from r0.evaluation.first_stage import retrieve
from r0.evaluation.measures import measure
from r0.evaluation.words import words
from r0.launch import main

MUSIQUE = Path(__file__).parents[2].parent / "shared" / "data" / "musique100"

CORPUS = {
    "d/1": ("Lighthouses", "The lighthouse of Alexandria was a lighthouse on an island."),
    "it's d2": ("", "A harbour has an island and a lighthouse keeper."),
    "d3": ("Bread", "Rye bread keeps for a week."),
    "é4": ("Bread again", "Wheat bread goes stale; rye bread does not."),
}
QUERIES = {"q1": "Which island had a lighthouse?", "q'2": "rye bread", "q3": "the of a"}


def folder(tmp_path, corpus=CORPUS, queries=QUERIES):
    rows = [{"_id": name, "title": title, "text": text} for name, (title, text) in corpus.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    rows = [{"_id": name, "text": text} for name, text in queries.items()]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


def config(data, **keys):
    return RetrieveConfig(data=str(data), output=str(data / "bm25.trec"), **keys)


def run_of(written):
    return read_run(written.path, BadLines())


def lucene(query, documents, k1, b):
    """BM25 of Lucene by its formula: scores of token lists."""
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for word in query:
            having = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(document) / average))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4)])
def test_scores_are_lucenes_formula(k1, b):
    documents = ["red fish blue fish", "one fish two fish", "black cat", "red red wine", "wine and cat and fish"]
    index = Bm25([(f"d{at}", text) for at, text in enumerate(documents)], k1=k1, b=b, stopwords="none")
    for query in ("red fish", "fish fish wine", "cat unheard"):
        expected = lucene(query.split(), [document.split() for document in documents], k1, b)
        found = dict(index.rank(query, index.document_ids))
        assert [found[f"d{at}"] for at in range(len(documents))] == pytest.approx(expected, abs=1e-6)
        positive = sorted(((score, f"d{at}") for at, score in enumerate(expected) if score > 0), reverse=True)
        assert [name for name, _ in index.search(query, 100)] == [name for _, name in positive]


def test_stemmer_and_stopwords_do_what_they_say():
    documents = [("a", "running dogs"), ("b", "the cat")]
    assert Bm25(documents, stemmer="none").search("run dog", 10) == []
    assert [name for name, _ in Bm25(documents, stemmer="english").search("run dog", 10)] == ["a"]
    assert Bm25(documents).search("the", 10) == []
    assert [name for name, _ in Bm25(documents, stopwords="none").search("the", 10)] == ["b"]


def test_equal_scores_are_ordered_by_id_last_first_also_where_depth_cuts_them():
    index = Bm25([(f"d{at:02d}", "same words") for at in range(50)] + [("best", "same words same same")])
    found = [name for name, _ in index.search("same", 5)]
    assert found == ["best", "d49", "d48", "d47", "d46"]


def test_texts_of_the_corpus_are_not_held_in_memory():
    size = 20_000
    documents = ((f"d{at}", f"word{at % 7} " + "." * size) for at in range(1_000))
    tracemalloc.start()
    index = Bm25(documents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(index) == 1_000
    assert peak < 100 * size


def test_a_run_is_written_in_the_order_of_the_queries_and_read_by_every_tool_alike(tmp_path):
    written = retrieve(config(folder(tmp_path)))
    run = run_of(written)
    assert list(run) == ["q1", "q'2"]
    assert written.unmatched == 1  # nothing but stop words
    assert (written.queries, written.candidates) == (2, 4)
    assert {query: set(documents) for query, documents in run.items()} == {"q1": {"d/1", "it's d2"}, "q'2": {"d3", "é4"}}
    for documents in run.values():
        assert given_order(documents) == list(documents)
    again = written.path.read_bytes()
    retrieve(config(tmp_path))
    assert written.path.read_bytes() == again


def test_candidates_of_another_run_are_ranked_and_all_kept(tmp_path):
    folder(tmp_path)
    (tmp_path / "given.trec").write_text("q1 Q0 d3 1 9 x\nq1 Q0 d/1 2 8 x\nq3 Q0 é4 1 1 x\nq3 Q0 d/1 2 0 x\n", "utf-8")
    run = run_of(retrieve(config(tmp_path, candidates=str(tmp_path / "given.trec"))))
    assert {query: list(documents) for query, documents in run.items()} == {"q1": ["d/1", "d3"], "q3": ["é4", "d/1"]}
    run = run_of(retrieve(config(tmp_path, candidates=str(tmp_path / "given.trec"), depth=1)))
    assert {query: list(documents) for query, documents in run.items()} == {"q1": ["d/1"], "q3": ["é4"]}


def test_qrels_choose_the_queries(tmp_path):
    folder(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq'2\td3\t1\n")
    assert list(run_of(retrieve(config(tmp_path, qrels="dev")))) == ["q'2"]
    assert list(run_of(retrieve(config(tmp_path, qrels=str(tmp_path / "qrels" / "dev.tsv"))))) == ["q'2"]
    with pytest.raises(UserError, match=r"choose qrels=dev"):
        retrieve(config(tmp_path, qrels="test"))
    (tmp_path / "qrels" / "dev.tsv").write_text("elsewhere\td3\t1\n")
    with pytest.raises(UserError, match="none of the queries"):
        retrieve(config(tmp_path, qrels="dev"))


def test_unknown_candidates_are_refused_with_their_line_or_skipped(tmp_path):
    folder(tmp_path)
    given = tmp_path / "given.trec"
    given.write_text("q1 Q0 d3 1 9 x\nq1 Q0 nowhere 2 8 x\n")
    with pytest.raises(UserError, match=r'given\.trec:2: the document "nowhere" is not in .*corpus\.jsonl'):
        retrieve(config(tmp_path, candidates=str(given)))
    written = retrieve(config(tmp_path, candidates=str(given), skip_bad=True))
    assert written.bad.count == 1
    assert run_of(written).keys() == {"q1"}
    given.write_text("q9 Q0 d3 1 9 x\n")
    with pytest.raises(UserError, match=r'given\.trec:1: the query "q9" is not in .*queries\.jsonl'):
        retrieve(config(tmp_path, candidates=str(given)))
    with pytest.raises(UserError, match="has none of the queries"):
        retrieve(config(tmp_path, candidates=str(given), skip_bad=True))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"_id": "d3", "text": "twice"}', r'corpus\.jsonl:5: this "_id" occurs twice'),
        ('{"text": "no id"}', r'corpus\.jsonl:5: the field "_id" is missing'),
        ('{"_id": "d9", "text": NaN}', r"corpus\.jsonl:5: NaN is not a JSON number"),
        ("[]", r"corpus\.jsonl:5: not an object"),
    ],
)
def test_bad_lines_of_the_corpus_are_refused_or_skipped(tmp_path, line, reason):
    corpus = folder(tmp_path) / "corpus.jsonl"
    corpus.write_text(corpus.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(UserError, match=reason):
        retrieve(config(tmp_path))
    assert not (tmp_path / "bm25.trec").exists()
    assert retrieve(config(tmp_path, skip_bad=True)).bad.count == 1


def test_what_cannot_be_ranked_gives_a_one_sentence_error(tmp_path, capsys):
    with pytest.raises(UserError, match="is not a folder"):
        retrieve(config(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"queries\.jsonl: no such file"):
        retrieve(config(tmp_path))
    folder(tmp_path, corpus={"d": ("", "...")})
    with pytest.raises(UserError, match="no document contains a word"):
        retrieve(config(tmp_path))
    folder(tmp_path, queries={"q": "unheard"})
    with pytest.raises(UserError, match="has a document to rank"):
        retrieve(config(tmp_path))
    folder(tmp_path, corpus={"a\tb": ("", "rye bread")})
    assert main(["retrieve", f"data={tmp_path}", f"output={tmp_path / 'bm25.trec'}"]) == 2
    assert "is not allowed in a TREC run" in capsys.readouterr().err


def test_the_command_reports_its_output_and_a_dry_run_writes_nothing(tmp_path, capsys):
    folder(tmp_path)
    arguments = ["retrieve", f"data={tmp_path}", f"output={tmp_path / 'new' / 'bm25.trec'}"]
    assert main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "new").exists()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "4 candidates of 2 queries" in out
    assert "1 queries have no document to rank" in out


@pytest.mark.skipif(not MUSIQUE.is_dir(), reason="musique100 is not on this machine")
def test_figures_on_musique100(tmp_path):
    grades = read_judgements(MUSIQUE / "qrels" / "test.tsv", BadLines())
    given = MUSIQUE / "given_order.trec"

    def ndcg(run):
        return measure(run, grades).mean("nDCG@10")

    def keys(name):
        return {"data": str(MUSIQUE), "output": str(tmp_path / name)}

    assert ndcg(read_run(given, BadLines())) == pytest.approx(0.315, abs=0.001)
    assert ndcg(run_of(retrieve(RetrieveConfig(**keys("whole.trec"))))) >= 0.54
    assert ndcg(run_of(retrieve(RetrieveConfig(**keys("own.trec"), candidates=str(given))))) >= 0.60


# Two documents a language, of which the first is about what the query asks.
UNSPACED = {
    "Chinese": ("为什么天空是蓝色的", "天空是蓝色的，因为空气散射阳光。", "今天的股票市场下跌了。"),
    "Japanese": ("なぜ空は青いのか", "空が青いのは光が散乱するからです。", "株式市場は今日下落した。"),
    "half width": ("コーヒーの作り方", "おいしいｺｰﾋｰを淹れる方法。", "紅茶の歴史について。"),
    "Korean": ("하늘이 파란 이유", "하늘은 빛의 산란 때문에 파랗다.", "주식 시장이 하락했다."),
    "Thai": ("ทำไมท้องฟ้าเป็นสีฟ้า", "ท้องฟ้าเป็นสีฟ้าเพราะแสงกระเจิง", "ตลาดหุ้นร่วงลงวันนี้"),
    "Khmer": ("ហេតុអ្វីមេឃពណ៌ខៀវ", "មេឃពណ៌ខៀវដោយសារពន្លឺ", "ទីផ្សារភាគហ៊ុនធ្លាក់ចុះ"),
    "mixed": ("Python入門", "はじめてのPython3入門書です。Pythonを学ぶ", "Javaの歴史。"),
}


@pytest.mark.parametrize("language", UNSPACED)
def test_languages_without_blanks_are_retrieved(tmp_path, language):
    query, right, wrong = UNSPACED[language]
    corpus = {"z": ("", wrong), "right": ("", right), **CORPUS}
    written = retrieve(config(folder(tmp_path, corpus, {"q": query}), depth=1))
    assert list(run_of(written)["q"]) == ["right"]


def test_words_are_pairs_of_characters_in_scripts_without_blanks_as_in_cjk_analyzer():
    assert words("东京都 は tokyo駅です ＡＢＣ１２") == ["东京", "京都", "は", "tokyo", "駅で", "です", "abc12"]
    assert words("ﾃｽﾄ、人・一人") == ["テス", "スト", "人", "一人"]
    assert words("学 a bc") == ["学", "bc"]


def test_words_of_other_languages_are_bm25s_own():
    from bm25s.tokenization import Tokenizer

    split = Tokenizer().splitter
    for text in ("The cat's 3rd über-mouse, naïve_x!", "привет мир", "γειά σου", "שלום עולם", "مرحبا", "", "a I x"):
        assert words(text) == split(text)


def test_vowel_signs_and_accents_belong_to_words():
    assert words("हिन्दी भाषा में") == ["हिन्दी", "भाषा", "में"]
    assert words("বাংলা তেலுగు தமிழ்") == ["বাংলা", "তেலுగు", "தமிழ்"]
    assert words("cafe\u0301 Zu\u0308rich") == words("caf\u00e9 Z\u00fcrich") == ["café", "Zürich"]
    assert words("می\u200cروم שָׁלוֹם") == ["میروم", "שָׁלוֹם"]


def test_jax_where_it_is_installed_does_not_take_the_gpu(tmp_path: Path) -> None:
    """bm25s imports JAX and runs it at once; on a GPU that takes most of the card."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("import os\nprint('jax on', os.environ['JAX_PLATFORMS'])\n")
    (tmp_path / "jax" / "lax.py").write_text("def top_k(*_): ...\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    environment.pop("JAX_PLATFORMS", None)
    line = [sys.executable, "-c", "import r0.evaluation.bm25"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "jax on cpu\n"), done.stderr

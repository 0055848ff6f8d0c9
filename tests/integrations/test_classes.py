"""The classes of ``r0.integrations`` with the real packages: ``make test-integrations``. The model runs in this process."""

import asyncio

import pytest

pytest.importorskip("langchain_core", reason="make test-integrations has an environment with the packages")

from r0.rerank import Reranker

QUERY = "What links pig with duck?"
DOCUMENTS = [
    "The snake supports the bottle in Chile.",
    "The pig controls the duck in Italy.",
    "The duck follows the cow in Canada.",
]
SETTINGS = {"method": "pointwise", "engine": "hf", "device": "cpu", "max_new_tokens": 96}


@pytest.fixture(scope="module")
def reranker():
    with Reranker("r0-tiny", **SETTINGS) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(reranker):
    """(document, score, thought), best first."""
    found = reranker.rank(QUERY, DOCUMENTS, return_documents=True)
    assert all(one["thought"] for one in found)
    assert found[0]["corpus_id"] == 1
    return [(one["text"], one["score"], one["thought"]) for one in found]


def test_langchain(reranker, expected):
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    from r0.integrations.langchain import R0Rerank

    class All(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return documents

    documents = [Document(text, metadata={"n": place}) for place, text in enumerate(DOCUMENTS)]
    compressor = R0Rerank(model=reranker, top_n=2)
    found = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=All()).invoke(QUERY)
    stated = [(one.page_content, one.metadata["relevance_score"], one.metadata["thought"]) for one in found]
    assert stated == expected[:2]
    assert [DOCUMENTS[one.metadata["n"]] for one in found] == [text for text, _, _ in expected[:2]]
    assert asyncio.run(compressor.acompress_documents(documents, QUERY)) == found
    assert [one.metadata for one in documents] == [{"n": 0}, {"n": 1}, {"n": 2}]  # the given ones are as they were
    assert compressor.compress_documents([], QUERY) == []
    with pytest.raises(ValueError, match="has its own settings"):
        R0Rerank(model=reranker, settings={"method": "listwise"})
    with pytest.raises(ValueError, match="top_n"):
        R0Rerank(model="r0-tiny", top_n=0)


def test_llama_index(reranker, expected):
    from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

    from r0.integrations.llama_index import R0Rerank

    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]
    postprocessor = R0Rerank(model=reranker, top_n=2)
    found = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert [(one.node.text, one.score, one.node.metadata["thought"]) for one in found] == expected[:2]
    assert [one.node.get_content(MetadataMode.LLM) for one in found] == [text for text, _, _ in expected[:2]]
    assert asyncio.run(postprocessor.apostprocess_nodes(nodes, query_str=QUERY)) == found
    assert [(one.score, one.node.metadata) for one in nodes] == [(0.5, {})] * 3
    assert postprocessor.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(ValueError, match="needs the query"):
        postprocessor.postprocess_nodes(nodes)


def test_haystack(reranker, expected):
    from haystack import Document, Pipeline

    from r0.integrations.haystack import R0Ranker

    documents = [Document(content=text) for text in DOCUMENTS]
    pipeline = Pipeline()
    pipeline.add_component("ranker", R0Ranker("r0-tiny", top_k=2, settings=SETTINGS))
    pipeline = Pipeline.loads(pipeline.dumps(), allowed_modules=["r0.integrations.haystack"])  # as pipelines are stored
    found = pipeline.run({"ranker": {"query": QUERY, "documents": documents}})["ranker"]["documents"]
    pipeline.get_component("ranker").close()
    assert [(one.content, one.score, one.meta["thought"]) for one in found] == expected[:2]
    assert [one.score for one in documents] == [None] * 3
    ranker = R0Ranker(reranker)
    assert [one.content for one in ranker.run(QUERY, documents, top_k=1)["documents"]] == [expected[0][0]]
    assert ranker.run(QUERY, []) == {"documents": []}
    with pytest.raises(ValueError, match="top_k: must be at least 1"):
        ranker.run(QUERY, documents, top_k=0)
    with pytest.raises(ValueError, match="cannot be stored"):
        ranker.to_dict()


def test_rerankers(reranker, expected):
    from rerankers import Document

    from r0.integrations.rerankers import R0Ranker

    ranker = R0Ranker(reranker)
    found = ranker.rank(QUERY, DOCUMENTS, doc_ids=["a", "b", "c"])
    assert [(one.text, one.score, one.thought) for one in found] == expected
    assert [one.rank for one in found] == [1, 2, 3]
    assert found.get_result_by_docid("b").text == DOCUMENTS[1]
    assert [one.text for one in ranker.rank(QUERY, [Document(text, place) for place, text in enumerate(DOCUMENTS)])] == [
        text for text, _, _ in expected
    ]
    assert ranker.score(QUERY, DOCUMENTS[1]) == pytest.approx(next(s for text, s, _ in expected if text == DOCUMENTS[1]))

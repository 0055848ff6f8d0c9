"""The clients that people have, against a running server: ``make test-integrations``.

The server is ``$R0_PYTHON -m r0.launch serve``. The clients take its address as an argument, but LangChain's Jina reranker has it
in a module's constant, which is set here.
"""

import json
import os
import subprocess

import httpx
import pytest

cohere = pytest.importorskip("cohere", reason="make test-integrations has an environment with the clients")

QUERY, DOCUMENTS = "alba", ["nothing", "alba is red", "alba and more alba"]
TOKEN = "a-token"


@pytest.fixture(scope="module")
def url():
    """The address of a server with a token."""
    line = [os.environ["R0_PYTHON"], "-m", "r0.launch", "serve", "model=r0-tiny", "method=pointwise", "rollout.engine=hf"]
    line += ["max_new_tokens=48", "port=0", f"api_key={TOKEN}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as process:
        address = process.stdout.readline().partition("http://")[2].partition("/ready")[0]
        while "serving r0-tiny" not in process.stdout.readline():
            assert process.poll() is None
        yield f"http://{address}"
        process.terminate()
        process.communicate()
        assert process.returncode == 0


@pytest.fixture(scope="module")
def expected(url):
    """The documents with their scores, best first."""
    body = {"query": QUERY, "documents": DOCUMENTS}
    found = httpx.post(f"{url}/v1/rerank", json=body, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=300).json()
    return [(one["index"], one["relevance_score"]) for one in found["results"]]


def pairs(results):
    return [(one.index, one.relevance_score) for one in results]


def test_cohere(url, expected):
    client = cohere.ClientV2(TOKEN, base_url=url)
    found = client.rerank(model="r0-tiny", query=QUERY, documents=DOCUMENTS, top_n=2)
    assert pairs(found.results) == expected[:2]
    assert found.meta.api_version.version == "2"
    assert found.meta.billed_units.search_units == 1
    first = cohere.Client(TOKEN, base_url=url)
    rows = [{"title": text, "n": "1"} for text in DOCUMENTS]
    found = first.rerank(model="r0-tiny", query=QUERY, documents=rows, rank_fields=["title"], return_documents=True)
    assert pairs(found.results) == expected
    assert [one.document.title for one in found.results] == [DOCUMENTS[index] for index, _ in expected]
    with pytest.raises(cohere.NotFoundError) as raised:
        client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS)
    assert "this server has `r0-tiny`" in raised.value.body["message"]
    with pytest.raises(cohere.BadRequestError):
        client.rerank(model="r0-tiny", query=QUERY, documents=[])
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2("other", base_url=url).rerank(model="r0-tiny", query=QUERY, documents=DOCUMENTS)


def test_langchain(url, expected, monkeypatch):
    from langchain_cohere import CohereRerank
    from langchain_community.document_compressors import jina_rerank
    from langchain_core.documents import Document

    documents = [Document(text) for text in DOCUMENTS]
    monkeypatch.setattr(jina_rerank, "JINA_API_URL", f"{url}/v1/rerank")
    for reranker in (
        CohereRerank(cohere_api_key=TOKEN, base_url=url, model="r0-tiny", top_n=2),
        jina_rerank.JinaRerank(jina_api_key=TOKEN, model="r0-tiny", top_n=2),
    ):
        found = reranker.compress_documents(documents, QUERY)
        assert [one.page_content for one in found] == [DOCUMENTS[index] for index, _ in expected[:2]]
        assert [one.metadata["relevance_score"] for one in found] == [score for _, score in expected[:2]]


def test_llama_index(url, expected):
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.postprocessor.cohere_rerank import CohereRerank
    from llama_index.postprocessor.jinaai_rerank import JinaRerank
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]
    for reranker in (
        CohereRerank(api_key=TOKEN, base_url=url, model="r0-tiny", top_n=2),
        JinaRerank(api_key=TOKEN, base_url=f"{url}/v1", model="r0-tiny", top_n=2),
        TextEmbeddingInference(base_url=url, top_n=2, auth_token=f"Bearer {TOKEN}"),
    ):
        found = reranker.postprocess_nodes(nodes, QueryBundle(QUERY))
        assert [(DOCUMENTS.index(one.node.text), one.score) for one in found] == expected[:2]
    with pytest.raises(RuntimeError, match="this server has `r0-tiny`"):
        JinaRerank(api_key=TOKEN, base_url=f"{url}/v1", model="other").postprocess_nodes(nodes, QueryBundle(QUERY))


def test_haystack(url, expected):
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker
    from haystack_integrations.components.rankers.jina import JinaRanker

    documents = [Document(content=text) for text in DOCUMENTS]
    for ranker in (
        CohereRanker(model="r0-tiny", top_k=2, api_key=Secret.from_token(TOKEN), api_base_url=url),
        JinaRanker(model="r0-tiny", top_k=2, api_key=Secret.from_token(TOKEN), base_url=f"{url}/v1/rerank"),
    ):
        found = ranker.run(query=QUERY, documents=documents)["documents"]
        assert [(DOCUMENTS.index(one.content), one.score) for one in found] == expected[:2]


def test_curl(url, expected):
    body = json.dumps({"query": QUERY, "texts": DOCUMENTS, "return_text": True})
    line = ["curl", "-sS", f"{url}/rerank", "-H", f"Authorization: Bearer {TOKEN}", "-H", "Content-Type: application/json"]
    done = subprocess.run([*line, "-d", body], capture_output=True, text=True, check=True)
    assert [(one["index"], one["score"]) for one in json.loads(done.stdout)] == expected



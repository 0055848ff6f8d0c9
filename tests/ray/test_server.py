"""The server as a process: vLLM behind it, many clients at once with the scores of ``rerank``, signals, two replicas on Ray."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from r0.data.builtin.lists import builtin_list_task
from r0.records import Form
from tests.launching import command, environment, launch_here, refused

pytestmark = pytest.mark.ray

KEYS = {"model": "r0-tiny", "method": "listwise", "max_new_tokens": 90, "max_prompt_tokens": 900, "rollout.max_num_seqs": 16}
SERVE = KEYS | {"timeout_s": 600}
CLIENTS, QUERIES = 12, 12


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """``r0 serve`` in a process of its own."""

    def __init__(self, settings: dict[str, object]):
        self.port = free_port()
        line = command("serve", settings | {"port": self.port})
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
        self.url = f"http://127.0.0.1:{self.port}"
        self.said = ""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said += line

    def wait_ready(self) -> None:
        while self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/ready", timeout=10).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(self.said[-3000:])

    def post(self, body: dict) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/rerank", json=body, timeout=300)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=120)
        self._reading.join()
        return code


@pytest.fixture(scope="module")
def lists():
    """Queries with their documents."""
    tasks = [builtin_list_task(number, 3, Form.PERMUTATION, 5) for number in range(QUERIES)]
    return [(task.query, list(task.documents)) for task in tasks]


@pytest.fixture(scope="module")
def ranked(lists, tmp_path_factory):
    """What ``r0 rerank`` makes of them: by number, documents in their order with scores."""
    folder = tmp_path_factory.mktemp("ranked")
    requests = [
        {
            "query": {"text": query, "qid": str(number)},
            "candidates": [{"docid": str(i), "score": float(-i), "doc": {"text": text}} for i, text in enumerate(documents)],
        }
        for number, (query, documents) in enumerate(lists)
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(one) + "\n" for one in requests))
    launch_here("rerank", KEYS | {"data": folder / "requests.jsonl", "output": folder / "out", "ray.inline": True})
    found: dict[int, list[tuple[int, float]]] = {}
    for line in (folder / "out" / "queries.jsonl").read_text().splitlines():
        row = json.loads(line)
        found[int(row["query_id"])] = list(zip(map(int, row["documents"]), row["scores"], strict=True))
    return found


def test_many_clients_share_the_batch_and_get_reranks_scores_and_signals_end_it_cleanly(lists, ranked, capsys):
    server = Server(SERVE)
    server.wait_ready()
    assert "cannot be listened on" in refused(capsys, "serve", SERVE | {"port": server.port, "rollout.engine": "hf"})

    def ask(number: int) -> list[tuple[int, float]]:
        query, documents = lists[number % QUERIES]
        response = server.post({"query": query, "documents": documents})
        assert response.status_code == 200, response.text
        return [(one["index"], one["relevance_score"]) for one in response.json()["results"]]

    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(ask, range(2 * QUERIES)))
    for number, results in enumerate(found):
        assert results == ranked[number % QUERIES]
    query, documents = lists[0]
    body = {"query": query, "documents": documents, "max_think_tokens": 60}
    with pytest.raises(httpx.ReadTimeout):  # a client that goes while vLLM works on its request
        httpx.post(f"{server.url}/v1/rerank", json=body, timeout=httpx.Timeout(300, read=0.001))
    while 'r0_cancelled_total{reason="client"} 1.0' not in httpx.get(f"{server.url}/metrics", timeout=60).text:
        assert server.process.poll() is None
        time.sleep(0.05)
    assert ask(0) == ranked[0]
    with ThreadPoolExecutor(CLIENTS) as pool:
        begun = [pool.submit(server.post, {"query": lists[n][0], "documents": lists[n][1]}) for n in range(CLIENTS)]
        while "r0_requests_in_progress 0.0" in httpx.get(f"{server.url}/metrics", timeout=60).text:
            time.sleep(0.01)
        assert server.end() == 0
        statuses = {one.result().status_code for one in begun if one.exception() is None}
        assert 200 in statuses
        assert statuses <= {200, 503}
    assert server.said.rstrip().endswith("stopped: every request that had begun was answered")
    assert "Traceback" not in server.said


@pytest.mark.slow
def test_two_replicas_share_the_requests_and_one_that_dies_is_replaced(lists):
    settings = SERVE | {"method": "pointwise", "max_new_tokens": 48, "rollout.engine": "hf", "replicas": 2, "rollout.cpus": 0.5}
    settings |= {"ray.address": "local"}
    server = Server(settings)
    try:
        server.wait_ready()
        children = psutil.Process(server.process.pid).children(recursive=True)
        workers = [one for one in children if "::Rerank" in " ".join(one.cmdline())]
        assert len(workers) == 2
        bodies = [{"query": query, "documents": documents} for query, documents in lists[:8]]
        with ThreadPoolExecutor(8) as pool:
            first = [one.json()["results"] for one in pool.map(server.post, bodies)]
            again = [pool.submit(server.post, body) for body in bodies]
            os.kill(workers[0].pid, signal.SIGKILL)
            second = [one.result() for one in again]
        assert [one.status_code for one in second] == [200] * 8
        for one, results in zip(second, first, strict=True):
            scores = {result["index"]: result["relevance_score"] for result in one.json()["results"]}
            assert scores == pytest.approx({result["index"]: result["relevance_score"] for result in results}, abs=1e-4)
    finally:
        code = server.end(signal.SIGINT)
    assert code == 0, server.said[-3000:]
    assert "a new worker restarts its" in server.said
    psutil.wait_procs(children, timeout=60)
    assert not [one for one in children if one.is_running()]

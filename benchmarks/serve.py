"""The server under many clients, and its throughput against ``rerank`` on the same pairs.

    python benchmarks/serve.py [--clients 64] [--seconds 60] [--documents 10] [--queries 64] [--new-tokens 64] [--rounds 4]

The model (--model) is r0-tiny by default, with vLLM in float32. Its engine steps are mostly Python, which shares one lock with
the server's thread; with a larger model they are not. ``rerank`` is the Reranker behind the command, inline, with all queries at
once, --rounds times; it runs before and after the server, since a machine may be busier at one time than at another. The clients
are one asyncio program in this process. Each asks again as soon as it has its answer, after a 429 as soon as Retry-After says.
Every answer is compared with ``rerank``'s. Starting the engines is not counted. Printed: statuses, wrong answers, the largest
difference of a score, latencies, documents a second of both, and their ratio. --method names another method.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections import Counter

import httpx

TOLERANCE = 1e-4  # of a score: rounding in batches of different sizes

Lists = list[tuple[str, list[str]]]
Scores = list[dict[int, float]]


def lists(queries: int, documents: int) -> Lists:
    """Queries with their documents."""
    from r0.data.builtin.lists import builtin_list_task
    from r0.records import Form

    tasks = [builtin_list_task(number, 11, Form.PERMUTATION, documents) for number in range(queries)]
    return [(f"{task.query} ({number})", list(task.documents)) for number, task in enumerate(tasks)]


def keys(options: argparse.Namespace) -> dict[str, object]:
    lengths = {"max_new_tokens": options.new_tokens, "max_prompt_tokens": 900}
    # rerank takes as many queries at once as fill the engine if all lists are of ``depth``
    return {"model": options.model, "method": options.method, "depth": options.documents, **lengths}


def rerank(options: argparse.Namespace, work: Lists) -> tuple[float, Scores]:
    """Documents a second, and the scores by query and document. Runs in a process of its own (see ``main``)."""
    from r0.config import RankingKeys, RaySection
    from r0.rerank import Reranker

    rounds = options.rounds
    with Reranker.of(RankingKeys(**keys(options), ray=RaySection(inline=True))) as reranker:
        list(reranker.run([reranker.job(query, query, documents) for query, documents in work[:4]]))
        jobs = [reranker.job(query, query, documents) for _ in range(rounds) for query, documents in work]
        began = time.perf_counter()
        outcomes = {outcome.key: outcome for outcome in reranker.run(jobs)}
        seconds = time.perf_counter() - began
    scores = [dict(enumerate(outcomes[job.key].ranking.scores)) for job in jobs[: len(work)]]
    return rounds * sum(len(documents) for _, documents in work) / seconds, scores


async def client(
    number: int, options: argparse.Namespace, work: Lists, session: httpx.AsyncClient, end: float, found: list
) -> None:
    """One client: asks until the time is over."""
    place = number
    while time.perf_counter() < end:
        query, documents = work[place % len(work)]
        began = time.perf_counter()
        response = await session.post("/v1/rerank", json={"query": query, "documents": documents, "return_documents": False})
        results = response.json().get("results", []) if response.status_code == 200 else []
        scores = {one["index"]: one["relevance_score"] for one in results}
        found.append((place % len(work), response.status_code, time.perf_counter() - began, scores))
        if response.status_code == 429:
            await asyncio.sleep(float(response.headers["retry-after"]))
        else:
            place += options.clients


async def load(options: argparse.Namespace, work: Lists, url: str) -> tuple[float, list]:
    """Seconds, and every answer as (query, status, seconds, scores). Making the clients, each with its TLS settings, is not
    counted."""
    found: list = []
    async with contextlib.AsyncExitStack() as stack:
        made = [httpx.AsyncClient(base_url=url, timeout=300) for _ in range(options.clients)]
        sessions = [await stack.enter_async_context(one) for one in made]
        began = time.perf_counter()
        end = began + options.seconds
        await asyncio.gather(*(client(number, options, work, one, end, found) for number, one in enumerate(sessions)))
        return time.perf_counter() - began, found


def served(options: argparse.Namespace, work: Lists) -> tuple[float, list]:
    """Start the server, put the load on it, and stop it."""
    line = [sys.executable, "-m", "r0.launch", "serve", "port=0", *(f"{name}={value}" for name, value in keys(options).items())]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        url = "http://" + process.stdout.readline().partition("http://")[2].partition("/ready")[0]
        while "serving" not in process.stdout.readline():
            if process.poll() is not None:
                raise SystemExit("the server did not start")
        try:
            return asyncio.run(load(options, work, url))
        finally:
            process.terminate()
            process.communicate()
            if process.returncode:
                print(f"the server ended with {process.returncode}")


def rerank_apart(arguments: list[str]) -> tuple[float, Scores]:
    """``rerank`` in a process of its own, so that its engine is gone when the server starts."""
    import json

    done = subprocess.run([sys.executable, __file__, "--only-rerank", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"rerank failed:\n{done.stderr[-3000:]}")
    rate, scores = json.loads(done.stdout.splitlines()[-1])
    return rate, [{int(index): score for index, score in one.items()} for one in scores]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"clients": 64, "seconds": 60, "documents": 10, "queries": 64, "new-tokens": 64, "rounds": 4}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--method", default="pointwise")
    parser.add_argument("--model", default="r0-tiny")
    parser.add_argument("--only-rerank", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work = lists(options.queries, options.documents)
    if options.only_rerank:
        import json

        print(json.dumps(rerank(options, work)))
        return 0
    first, right = rerank_apart(sys.argv[1:])
    seconds, found = served(options, work)
    last, _ = rerank_apart(sys.argv[1:])
    statuses = Counter(status for _, status, _, _ in found)
    worst, wrong = 0.0, 0
    for query, status, _, scores in found:
        if status == 200:
            apart = max((abs(scores.get(index, 9.0) - score) for index, score in right[query].items()), default=0.0)
            worst, wrong = max(worst, apart), wrong + (apart > TOLERANCE)
    good = [spent for _, status, spent, _ in found if status == 200]
    rate, own = len(good) * options.documents / seconds, statistics.mean([first, last])
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{options.clients} clients, {seconds:.0f} s, {options.method}: {len(found)} requests of {options.documents} documents")
    print("statuses: " + ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))
    print(f"wrong answers: {wrong}; largest difference of a score: {worst:.1e}")
    cuts = statistics.quantiles(good, n=100)
    print(f"latency in s: p50 {cuts[49]:.2f}, p95 {cuts[94]:.2f}, p99 {cuts[98]:.2f}, largest {max(good):.2f}")
    print(f"documents a second: serve {rate:.1f}; rerank {first:.1f} before, {last:.1f} after; ratio {rate / own:.2f}")
    return 1 if wrong or set(statuses) - {200, 429} else 0


if __name__ == "__main__":
    sys.exit(main())

"""The routes of the server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from r0.config import ServeConfig
from r0.rerank.job import Job, Outcome
from r0.rerank.pair_inputs import by_query
from r0.rerank.predictions import PREDICT_PAIRS
from r0.rerank.prompt_budget import DEFAULT_PROMPT_TOKENS
from r0.rerank.reranker import Reranker
from r0.serve import answers
from r0.serve.answers import Answer, Ranked
from r0.serve.bodies import CohereBody, RerankBody, ScoreBody, TeiBody, ThoughtFields, text_of
from r0.serve.desk import Desk
from r0.serve.guard import Guard
from r0.serve.metrics import Metrics
from r0.serve.refusals import Kind, Refusal, Shape, body_of, headers_of, shape_of, status_of

LONG_TOKEN = 16  # characters: a query of longer ones is refused before it is tokenized
SHOWN = 3  # wrong fields that a refusal names
ABOUT = "The APIs of several rerank servers at one address. `thinking`, `max_think_tokens` and `return_thoughts` are r0's own."


@dataclass
class Front:
    """What the routes know: the configuration, and the engines behind the desk once they are there."""

    config: ServeConfig
    desk: Desk
    metrics: Metrics = field(init=False)
    reranker: Reranker | None = None

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.desk.begun)

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.config.name or self.config.model

    def check_model(self, name: str | None) -> None:
        """Refuse a name of another model.

        Raises:
            Refusal: with the right name.
        """
        if name not in (None, "", self.model, self.config.model):
            raise Refusal(Kind.MODEL, f"The model `{name}` does not exist; this server has `{self.model}`.", "model")

    def check_texts(self, query: str, documents: Sequence[Any], what: str) -> None:
        """Refuse an empty or very long query, and no documents or too many.

        Raises:
            Refusal: with the field and the limit.
        """
        self.check_query(query, "query")
        if not documents:
            raise Refusal(Kind.LIMIT, f"{what} is empty; give at least one document", what)
        if len(documents) > self.config.depth:
            most = self.config.depth
            raise Refusal(Kind.LIMIT, f"{what}: {len(documents)} are more than the {most} of a request (depth)", what)

    def check_query(self, query: str, field: str) -> None:
        """Refuse an empty or very long query.

        Raises:
            Refusal: with the field and the limit.
        """
        if not query.strip():
            raise Refusal(Kind.LIMIT, f"{field} is empty", field)
        if len(query) > (most := LONG_TOKEN * (self.config.max_prompt_tokens or DEFAULT_PROMPT_TOKENS)):
            raise Refusal(Kind.LIMIT, f"{field} is too long: {len(query)} characters, more than {most}", field)

    async def rank(self, request: Request, query: str, texts: Sequence[str], asked: ThoughtFields) -> Ranked:
        """Rank the documents of a request."""
        job = self._job(query, texts, asked)
        (outcome,) = await self.outcomes(request, [job])
        return Ranked(outcome, asked.return_thoughts)

    async def outcomes(self, request: Request, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcomes of a request's jobs, in order."""

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        try:
            found = await self.desk.ask(jobs, gone)
        except Refusal as refusal:
            if refusal.kind in (Kind.GONE, Kind.LATE):
                self.metrics.cancelled("client" if refusal.kind is Kind.GONE else "deadline")
            raise
        self.metrics.ranked(found)
        return found

    def score_jobs(self, pairs: Sequence[tuple[str, str]], asked: ThoughtFields) -> tuple[list[Job], list[list[int]]]:
        """The jobs that score pairs one by one, and for each job the numbers of its pairs."""
        places = list(by_query(pairs, PREDICT_PAIRS))
        jobs = [self._job(pairs[numbers[0]][0], [pairs[n][1] for n in numbers], asked, each=True) for numbers in places]
        return jobs, places

    def _job(self, query: str, texts: Sequence[str], asked: ThoughtFields, each: bool = False) -> Job:
        if self.reranker is None:
            raise Refusal(Kind.UNAVAILABLE, "the model is loading; /ready says when it is there")
        job = self.reranker.job(query, query, texts, each=each)
        return replace(job, thinking=asked.thinking, max_think_tokens=asked.max_think_tokens)


def make_app(front: Front, token: str) -> ASGIApp:
    """The application: routes behind a guard."""
    app = FastAPI(title="r0 serve", description=ABOUT, redoc_url=None)
    _add_rankings(app, front)
    _add_scores(app, front)
    _add_state(app, front)
    _add_refusals(app)
    most = int(front.config.max_body_mb * 1e6)
    return Guard(app, token, most, front.desk.check_open, front.metrics.answered)


def _add_rankings(app: FastAPI, front: Front) -> None:
    @app.post("/v1/rerank", summary="Jina, vLLM, and Cohere's first API")
    async def rerank(body: Annotated[RerankBody, Body()], request: Request) -> Response:
        front.check_model(body.model)
        documents = [body.documents] if isinstance(body.documents, str) else body.documents
        front.check_texts(body.query, documents, "documents")
        texts = [text_of(document, number, body.rank_fields) for number, document in enumerate(documents)]
        of_cohere = shape_of(request.url.path, request.headers) is Shape.COHERE
        returned = (not of_cohere) if body.return_documents is None else body.return_documents
        shown = [{"text": one} if isinstance(one, str) else one for one in documents] if returned else None
        ranked = await front.rank(request, body.query, texts, body)
        results = ranked.results("relevance_score", body.top_n, shown)
        if of_cohere:
            return Answer(answers.cohere(results, len(texts), "1"))
        identity = {"id": answers.new_id("rerank-"), "model": front.model}
        return Answer(identity | {"usage": ranked.usage(), "results": results})

    @app.post("/v2/rerank", summary="Cohere")
    async def cohere(body: Annotated[CohereBody, Body()], request: Request) -> Response:
        front.check_model(body.model)
        front.check_texts(body.query, body.documents, "documents")
        ranked = await front.rank(request, body.query, body.documents, body)
        results = ranked.results("relevance_score", body.top_n, None)
        return Answer(answers.cohere(results, len(body.documents), "2"))

    @app.post("/rerank", summary="text-embeddings-inference")
    async def tei(body: Annotated[TeiBody, Body()], request: Request) -> Response:
        front.check_texts(body.query, body.texts, "texts")
        ranked = await front.rank(request, body.query, body.texts, body)
        results = ranked.results("score", None, None, body.raw_scores)
        return Answer([one | {"text": body.texts[one["index"]]} for one in results] if body.return_text else results)


def _add_scores(app: FastAPI, front: Front) -> None:
    async def score(body: Annotated[ScoreBody, Body()], request: Request) -> Response:
        front.check_model(body.model)
        pairs = body.pairs()
        if len(pairs) > front.config.depth:
            raise Refusal(Kind.LIMIT, f"{len(pairs)} pairs are more than the {front.config.depth} of a request (depth)")
        for query in dict.fromkeys(query for query, _ in pairs):
            front.check_query(query, "text_1")
        jobs, places = front.score_jobs(pairs, body)
        found = await front.outcomes(request, jobs)
        return Answer(answers.score(front.model, found, places, len(pairs), body.return_thoughts))

    app.post("/v1/score", summary="vLLM: pairs one by one, whatever the method")(score)
    app.post("/score", summary="the same as /v1/score")(score)


def _add_state(app: FastAPI, front: Front) -> None:
    @app.get("/health", summary="whether the server is up")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="whether it answers requests")
    async def ready(response: Response) -> dict[str, str]:
        try:
            front.desk.check_open()
        except Refusal as refusal:
            if refusal.kind is Kind.UNAVAILABLE:
                response.status_code = refusal.kind.status
                return {"status": refusal.message}
        return {"status": "ready", "model": front.model, "method": front.config.method}

    @app.get("/metrics", summary="for Prometheus")
    async def metrics() -> Response:
        return Response(front.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_refusals(app: FastAPI) -> None:
    """Say what is wrong in the shape of the API that was asked."""

    def answer(request: Request, refusal: Refusal) -> Response:
        shape = shape_of(request.url.path, request.headers)
        return Answer(body_of(shape, refusal), status_of(shape, refusal.kind), headers_of(refusal))

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return answer(request, refusal)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _of_fields(error))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == Kind.METHOD.status:
            found = answer(request, Refusal(Kind.METHOD, f"{path} does not take {request.method}; /docs lists paths and methods"))
            found.headers.update(error.headers or {})  # Allow
            return found
        return answer(request, Refusal(Kind.PATH, f"nothing is at {path}; /docs lists the paths"))

    @app.exception_handler(Exception)
    async def failed(request: Request, _error: Exception) -> Response:
        return answer(request, Refusal(Kind.FAILED, "the server failed on this request; its log says why"))


def _of_fields(error: RequestValidationError) -> Refusal:
    """What is wrong with the fields of a body, without the values: a document may be long."""
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        why = found[0].get("ctx", {}).get("error", "")
        return Refusal(Kind.NOT_JSON, f"the body is not JSON: {json.dumps(str(why))[1:-1]}")
    says: dict[str, str] = {}
    for one in found:
        field, *within = one["loc"][1:] or ("body",)
        numbers = [part for part in within if isinstance(part, int)]  # without the names of the branches of a union
        says.setdefault(".".join(map(str, [field, *numbers])), one["msg"])
    said = "; ".join(f"{place}: {message}" for place, message in list(says.items())[:SHOWN])
    more = f"; and {len(says) - SHOWN} more" if len(says) > SHOWN else ""
    return Refusal(Kind.INVALID, said + more, next(iter(says)))

"""The configuration of the rerank server."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from r0.config.ranking import RankingKeys
from r0.config.sections import Count, Positive, Seconds, key

Port = Annotated[int, Field(ge=0, le=65535)]


class ServeConfig(RankingKeys):
    """Serve a trained model as a rerank API: Jina's, Cohere's, vLLM's and text-embeddings-inference's."""

    host: str = key("127.0.0.1", "address to listen on; 0.0.0.0: all, so that other machines can connect")
    port: Port = key(8000, "port to listen on; 0: any free one")
    name: str = key("", "name of the model in requests and answers; empty: the model as given")
    api_key: str = key(
        "", "bearer token that clients must send with each request; empty: the variable R0_API_KEY, or no token at all"
    )  # fmt: skip
    replicas: Count = key(1, "number of engines behind the one address; one runs in the server's process, several on Ray")
    depth: Count = key(1000, "maximum documents per request")
    max_requests: Count = key(256, "maximum requests in progress or waiting; one more is answered with 429")
    timeout_s: Seconds = key(60.0, "time limit of a request in seconds, from its last byte to its answer")
    max_body_mb: Positive = key(4.0, "maximum size of a request in megabytes")

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.rollout.workers != 1:
            raise ValueError("rollout.workers: the server has replicas; use replicas instead")
        if self.fusion_weight:
            raise ValueError("fusion_weight: requests have no first-stage scores; remove it")
        if self.ray.inline and self.replicas > 1:
            raise ValueError("ray.inline: runs one engine; set replicas=1")
        return self

    def ranking(self) -> RankingKeys:
        """The keys of the reranker behind the server."""
        own = {name: getattr(self, name) for name in RankingKeys.model_fields if name != "model_preset"}
        own["rollout"] = self.rollout.model_copy(update={"workers": self.replicas})
        own["ray"] = self.ray.model_copy(update={"inline": self.replicas == 1})
        return RankingKeys(**own)

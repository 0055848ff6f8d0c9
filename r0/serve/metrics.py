"""What ``/metrics`` tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from r0.rerank.job import Outcome

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The counters of one server.

    Args:
        begun: returns the number of requests in progress or waiting.
    """

    def __init__(self, begun: Callable[[], int]):
        disable_created_metrics()  # otherwise each counter has a second one, with the time at which it began
        self._registry = CollectorRegistry()
        self._requests = Counter("r0_requests", "Requests by path and status", ["path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "r0_request_seconds", "Seconds from the first byte of a request to its answer", ["path"], buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        gauge = Gauge("r0_requests_in_progress", "Requests in progress or waiting for the engine", registry=self._registry)
        gauge.set_function(begun)
        self._cancelled = Counter("r0_cancelled", "Requests dropped before their answer", ["reason"], registry=self._registry)
        self._documents = Counter("r0_documents", "Documents ranked or scored", registry=self._registry)
        self._prompt_tokens = Counter("r0_prompt_tokens", "Tokens read", registry=self._registry)
        self._new_tokens = Counter("r0_new_tokens", "Tokens sampled", registry=self._registry)
        self._questions = Counter("r0_questions", "Questions to the model", registry=self._registry)
        self._forced = Counter("r0_forced", "Thoughts closed at their limit", registry=self._registry)
        unread = "Answers that could not be read, by what failed"
        self._failures = Counter("r0_failures", unread, ["failure"], registry=self._registry)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def cancelled(self, reason: str) -> None:
        """Count a request that was dropped: its ``client`` has gone, or its ``deadline`` has passed."""
        self._cancelled.labels(reason).inc()

    def ranked(self, outcomes: Sequence[Outcome]) -> None:
        """Count what the model did for a request."""
        for outcome in outcomes:
            self._documents.inc(len(outcome.ranking.order))
            self._prompt_tokens.inc(outcome.prompt_tokens)
            self._new_tokens.inc(outcome.new_tokens)
            self._questions.inc(len(outcome.replies))
            self._forced.inc(outcome.forced)
            for name, count in outcome.failures.items():
                self._failures.labels(name).inc(count)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

"""Figures of the server in Prometheus' format: what was asked, how long it took, how busy the engines are.

Labels have few values, whoever asks: routes and models that exist. A registry of its own, so that two servers in one
process (in tests) do not share figures.
"""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from minimind.serve.fleet import Fleet
from minimind.serve.usage import Tally

TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """Counters of one server, and what its engines say of themselves when the figures are read."""

    def __init__(self, fleet: Fleet) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "minimind"}
        self.requests = Counter("requests", "Requests answered.", ("route", "model", "status"), **own)
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts.", ("model",), **own)
        self.cached_tokens = Counter("cached_prompt_tokens", "Those that were reused.", ("model",), **own)
        self.completion_tokens = Counter("completion_tokens", "Tokens of answers.", ("model",), **own)
        self.first_token = Histogram(
            "time_to_first_token_seconds", "From the request.", ("model",), buckets=FIRST_TOKEN_SECONDS, **own
        )
        self.between_tokens = Histogram(
            "time_between_tokens_seconds", "Of one answer.", ("model",), buckets=TOKEN_SECONDS, **own
        )
        self.duration = Histogram(
            "request_seconds", "To the end of the answer.", ("model",), buckets=REQUEST_SECONDS, **own
        )
        self.registry.register(_Engines(fleet))

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def answered(self, model: str, tally: Tally) -> None:
        """Count the tokens of a request that is over, however it ended."""
        self.prompt_tokens.labels(model).inc(tally.prompt_tokens)
        self.cached_tokens.labels(model).inc(tally.cached_tokens)
        self.completion_tokens.labels(model).inc(tally.completion_tokens)


class Pace:
    """When the pieces of one request came."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._first, self._between = metrics.first_token.labels(model), metrics.between_tokens.labels(model)
        self._asked_at = time.monotonic()
        self._last: dict[int, float] = {}

    def piece(self, choice: int, num_tokens: int) -> None:
        """A piece of a choice came, with so many tokens in it."""
        if not num_tokens:
            return
        now = time.monotonic()
        if not self._last:
            self._first.observe(now - self._asked_at)
        elif choice in self._last:
            self._between.observe((now - self._last[choice]) / num_tokens)
        self._last[choice] = now


class _Engines(Collector):
    """Gauges that are read from the engines' last words, not kept."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        gauges = {
            "up": GaugeMetricFamily("minimind_engine_up", "1 where the engine runs.", labels=("model",)),
            "restarts": GaugeMetricFamily("minimind_engine_restarts", "Engines lost and replaced.", labels=("model",)),
            "swaps": GaugeMetricFamily("minimind_engine_swaps", "Changes to another version.", labels=("model",)),
            "running": GaugeMetricFamily("minimind_running", "Answers that are drawn.", labels=("model",)),
            "waiting": GaugeMetricFamily("minimind_waiting", "Answers that wait for a place.", labels=("model",)),
            "cache_tokens": GaugeMetricFamily("minimind_cache_tokens", "Tokens in the cache.", labels=("model",)),
            "busy_seconds": GaugeMetricFamily("minimind_busy_seconds", "Time in the model.", labels=("model",)),
        }
        for name, model in self._fleet.models.items():
            gauges["up"].add_metric((name,), float(model.engine is not None and not model.engine.ended.is_set()))
            gauges["restarts"].add_metric((name,), model.restarts)
            gauges["swaps"].add_metric((name,), model.swaps)
            load = model.engine.load if model.engine else None
            for figure in ("running", "waiting", "cache_tokens", "busy_seconds"):
                gauges[figure].add_metric((name,), getattr(load, figure, 0))
        return gauges.values()

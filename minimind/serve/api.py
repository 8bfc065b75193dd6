"""The routes of the server, and nothing else: `create_app` puts them together with the layers around them.

Not here: the process (`serving`), what is behind a name (`fleet`), how an answer is made (`reply`).
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from minimind.serve.answers import Answer, ChatCompletion, Completion, Health, ModelCard, ModelList
from minimind.serve.chat_answer import ChatAnswer, Heading
from minimind.serve.conversation import turns_of
from minimind.serve.errors import ApiError, ErrorBody, unprocessable
from minimind.serve.fleet import Chosen, Fleet
from minimind.serve.gate import Cors, Gate, Log, Visit
from minimind.serve.limits import Limits
from minimind.serve.metrics import Metrics
from minimind.serve.questions import ChatQuestion, CompletionQuestion, Question, known_fields
from minimind.serve.reply import Desk, Form, Reply
from minimind.serve.requests import strict_route
from minimind.serve.text_answer import TextAnswer

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be answered."},
    "5XX": {"model": ErrorBody, "description": "The engine was lost, is not there, or took too long."},
}
_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


@dataclass
class Server:
    """What the routes share."""

    fleet: Fleet
    limits: Limits
    desk: Desk
    metrics: Metrics
    is_stopping: bool = False

    @classmethod
    def of(cls, fleet: Fleet, limits: Limits) -> "Server":
        return cls(fleet, limits, Desk(limits), Metrics(fleet))

    def reply(
        self, question: Question, chosen: Chosen, *, visit: Visit, form: Form, asks: list[dict[str, Any]]
    ) -> Reply:
        """The answer to a question that was put into the engine's words."""
        visit.model = chosen.name
        visit.tally.choices_per_prompt = question.num_choices
        reply = Reply(form, chosen=chosen, asks=asks, desk=self.desk, metrics=self.metrics, tally=visit.tally)
        if not question.stream:
            return reply
        return reply.streaming(with_usage=bool(question.stream_options and question.stream_options.include_usage))

    def max_tokens(self, chosen: Chosen, *wanted: int | None) -> int:
        """The first bound that was given; never more than the context."""
        given = next((number for number in wanted if number is not None), self.limits.max_tokens)
        return min(given, chosen.engine.ready.context)

    def check(self, question: Question, chosen: Chosen, *, choices: int) -> None:
        """What only the server and the model can know of a question to be wrong. Raises ApiError."""
        if choices > self.limits.choices:
            said = f"{choices} answers to one request; this server gives {self.limits.choices}"
            raise ApiError(400, said, code="too_many_choices", param="n")
        highest = chosen.engine.ready.vocab_size - 1
        if foreign := [token for token in question.logit_bias or () if len(token) > 9 or int(token) > highest]:
            said = f"token {foreign[0][:20]} is none of this model's, 0 to {highest}"
            raise ApiError(400, said, code="invalid_value", param="logit_bias")


def create_app(
    server: Server, *, keys: Sequence[str] = (), hosts: frozenset[str] = frozenset(), origins: Sequence[str] = ()
) -> FastAPI:
    """The application: log, then CORS, then gate, then routes."""
    app = FastAPI(title="MiniMind", version="1", docs_url=None, redoc_url=None)  # those pages load scripts from afar
    app.include_router(_talk(server))
    app.include_router(_state(server))
    app.add_exception_handler(HTTPException, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_wrong_fields)
    app.add_exception_handler(Exception, _on_fault)
    app.add_middleware(Gate, keys=keys, hosts=hosts, is_stopping=lambda: server.is_stopping)
    if origins:
        app.add_middleware(Cors, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Log, finished=_counting(server))
    return app


def _talk(server: Server) -> APIRouter:
    """The routes that ask an engine."""
    router = APIRouter(prefix="/v1", route_class=strict_route(server.limits), responses=_ERRORS)

    @router.post("/chat/completions", response_model=ChatCompletion, responses={200: {"content": _STREAM}})
    async def chat_completions(question: ChatQuestion, request: Request) -> Response:
        """The next turn of a conversation."""
        chosen = server.fleet.choose(question.model)
        server.check(question, chosen, choices=question.num_choices)
        max_tokens = server.max_tokens(chosen, question.max_completion_tokens, question.max_tokens)
        sampling = question.sampling(max_tokens=max_tokens) | _chat_sampling(question)
        fields = {"messages": turns_of(question, server.limits), "adapter": chosen.adapter}
        asks = [
            {**fields, "sampling": {**sampling, "seed": question.seed_of(choice)}}
            for choice in range(question.num_choices)
        ]
        form = ChatAnswer(_heading("chatcmpl", chosen), question)
        return server.reply(question, chosen, visit=Visit.of(request.scope), form=form, asks=asks)

    @router.post("/completions", response_model=Completion, responses={200: {"content": _STREAM}})
    async def completions(question: CompletionQuestion, request: Request) -> Response:
        """What follows a text, or each of several."""
        chosen = server.fleet.choose(question.model)
        server.check(question, chosen, choices=question.num_choices * len(question.prompts))
        _check_lengths(question, server.limits)
        sampling = question.sampling(max_tokens=server.max_tokens(chosen, question.max_tokens))
        if question.logprobs is not None:
            sampling["logprobs"] = question.logprobs
        asks = [
            {
                "prompt": prompt,
                "adapter": chosen.adapter,
                "split": False,
                "sampling": {**sampling, "seed": question.seed_of(choice)},
            }
            for prompt in question.prompts
            for choice in range(question.num_choices)
        ]
        form = TextAnswer(_heading("cmpl", chosen), question)
        return server.reply(question, chosen, visit=Visit.of(request.scope), form=form, asks=asks)

    return router


def _state(server: Server) -> APIRouter:
    """The routes that say how things are."""
    router = APIRouter()

    @router.get("/v1/models", response_model=ModelList, responses=_ERRORS)
    async def models() -> Response:
        """All models and adapters, and where they come from."""
        return _json(ModelList(object="list", data=server.fleet.cards()))

    @router.get("/v1/models/{model:path}", response_model=ModelCard, responses=_ERRORS)
    async def model(model: str) -> Response:
        """One of them."""
        for card in server.fleet.cards():
            if card.id == model:
                return _json(card)
        raise ApiError(404, f"no model {model[:100]!r} is served here", code="model_not_found", param="model")

    @router.get("/health", response_model=Health, responses={503: {"model": Health}, "4XX": {"model": ErrorBody}})
    async def health(request: Request) -> Response:
        """Whether every model answers; those without a key learn no more than that."""
        troubles = await server.fleet.troubles()
        well = not any(troubles.values()) and not server.is_stopping
        status = "ok" if well else "stopping" if server.is_stopping else "unavailable"
        said = Health(status=status)
        if Visit.of(request.scope).has_key:
            states = {name: trouble or "ok" for name, trouble in troubles.items()}
            said = Health(status=status, models=states, warnings=server.fleet.warnings())
        return _json(said, 200 if well else 503)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_ERRORS})
    async def metrics() -> Response:
        """Prometheus' text."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _chat_sampling(question: ChatQuestion) -> dict[str, Any]:
    """What only chats can ask of the engine."""
    wanted: dict[str, Any] = {}
    if question.logprobs:
        wanted["logprobs"] = question.top_logprobs or 0
    if question.response_format is not None and question.response_format.type == "json_object":
        wanted["json_object"] = True
    return wanted


def _check_lengths(question: CompletionQuestion, limits: Limits) -> None:
    longest = max(map(len, question.prompts))
    if longest > limits.content_chars:
        said = f"a prompt is {longest} long; this server takes {limits.content_chars}"
        raise ApiError(400, said, code="string_above_max_length", param="prompt")


def _heading(prefix: str, chosen: Chosen) -> Heading:
    fingerprint = chosen.version.system_fingerprint
    return Heading(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), chosen.name, fingerprint)


def _json(answer: Answer, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _counting(server: Server) -> Callable[[Scope, Visit], None]:
    def count(scope: Scope, visit: Visit) -> None:
        route = getattr(scope.get("route"), "path", "")
        server.metrics.requests.labels(route, visit.model, str(visit.status)).inc()
        if visit.model:
            server.metrics.duration.labels(visit.model).observe(time.monotonic() - visit.began_at)

    return count


async def _on_refusal(_: Request, error: Exception) -> JSONResponse:
    """Ours, and those of the framework: an unknown path, a wrong method."""
    if isinstance(error, ApiError):
        return error.response()
    assert isinstance(error, HTTPException)
    code = {404: "unknown_path", 405: "method_not_allowed"}.get(error.status_code)
    return ApiError(error.status_code, str(error.detail), code=code, headers=error.headers).response()


async def _on_wrong_fields(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return unprocessable(error.errors(), known_fields()).response()


async def _on_fault(_: Request, error: Exception) -> JSONResponse:
    """Our own mistake: it is in the log, with its place."""
    return ApiError(500, "an error inside the server; its log says where", code="internal_error").response()

"""What the server says when it cannot answer: an exception with a status, and the JSON that OpenAI's clients expect.

    {"error": {"message": …, "type": …, "param": …, "code": …}}

Every refusal has this shape, those of the framework and of the HTTP parser too (`api`, `connection`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from minimind.infer.protocol import Refused

RETRY_SECONDS = 1
"""What `Retry-After` says: places become free whenever an answer ends, which is often."""
CLOSE = {"Connection": "close"}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_STATUS_OF_REFUSAL = {"unknown_adapter": 404, "overloaded": 429, "model_failure": 500}


class ErrorDetail(BaseModel):
    """Why there is no answer."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


class ApiError(HTTPException):
    """A request that is refused or failed. `param` names the field at fault, `code` is a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        retry = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else {}
        super().__init__(status, message, {**retry, **(headers or {})})
        kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
        self.body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))

    def response(self) -> JSONResponse:
        return JSONResponse(self.body.model_dump(), self.status_code, headers=self.headers)


def refused(message: Refused, prompt_field: str) -> ApiError:
    """An engine's refusal, as the status that says whose fault it is."""
    status = _STATUS_OF_REFUSAL.get(message.code, 400)
    code = None if message.code == "invalid_request" else message.code
    param = prompt_field if message.code == "context_length_exceeded" else None
    return ApiError(status, message.message, code=code, param=param)


def unprocessable(details: Sequence[Mapping[str, Any]], fields: frozenset[str]) -> ApiError:
    """What pydantic found wrong, as one sentence about the first field; `fields` are the names a client can know."""
    first = details[0]
    param = _path(first["loc"], fields)
    if first["type"] == "missing" and not param:
        return ApiError(400, "the body is empty; send a JSON object")
    message = re.sub(r"^Value error, ", "", first["msg"])
    if own := re.match(r"`(\w+)`", message):  # what a check of several fields found names its field first
        return ApiError(400, message, code="invalid_value", param=own[1])
    others = {_path(detail["loc"], fields) for detail in details} - {param}
    more = f" (also wrong: {', '.join(sorted(others)[:5])})" if others else ""
    where = f"{param}: " if param else ""
    return ApiError(400, f"{where}{message[:1].lower()}{message[1:]}{more}", code="invalid_value", param=param or None)


def _path(location: Sequence[int | str], fields: frozenset[str]) -> str:
    """`messages[0].content`: the place without the steps that only pydantic knows (the members of a union)."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step in fields:
            path += f".{step}" if path else step
    return path

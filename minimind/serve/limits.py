"""What a client may ask of the server: how much, how many at once, for how long. Every one is an option of the command.

Limits of single fields, which nobody needs to change, stand in `questions`.
"""

from typing import Annotated

from pydantic import Field

from minimind.config import Config

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Limits(Config):
    """Bounds that keep one client from taking what all the others need."""

    body_bytes: Count = 2 * 2**20
    """Of a request. More than any context of ours holds, less than hurts."""
    body_seconds: Seconds = 30
    """From the first byte of a body to the last."""
    header_seconds: Seconds = 10
    """From the connection, or the first byte of a further request, to the end of its head."""
    idle_seconds: Seconds = 30
    """A connection is kept so long without a request on it."""
    connections: Count = 1024
    requests: Count = 256
    """Answers under way at once, of all models; those that wait for a place in an engine count."""
    request_seconds: Seconds = 600
    """From the end of the body to the end of the answer, delivered."""
    messages: Count = 2048
    content_chars: Count = 1_000_000
    """Of one message, or of one prompt."""
    choices: Count = 16
    """Answers to one request: `n`, times the prompts of a completion."""
    max_tokens: Count = 1024
    """Of an answer where the request does not say; the context is the bound for those who do."""

"""A line of questions in, a line of answers out: what a row may ask for, and what is written of its answer.

    {"messages": [{"role", "content", …}, …], "tools"?}   as OpenAI has it; it ends where an answer is due
    {"conversations": [{"role", "content", …}, …]}        a chat row: what follows its last user turn is answered anew
    {"question": "…"}                                     one user turn
    {"prompt": "…"}                                       the beginning of a text, to be continued

A row may carry `sampling`, settings of its own over those of the run, and any other keys; all are copied. Added is
`generated`, one object, because rows of tests often have an `answer` of their own; and in a conversation the answer's
turn, so that the rows of a result are rows to learn from.

Not here: reading files (`minimind.data.reading`), asking the model (`batch_jobs`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from minimind.config import Config
from minimind.data.documents import Message, check_row, type_name
from minimind.data.reading.files import MAX_ROW_BYTES
from minimind.data.reading.shapes import convert
from minimind.data.reading.strict_json import RowError, read_json
from minimind.infer.calls import read_calls
from minimind.infer.generate import Completion, prompt_ids
from minimind.infer.protocol import Channel
from minimind.infer.sampling import Sampling
from minimind.infer.text import Channels, TextStream
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer

ASKING = ("messages", "conversations", "question", "prompt")
"""Keys by which a row asks; the first that is there counts."""
GENERATED = "generated"


@dataclass(frozen=True)
class Question:
    """A row that can be asked."""

    row: dict[str, Any]
    key: str
    """Which of `ASKING` it asks by."""
    turns: list[Message] | None
    """None for a text to be continued."""
    sampling: Sampling


class Generated(Config):
    """What became of a question: the object `generated` of an answered row."""

    text: str
    reasoning: str | None
    """What stood in think tags before the answer."""
    tool_calls: list[dict[str, Any]]
    """`{"name", "arguments"}` each."""
    finish_reason: str
    """`stop`, or `length` where `max_tokens` or the model's context cut the answer off."""
    prompt_tokens: int
    completion_tokens: int
    seed: int
    file: str
    line: int
    """Where the row was read, from 1."""


def read_question(raw: bytes, sampling: Sampling, *, number: int) -> Question:
    """The question in a line of the input, as `question_of` reads it."""
    if len(raw) > MAX_ROW_BYTES:
        raise RowError("too_long", f"more than {MAX_ROW_BYTES >> 20} MiB in one row")
    return question_of(read_json(raw), sampling, number=number)


def question_of(row: Any, sampling: Sampling, *, number: int) -> Question:
    """The question in a row; `number` is its own among all rows. Raises RowError or ConfigError.

    A row without a seed of its own gets one that follows from the run's and `number` alone.
    """
    if not isinstance(row, dict):
        raise RowError("not_object", f"a row is an object; this is {type_name(row)}")
    key = next((key for key in ASKING if row.get(key) is not None), "")
    if not key:
        found = ", ".join(f"`{name}`" for name in list(row)[:6]) or "nothing"
        raise RowError("missing_field", f"none of {', '.join(ASKING)}; found {found}")
    return Question(row, key, _turns(row, key), _own_sampling(row, sampling, number))


def ids_of(question: Question, tokenizer: Tokenizer, *, context: int) -> list[int]:
    """The tokens the model is to continue. Raises RowError where they leave no room in its context."""
    if question.turns is None:
        ids = prompt_ids(tokenizer, question.row["prompt"], raw=True)
    else:
        ids = render_prompt(question.turns, tokenizer)
    if len(ids) >= context:
        raise RowError("too_long", f"{len(ids)} tokens, and the model's context of {context} has no room for an answer")
    return ids


def answered_row(
    question: Question, completion: Completion, tokenizer: Tokenizer, *, prompt_tokens: int, file: str, line: int
) -> dict[str, Any]:
    """The row with its answer."""
    parts = _channels(question, completion, tokenizer)
    calls = read_calls(parts["tool_call"])
    generated = Generated(
        text=parts["content"] if calls is not None else parts["content"] + parts["tool_call"],
        reasoning=parts["reasoning"].strip() or None,
        tool_calls=[call._asdict() for call in calls or []],
        finish_reason=completion.finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion.tokens,
        seed=question.sampling.seed or 0,
        file=file,
        line=line,
    )
    row = {**question.row, GENERATED: generated.model_dump()}
    if question.key in ("messages", "conversations"):
        row[question.key] = [*_asked(question.row, question.key), _turn(generated, question.key)]
    return row


def _channels(question: Question, completion: Completion, tokenizer: Tokenizer) -> dict[Channel, str]:
    """What was said, thought and called. A text that goes on has but one part: its tags are its own."""
    parts: dict[Channel, str] = {"content": "", "reasoning": "", "tool_call": ""}
    if question.turns is None:
        return parts | {"content": completion.text}
    stream, channels = TextStream(tokenizer, question.sampling.stop), Channels()
    spans = [span for token in completion.ids for span in stream.feed(token)]
    for span in spans if stream.stop_text is not None else [*spans, *stream.finish()]:
        if news := channels.feed(span):
            channel, text = news
            parts[channel] += text
    return parts


def _turns(row: Mapping[str, Any], key: str) -> list[Message] | None:
    """The conversation a row asks to go on with, in our canonical shape."""
    if key == "messages":
        prompt = convert("messages", "prompt", row)["conversations"]
    elif key == "conversations":
        prompt = _asked(row, key)
    elif not isinstance(row[key], str):
        raise RowError("wrong_type", f"{key} is {type_name(row[key])}; a string was expected")
    elif not row[key].strip():
        raise RowError("empty_text", f"{key} is blank")
    else:
        prompt = row[key]
    turns = check_row("prompt", {"prompt": prompt})["prompt"]
    return None if key == "prompt" else turns


def _asked(row: Mapping[str, Any], key: str) -> list[Any]:
    """The turns of a row that stay: of `conversations` those up to the last of the user."""
    turns = row[key]
    if not isinstance(turns, list):
        raise RowError("wrong_type", f"{key} is {type_name(turns)}; a list of turns was expected")
    if key == "messages":
        return turns
    last = max(
        (n for n, turn in enumerate(turns, 1) if isinstance(turn, Mapping) and turn.get("role") == "user"), default=0
    )
    if not last:
        raise RowError("bad_turn_order", f"{key} has no user turn")
    return turns[:last]


def _own_sampling(row: Mapping[str, Any], sampling: Sampling, number: int) -> Sampling:
    own = row.get("sampling")
    if own is not None and not isinstance(own, Mapping):
        raise RowError("wrong_type", f"sampling is {type_name(own)}; an object was expected")
    values = {**sampling.model_dump(), "seed": _seed(sampling.seed or 0, number), **(own or {})}
    if values["seed"] is None:
        values["seed"] = _seed(sampling.seed or 0, number)
    return Sampling.parse(values, origin="sampling")


def _seed(seed: int, number: int) -> int:
    """63 bits that depend on the run's seed and the row's number alone, so that no row changes another's answer."""
    return xxhash.xxh3_64_intdigest(f"{seed}:{number}".encode()) >> 1


def _turn(generated: Generated, key: str) -> dict[str, Any]:
    """The answer as a turn, its calls of tools as OpenAI writes them or as our rows do."""
    turn: dict[str, Any] = {"role": "assistant", "content": generated.text}
    if generated.reasoning:
        turn["reasoning_content"] = generated.reasoning
    if generated.tool_calls and key == "conversations":
        turn["tool_calls"] = generated.tool_calls
    elif generated.tool_calls:
        calls = [
            {**call, "arguments": json.dumps(call["arguments"], ensure_ascii=False)} for call in generated.tool_calls
        ]
        turn["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": call} for number, call in enumerate(calls)
        ]
    return turn

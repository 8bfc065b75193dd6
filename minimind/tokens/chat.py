"""A conversation as ids, and which of them are learnt; the same as a Jinja template for others.

    <|im_start|>{role}\\n{content}<|im_end|>\\n

- Special tokens are put in by id. What people wrote is encoded as ordinary text, so a user who types
  `<|im_end|>` ends nothing.
- Learnt are an assistant's words, its reasoning, its calls of tools and the `<|im_end|>` after them; not
  the header, not the `\\n` after the turn, not what the others say.
- Reasoning stands before the content as `<think>\\n…\\n</think>\\n\\n`; a call of tools after it as
  `<tool_call>\\n…\\n</tool_call>`, its JSON as it stands in the row; what a tool answers is a user turn
  with `<tool_response>\\n…\\n</tool_response>`.
- Tools are listed in the system turn, which is made where the row has none.
- A content loses line feeds at its start. They say nothing, and without them no piece of the vocabulary
  reaches across a turn's header (`minimind.tokens.vocabulary`), so the header's ids are the same in training
  and in a prompt, and for tokenizers that encode header and content in one go.

A tokenizer that this project did not train may lack the tokens of tools and reasoning: their names are then written as
text, in one piece with the text around them.

`CHAT_TEMPLATE` gives the same ids through transformers, except where a text spells out a special
token: there the stock tokenizer reads the token, and this module the text. With a foreign tokenizer also where a
content begins with blanks: such a tokenizer may join them to the header's line feed, and this module never does.
Not here: which conversations are allowed (`minimind.data.documents`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minimind.errors import DataError
from minimind.tokens.vocabulary import SPECIAL_TOKENS, SpecialIds

if TYPE_CHECKING:
    from minimind.tokens.tokenizer import Tokenizer

Message = Mapping[str, str | None]
"""role, content, and where wanted reasoning_content, tools, tool_calls (the last two as JSON)."""

PROMPT_HEADER = "assistant\n"
_IM_START, _IM_END, _TOOL_CALL, _TOOL_CALL_END, _TOOL_RESPONSE, _TOOL_RESPONSE_END, _THINK, _THINK_END = SPECIAL_TOKENS[
    1:9
]
_Tags = Mapping[str, int | str]
"""Name of a special token → its id, or the name again where it has none and is written as text."""
_FREQUENT = (*(f"{role}\n" for role in ("system", "user", "assistant")), "\n")
"""What every turn has, so it is encoded once for a batch."""
_TOOLS_BEFORE = "# Tools\n\nYou can call these functions, whose signatures are given as JSON:\n<tools>\n"
_TOOLS_AFTER = "\n</tools>\n\nTo call one, give its name and its arguments as a JSON object:\n"
_CALL_EXAMPLE = '\n{"name": <name>, "arguments": <object>}\n'

CHAT_TEMPLATE = (
    """\
{%- set listed = namespace(tools='') %}
{%- if tools is defined and tools %}
    {%- for tool in tools %}
        {%- set listed.tools = listed.tools + ('' if loop.first else '\\n') + (tool | tojson) %}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.tools and not listed.tools %}
        {%- set listed.tools = message.tools %}
    {%- endif %}
{%- endfor %}
{%- macro tool_list() %}
    {{- BEFORE + listed.tools + AFTER + '<tool_call>' + EXAMPLE + '</tool_call>' }}
{%- endmacro %}
{%- if listed.tools and messages[0].role != 'system' %}
    {{- '<|im_start|>system\\n' + tool_list() + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = (message.content or '').lstrip('\\n') %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + (message.content or '') + '\\n</tool_response>' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.reasoning_content %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- if message.tool_calls %}
            {{- '\\n' if content else '' }}
            {%- if message.tool_calls is string %}
                {{- '<tool_call>\\n' + message.tool_calls + '\\n</tool_call>' }}
            {%- else %}
                {{- '<tool_call>\\n' + (message.tool_calls | tojson) + '\\n</tool_call>' }}
            {%- endif %}
        {%- endif %}
    {%- elif message.role in ('system', 'user') %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- if loop.first and message.role == 'system' and listed.tools %}
            {{- ('\\n\\n' if content else '') + tool_list() }}
        {%- endif %}
    {%- else %}
        {{- raise_exception('role ' + message.role + '; allowed: system, user, assistant, tool') }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""".replace("BEFORE", repr(_TOOLS_BEFORE))
    .replace("AFTER", repr(_TOOLS_AFTER))
    .replace("EXAMPLE", repr(_CALL_EXAMPLE))
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids; `trained[i]` says that `ids[i]` is learnt, as the target of what stands before it."""

    ids: list[int]
    trained: list[bool]
    trained_bytes: int
    """UTF-8 bytes of the learnt text, what bits per byte are measured by."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A special token's id, or a text to be encoded on its own."""

    content: int | str
    trained: bool = False


def render(messages: Sequence[Message], tokenizer: "Tokenizer", *, last_turn_only: bool = False) -> Rendered:
    """The conversation as ids and mask; with `last_turn_only` nothing but the last turn is learnt (preferences)."""
    return render_batch([messages], tokenizer, last_turn_only=last_turn_only)[0]


def render_batch(
    conversations: Sequence[Sequence[Message]], tokenizer: "Tokenizer", *, last_turn_only: bool = False
) -> list[Rendered]:
    """`render` of each conversation, encoded in one go."""
    tags = _tags(tokenizer.specials)
    planned = [list(_conversation(messages, last_turn_only, tags)) for messages in conversations]
    texts = [part.content for parts in planned for part in parts if isinstance(part.content, str)]
    rare = [text for text in texts if text not in _FREQUENT]
    frequent = dict(zip(_FREQUENT, tokenizer.encode_batch(_FREQUENT), strict=True))
    encoded = iter(tokenizer.encode_batch(rare))
    return [_assemble(parts, frequent, encoded) for parts in planned]


def render_prompt(messages: Sequence[Message], tokenizer: "Tokenizer") -> list[int]:
    """The conversation as ids and the header of the assistant's turn, which is to be continued."""
    return [*render(messages, tokenizer).ids, tokenizer.specials.im_start, *tokenizer.encode(PROMPT_HEADER)]


def _tags(specials: SpecialIds) -> _Tags:
    return {**{name: name for name in SPECIAL_TOKENS[1:9]}, **{name: index for index, name in specials.named().items()}}


def _assemble(parts: list[_Part], frequent: Mapping[str, list[int]], encoded: Iterator[list[int]]) -> Rendered:
    ids: list[int] = []
    trained: list[bool] = []
    trained_bytes = 0
    for part in parts:
        if isinstance(part.content, str):
            new = frequent[part.content] if part.content in frequent else next(encoded)
            ids += new
            trained += [part.trained] * len(new)
            trained_bytes += len(part.content.encode("utf-8")) if part.trained else 0
        else:
            ids.append(part.content)
            trained.append(part.trained)
    return Rendered(ids, trained, trained_bytes)


def _conversation(messages: Sequence[Message], last_turn_only: bool, tags: _Tags) -> Iterator[_Part]:
    tools = next((listed for message in messages if (listed := message.get("tools"))), None)
    if tools and messages[0]["role"] != "system":
        yield from _turn("system", _tool_list("", tools, tags), tags)
    for number, message in enumerate(messages):
        content = (message["content"] or "").lstrip("\n")
        match message["role"]:
            case "assistant":
                learnt = not last_turn_only or number == len(messages) - 1
                yield from _turn("assistant", _answer(message, content, learnt, tags), tags, trained=learnt)
            case "tool":
                response = _Part(f"\n{message['content'] or ''}\n")
                yield from _turn("user", [_Part(tags[_TOOL_RESPONSE]), response, _Part(tags[_TOOL_RESPONSE_END])], tags)
            case "system" if tools and number == 0:
                yield from _turn("system", _tool_list(content, tools, tags), tags)
            case "system" | "user" as role:
                yield from _turn(role, [_Part(content)], tags)
            case role:
                raise DataError(f"role {role!r} in a conversation; allowed: system, user, assistant, tool")


def _turn(role: str, content: Sequence[_Part], tags: _Tags, *, trained: bool = False) -> Iterator[_Part]:
    yield _Part(tags[_IM_START])
    yield _Part(f"{role}\n")
    yield from _joined(content)
    yield _Part(tags[_IM_END], trained)
    yield _Part("\n")


def _joined(parts: Sequence[_Part]) -> Iterator[_Part]:
    """The parts of a turn's content, neighbouring texts as one: a tag without an id is a part of the text around it."""
    run = ""
    for part in parts:
        if isinstance(part.content, str):
            run += part.content
            continue
        if run:
            yield _Part(run, part.trained)
        run = ""
        yield part
    if run:
        yield _Part(run, parts[-1].trained)


def _answer(message: Message, content: str, trained: bool, tags: _Tags) -> list[_Part]:
    """Reasoning, content and tool calls of an assistant's turn; each text is what stands between two special ids."""
    parts = []
    if reasoning := message.get("reasoning_content"):
        thought = _Part(f"\n{reasoning}\n", trained)
        parts = [_Part(tags[_THINK], trained), thought, _Part(tags[_THINK_END], trained)]
    calls = message.get("tool_calls")
    text = ("\n\n" if reasoning else "") + content + ("\n" if calls and content else "")
    parts.append(_Part(text, trained))
    if calls:
        call = _Part(f"\n{calls}\n", trained)
        parts += [_Part(tags[_TOOL_CALL], trained), call, _Part(tags[_TOOL_CALL_END], trained)]
    return parts


def _tool_list(content: str, tools: str, tags: _Tags) -> list[_Part]:
    """The system turn's words and the list of tools behind them."""
    text = (f"{content}\n\n" if content else "") + _TOOLS_BEFORE + tools + _TOOLS_AFTER
    return [_Part(text), _Part(tags[_TOOL_CALL]), _Part(_CALL_EXAMPLE), _Part(tags[_TOOL_CALL_END])]

"""What is said, as HTML that is safe to show: a model's Markdown, and a user's words as they stand.

Streamlit's own Markdown makes formulas of prices, pictures of `:words:`, charts of code, and loads images from wherever
a model says. So Markdown is read here, by the CommonMark rules with tables: HTML in it is shown as text, images become
links, links lead only to web and mail addresses, and dollars, colons and arrows stay what they are. Not here: where it
is put on the page, and how it looks (`page.css`).
"""

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from minimind.serve.webui.chats import Message, Problem, ToolCall
from minimind.serve.webui.words import Say

_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_WEB_LINK = re.compile(r"(https?|mailto):", re.IGNORECASE)
FINISHES = ("stop", "length", "tool_calls")


def reader() -> MarkdownIt:
    """Markdown as models write it: tables and strikethrough, a line break for a line break, no HTML, no images."""
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 50})
    markdown.enable(["table", "strikethrough"]).disable("image")
    markdown.validateLink = lambda url: bool(_WEB_LINK.match(url))  # type: ignore[method-assign]
    markdown.add_render_rule("link_open", _link)
    markdown.add_render_rule("table_open", lambda *_: '<div class="mm-wide"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return markdown


def answer(text: str, markdown: MarkdownIt) -> str:
    """A model's Markdown as HTML."""
    return f'<div class="mm-answer">{markdown.render(text.translate(_CONTROLS))}</div>'


def literal(text: str, style: str = "mm-said") -> str:
    """Text as it stands, line breaks and all."""
    return f'<div class="{style}">{escape(text.translate(_CONTROLS))}</div>'


def continued(prompt: str, text: str) -> str:
    """A text the model went on with: what was given is paler."""
    given, more = (escape(part.translate(_CONTROLS)) for part in (prompt, text))
    return f'<div class="mm-said mm-text"><span class="mm-given">{given}</span>{more}</div>'


def folded(summary: str, body: str, *, is_open: bool = False) -> str:
    """A line that opens to show `body`, which is HTML."""
    return f'<details class="mm-fold"{" open" if is_open else ""}><summary>{escape(summary)}</summary>{body}</details>'


def calls(tool_calls: Iterable[ToolCall], say: Say) -> str:
    """Calls of tools, each folded, with its arguments laid out where they are JSON."""
    return "".join(
        folded(say("call", name=call.name), f"<pre><code>{escape(_laid_out(call.arguments))}</code></pre>")
        for call in tool_calls
    )


def caption(message: Message, say: Say) -> str:
    """One small line: model, how it ended, tokens, rate, time to the first token."""
    parts = [message.model] if message.model else []
    if message.state == "stopped":
        parts.append(say("stopped"))
    elif message.finish_reason:
        known = message.finish_reason in FINISHES
        parts.append(
            say(f"finish_{message.finish_reason}") if known else say("finish_other", reason=message.finish_reason)
        )
    figures = message.figures
    if figures is not None:
        if figures.completion_tokens is not None:
            prompt = "?" if figures.prompt_tokens is None else figures.prompt_tokens
            parts.append(say("tokens", prompt=prompt, completion=figures.completion_tokens))
        if figures.tokens_per_second is not None:
            about = "" if figures.completion_tokens is not None else "≈ "
            parts.append(say("rate", rate=f"{about}{figures.tokens_per_second:.1f}"))
        if figures.first_token_seconds is not None:
            parts.append(say("first_token", seconds=f"{figures.first_token_seconds:.2f}"))
        parts.append(say("seconds", seconds=f"{figures.seconds:.1f}"))
    return f'<div class="mm-caption">{" · ".join(map(escape, parts))}</div>'


def problem(found: Problem, say: Say, *, url: str) -> str:
    """What went wrong in the page's words, and under it the server's own."""
    wait = found.retry_after
    if found.kind == "rate_limited" and wait:
        words = say("rate_limited_until", wait=f"{wait} s" if wait.isdecimal() else wait)
    else:
        words = say(found.kind, url=url, command="minimind serve dpo")
    said = f'<div class="mm-quote">{escape(say("server_said"))} {escape(found.message)}</div>' if found.message else ""
    return f'<div class="mm-problem">{_with_code(words)}{said}</div>'


def notice(words: str) -> str:
    """The page's own words about something that is not right."""
    return f'<div class="mm-problem">{_with_code(words)}</div>'


def waiting(message: Message, say: Say) -> str:
    """What stands where an answer will be."""
    return f'<div class="mm-caption">{escape(" · ".join(filter(None, (message.model, say("answering")))))}</div>'


def plain_label(text: str) -> str:
    """Text for a label of Streamlit, which reads Markdown: every mark of it as it stands."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!~|<>$&])", r"\\\1", text.translate(_CONTROLS)).replace(":", ":\u2060")


def facts(values: dict[str, Any], say: Say) -> str:
    """What the server tells of a model beyond its name, as a small table; empty where it tells nothing."""
    names = ("kind", "parameters", "context", "precision", "fingerprint", "parents")
    rows = [(say(name), _fact(values[name])) for name in names if values.get(name)]
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="mm-facts">{cells}</table>' if rows else ""


def _link(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A link that opens beside the page and tells the other side nothing of it."""
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    return self.renderToken(tokens, index, options, env)


def _with_code(words: str) -> str:
    """The page's own words, with what stands in backticks as code."""
    parts = (escape(part) for part in words.split("`"))
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _laid_out(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False, indent=2)
    except ValueError:
        return arguments


def _fact(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {str(one)[:8]}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

"""The rule on the chat template: what is handed out with a tokenizer gives the ids that the training sees.

The template is run as stock programs run it, in Jinja's sandbox, and its text is encoded by the exported
`tokenizer.json`, which finds special tokens in it. Rows that spell out a special token are passed over: there the two
differ on purpose (`minimind.tokens.chat`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minimind.errors import ArtifactError, MissingError
from minimind.tokens.hf_tokenizer import CONFIG_FILE, FAST_FILE
from minimind.tokens.vocabulary import SPECIAL_TOKENS

TEMPLATE_FILE = "chat_template.jinja"
"""Where newer programs keep it, beside tokenizer_config.json."""
Turns = Sequence[Mapping[str, Any]]


class ExportedTemplate:
    """The template and the fast tokenizer in a directory."""

    def __init__(self, directory: Path) -> None:
        """Raises MissingError where there is no template, ArtifactError where it cannot be read."""
        import tokenizers
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        config = _read_config(directory / CONFIG_FILE)
        source = config.get("chat_template") or _read(directory / TEMPLATE_FILE)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
            self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / FAST_FILE))
        except TemplateError as error:
            raise ArtifactError(f"{directory}: its chat template is not Jinja ({error}); mend or remake it") from None
        except Exception as error:  # what the Rust side raises has no class of its own
            raise ArtifactError(f"{directory / FAST_FILE}: cannot be read ({error}); make it again") from None
        self._names = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token")}

    def ids(self, turns: Turns, *, with_header: bool = False) -> list[int]:
        """What a stock program makes of a conversation; `with_header` adds that of the answer to come."""
        text = self._template.render(messages=list(turns), add_generation_prompt=with_header, **self._names)
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def spells_special_token(turns: Turns) -> bool:
    """Whether a text of the conversation contains the name of a special token."""
    names = ("content", "reasoning_content", "tools", "tool_calls")
    texts = [text for turn in turns for name in names if (text := turn.get(name))]
    return any(token in text for text in texts if "<" in text for token in SPECIAL_TOKENS)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """The first position where two lists of ids differ."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path}: missing beside the tokenizer; run the stage tokenizer again") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: is no JSON ({error}); run the stage tokenizer again") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingError(f"{path.parent}: no `chat_template` in {CONFIG_FILE} and no {TEMPLATE_FILE}") from None

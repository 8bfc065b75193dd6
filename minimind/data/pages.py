"""Pages: Jinja templates that know how figures and foreign texts are shown (`wording`).

Not here: what a page says; each report has its templates beside it.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from minimind.data import wording

_WORDING = (
    wording.thousands,
    wording.percent,
    wording.size,
    wording.words,
    wording.visible,
    wording.cell,
    wording.code,
)


@cache
def template(path: Path, *filters: Callable[..., Any], trim: bool = True) -> Template:
    """The template at `path`, with `filters` of its own by their names; `….html.j2` escapes what it is given.

    A name that a template uses and nobody gives is an error. With `trim` a line of nothing but a block is no line.
    """
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=path.name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=trim,
        lstrip_blocks=trim,
        keep_trailing_newline=True,
    )
    environment.filters |= {filter.__name__: filter for filter in (*_WORDING, *filters)}
    return environment.get_template(path.name)

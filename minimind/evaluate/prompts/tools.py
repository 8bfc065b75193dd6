"""The tools of a prompt, and whether a call fits one of them.

A tool is an object with a name and, as `parameters`, a JSON Schema of its arguments. A call fits when such a tool is
there and its arguments are what the schema allows. An argument that the schema does not name is wrong, as it would be
for the function behind it, unless the schema speaks of further ones itself.

Nothing is ever fetched: a `$ref` out of the schema is refused when tools are read. A `pattern` in a schema is Python's,
and one that takes exponential time is for its author to mend. Not here: reading what a model wrote
(`minimind.infer.calls`), what a call was expected to be (`checks`).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from minimind.config import nearest
from minimind.data.documents import type_name
from minimind.errors import DataError
from minimind.infer.calls import Call

Tools = Mapping[str, Validator]
"""Name of a tool → what checks its arguments."""
FAULT_CHARS = 200
"""Of a fault that quotes arguments: they may be as long as an answer."""
_OPEN = frozenset(("additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf"))
"""Keys of a schema that may allow arguments which `properties` does not name."""


def read_tools(tools: str | None) -> Tools:
    """The tools of a JSON list, by name. Raises DataError for one that cannot be called, and says why."""
    found: dict[str, Validator] = {}
    for tool in json.loads(tools) if tools else []:
        name, schema = tool.get("name"), tool.get("parameters") or {}
        if not isinstance(name, str) or not name:
            raise DataError(f"a tool has the name {name!r}; give it one as a string")
        if name in found:
            raise DataError(f"two tools are called `{name}`; give each a name of its own")
        if not isinstance(schema, dict):
            raise DataError(f"tool `{name}`: parameters is {type_name(schema)}; a JSON Schema was expected")
        found[name] = _validator(name, schema)
    return found


def call_fault(call: Call, tools: Tools) -> str | None:
    """What is wrong with a call, in words."""
    if call.name not in tools:
        return f"called {call.name[:FAULT_CHARS]!r}, and there is no such tool{nearest(call.name[:80], list(tools))}"
    try:
        json.dumps(call.arguments, allow_nan=False)
        error = best_match(tools[call.name].iter_errors(call.arguments))
    except (ValueError, OverflowError):
        return f"the arguments of `{call.name}` have NaN, infinity or a number beyond all bounds"
    except RecursionError:
        return f"the arguments of `{call.name}` are nested too deeply"
    if error is None:
        return None
    where = ".".join(map(str, error.absolute_path))
    return f"`{call.name}`{f', {where}' if where else ''}: {error.message}"[:FAULT_CHARS]


def _validator(name: str, schema: Mapping[str, Any]) -> Validator:
    closed = {**schema, "additionalProperties": False} if "properties" in schema and not _OPEN & set(schema) else schema
    try:
        Draft202012Validator.check_schema(closed)
    except SchemaError as error:
        raise DataError(f"tool `{name}`: parameters are no JSON Schema: {error.message[:FAULT_CHARS]}") from None
    registry: Registry[Any] = Registry()
    resolver = registry.resolver_with_root(DRAFT202012.create_resource(closed))
    for reference in _references(closed):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise DataError(f"tool `{name}`: $ref {reference!r} leads nowhere; write it out in the schema") from None
    return Draft202012Validator(closed, registry=registry)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (value[key] for key in ("$ref", "$dynamicRef") if isinstance(value.get(key), str))
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _references(inner)

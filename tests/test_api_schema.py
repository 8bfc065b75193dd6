"""The server against its own OpenAPI: whatever is made of the schema, the answer follows it and is no fault."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server_process import ServerProcess, serving

from minimind.serve.questions import ChatQuestion, CompletionQuestion

NOTHING_OF_OURS = ["ignore::DeprecationWarning", "ignore::UserWarning"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving({"echo": tmp_path_factory.mktemp("echo")}) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=10) as client:
        yield client


@pytest.mark.slow
@pytest.mark.filterwarnings(*NOTHING_OF_OURS)
def test_generated_requests_get_answers_that_follow_the_schema(server: ServerProcess) -> None:
    """Hundreds of right and wrong requests for every route: statuses, types and bodies are those that were promised."""
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    checks = (not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance)
    seen: dict[str, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=150,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def every_case(case: Any) -> None:
            response = case.call()
            case.validate_response(response, checks=checks)
            seen[f"{case.method} {response.status_code}"] = seen.get(f"{case.method} {response.status_code}", 0) + 1

        every_case()
    assert seen["GET 200"] >= 3 and seen["POST 200"] > 10 and seen["POST 400"] > 10, seen
    assert httpx.get(f"{server.url}/health").status_code == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    sorted({*ChatQuestion.model_fields, *CompletionQuestion.model_fields, "suffix", "functions", "audio", "new"})
)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(route=st.sampled_from(["chat/completions", "completions"]), extra=st.dictionaries(FIELDS, VALUES, max_size=3))
def test_any_value_in_any_field_is_answered_or_refused(client: httpx.Client, route: str, extra: dict[str, Any]) -> None:
    """Never a fault: 200, or 4xx in OpenAI's shape."""
    body = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", **extra}
    content = json.dumps(body).encode("utf-8", "replace")
    done = client.post(f"/v1/{route}", content=content, headers={"Content-Type": "application/json"})
    assert done.status_code == 200 or (400 <= done.status_code < 500 and done.json()["error"]["message"])

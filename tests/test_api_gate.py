"""Who is let through the gate, and what a server says that has no model yet; the application without a process."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from minimind.errors import ConfigError, MissingError
from minimind.serve.api import Server, create_app
from minimind.serve.engine_spec import EngineSettings
from minimind.serve.fleet import Fleet
from minimind.serve.gate import allowed_hosts, is_loopback
from minimind.serve.limits import Limits
from minimind.serve.serving import key_list
from minimind.serve.sources import Source, read_adapters, read_sources, version_of

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def client(**options: Any) -> TestClient:
    """The application over models that are not loaded."""
    fleet = Fleet([Source("a", "a"), Source("b", "b")], locate=lambda spec: version_of(Path(spec)), settings=SETTINGS)
    app = create_app(Server.of(fleet, Limits()), **options)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


SETTINGS = EngineSettings()


def test_a_server_that_loads_says_so() -> None:
    """A load balancer must not send anybody there; a client is told to come back."""
    health = client().get("/health")
    assert health.status_code == 503 and health.json()["models"] == {"a": "loading", "b": "loading"}
    refused = client().post("/v1/chat/completions", json={**HELLO, "model": "a"})
    assert refused.status_code == 503 and refused.headers["retry-after"]
    assert [card["state"] for card in client().get("/v1/models").json()["data"]] == ["loading", "loading"]


def test_one_of_several_models_has_to_be_named() -> None:
    """Silently taking the first one answers with the wrong model."""
    refused = client().post("/v1/chat/completions", json=HELLO)
    assert refused.status_code == 400 and "a, b" in refused.json()["error"]["message"]
    near = client().post("/v1/chat/completions", json={**HELLO, "model": "bb"})
    assert near.status_code == 404 and "did you mean `b`?" in near.json()["error"]["message"]


def test_pages_from_elsewhere_need_to_be_allowed() -> None:
    """A browser asks first, without a key; and it must be told no by silence."""
    asks = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    allowed = client(origins=["https://page.example"], keys=["k"]).options("/v1/chat/completions", headers=asks)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://page.example"
    refused = client(keys=["k"]).options("/v1/chat/completions", headers=asks)
    assert refused.status_code == 401 and "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 503),
        ("[::1]:8000", 503),
        ("LOCALHOST", 503),
        ("ai.lan", 503),
        ("evil.example", 403),
        ("a@b", 403),
    ],
)
def test_a_name_bound_to_this_machine_by_others_is_refused(host: str, status: int) -> None:
    """DNS rebinding: the browser believes it talks to evil.example, and its Host header says so."""
    assert (
        client(hosts=allowed_hosts("127.0.0.1", ["ai.lan"])).get("/health", headers={"Host": host}).status_code
        == status
    )


def test_every_key_opens_and_no_other() -> None:
    """Several keys, so that one can be changed without a gap."""
    both = client(keys=["first", "zweiter-ü"])
    for key, status in (("first", 200), ("zweiter-ü", 200), ("zweiter", 401), ("", 401)):
        headers = [(b"authorization", f"Bearer {key}".encode())]
        assert both.get("/v1/models", headers=headers).status_code == status
    assert key_list([], "one, two,") == ("one", "two") and key_list(["x"], "one") == ("x",)


def test_loopback_is_what_only_this_machine_reaches() -> None:
    """An address that looks like it is not: others reach 0.0.0.0."""
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "localhost.evil.example")))
    assert allowed_hosts("0.0.0.0", []) == frozenset()


def test_models_are_named_as_people_would(tmp_path: Path) -> None:
    """The short name, the name before `=`, the last part of a path; a directory with `=` in it is a directory."""
    odd = tmp_path / "lr=3"
    odd.mkdir()
    words = ["sft", "models:/minimind-dpo@champion", "mine=models:/x/3", str(odd), f"it={odd}"]
    sources = read_sources(words)
    assert [source.name for source in sources] == ["sft", "dpo", "mine", "lr=3", "it"]
    assert [source.may_move for source in sources] == [True, True, False, False, False]
    assert sources[4].spec == str(odd)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["sft", "sft"], "two models are named sft"), (["=x"], "NAME=MODEL"), (["a b=x"], "NAME=MODEL"), ([], "no model")],
)
def test_names_that_mean_two_things_are_refused(words: list[str], message: str) -> None:
    """At the start, not at the first request."""
    with pytest.raises(ConfigError, match=message):
        read_sources(words)


def test_an_adapter_knows_its_base(tmp_path: Path) -> None:
    """Its files say on which model it was trained; what is no adapter is said to be none."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "1234"}')
    (adapter,) = read_adapters([f"medical={tmp_path}"], [])
    assert (adapter.name, adapter.base, adapter.directory) == ("medical", "1234", tmp_path / "adapter")
    with pytest.raises(ConfigError, match="two models are named sft"):
        read_adapters([f"sft={tmp_path}"], read_sources(["sft"]))
    (tmp_path / "adapter" / "adapter_config.json").write_text("[]")
    with pytest.raises(ConfigError, match="no JSON object"):
        read_adapters([f"medical={tmp_path}"], [])
    with pytest.raises(MissingError, match="minimind run lora"):
        read_adapters(["medical=/nowhere"], [])

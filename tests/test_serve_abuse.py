"""Requests that nobody should send: each is refused in OpenAI's shape with the right status, and the server goes on."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from server_process import ServerProcess, eventually, serving

KEY = {"Authorization": "Bearer secret"}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = {"role": "user", "content": "hello"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
CALLER = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}],
}
LIMITS = {
    "body_bytes": 20_000,
    "body_seconds": 0.5,
    "header_seconds": 0.5,
    "request_seconds": 0.7,
    "messages": 20,
    "content_chars": 5_000,
    "choices": 4,
    "connections": 30,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving({"echo": tmp_path_factory.mktemp("echo")}, keys=["secret"], **LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=10) as client:
        yield client


def still_answers(client: httpx.Client) -> bool:
    done = client.post(CHAT, json={"messages": [HELLO]}, headers=KEY)
    return done.json()["choices"][0]["message"]["content"] == "hello"


def check(status: int, content: bytes, expected: int) -> dict[str, Any]:
    """The error, if the status is the expected one and the shape is OpenAI's."""
    assert status == expected, content
    error = json.loads(content)["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["message"]
    return error


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [HELLO], **fields}


def says(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


FIELDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "no messages": ({}, "messages"),
    "empty messages": (says(), "messages"),
    "messages of another type": ({"messages": "hello"}, "messages"),
    "a message that is a string": (says("hello"), "messages[0]"),
    "a role of nobody": (says({"role": "wizard", "content": "x"}), "messages[0].role"),
    "no content": (says({"role": "user"}), "messages[0].content"),
    "content that is a number": (says({"role": "user", "content": 7}), "messages[0].content"),
    "an image": (says({"role": "user", "content": [IMAGE]}), "messages[0].content[0]"),
    "a NUL": (says({"role": "user", "content": "a\0b"}), None),
    "too long a content": (says({"role": "user", "content": "x" * 5001}), "messages[0].content"),
    "too many messages": (says(*[HELLO] * 21), "messages"),
    "a tool that nobody called": (
        says({"role": "tool", "content": "x", "tool_call_id": "c1"}),
        "messages[0].tool_call_id",
    ),
    "a tool's answer to no call": (says({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
    "arguments that are no JSON": (says(HELLO, CALLER), "messages[1].tool_calls[0].function.arguments"),
    "a temperature below zero": (chat(temperature=-0.1), "temperature"),
    "a temperature above two": (chat(temperature=2.1), "temperature"),
    "a temperature as a string": (chat(temperature="0.5"), "temperature"),
    "a temperature that is true": (chat(temperature=True), "temperature"),
    "top_p above one": (chat(top_p=1.5), "top_p"),
    "no tokens": (chat(max_tokens=0), "max_tokens"),
    "a negative number of tokens": (chat(max_tokens=-5), "max_tokens"),
    "half a token": (chat(max_tokens=1.5), "max_tokens"),
    "more tokens than there are atoms": (chat(max_tokens=10**18), "max_tokens"),
    "no choices": (chat(n=0), "n"),
    "too many choices": (chat(n=5), "n"),
    "a million choices": (chat(n=10**6), "n"),
    "an empty stop": (chat(stop=""), "stop"),
    "too many stops": (chat(stop=["x"] * 17), "stop"),
    "stops of other types": (chat(stop=[1]), "stop"),
    "a penalty out of range": (chat(presence_penalty=3), "presence_penalty"),
    "a bias for no token": (chat(logit_bias={"the": 1}), "logit_bias"),
    "a bias for another model's token": (chat(logit_bias={"600": 1}), "logit_bias"),
    "a bias for an endless token": (chat(logit_bias={"9" * 5000: 1}), "logit_bias"),
    "too strong a bias": (chat(logit_bias={"1": 101}), "logit_bias"),
    "likelihoods that were not asked for": (chat(top_logprobs=2), "top_logprobs"),
    "too many likelihoods": (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    "stream options without a stream": (chat(stream_options={"include_usage": True}), "stream_options"),
    "functions of the old kind": (chat(functions=[{"name": "f"}]), "functions"),
    "sound": (chat(audio={"voice": "x"}), "audio"),
    "a forced call": (chat(tool_choice="required"), "tool_choice"),
    "a tool without a function": (chat(tools=[{"type": "function"}]), "tools[0].function"),
    "a tool with an odd name": (
        chat(tools=[{"type": "function", "function": {"name": "a b"}}]),
        "tools[0].function.name",
    ),
    "a schema for the answer": (chat(response_format={"type": "json_schema"}), "response_format"),
    "a model that is a number": (chat(model=3), "model"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_wrong_fields_are_named(client: httpx.Client, case: str) -> None:
    """`param` is what a program can act on."""
    body, param = FIELDS[case]
    done = client.post(CHAT, content=json.dumps(body), headers={**KEY, "Content-Type": "application/json"})
    assert check(done.status_code, done.content, 400)["param"] == param
    assert still_answers(client)


BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"{nope", 400),
    "a list": (b"[]", 400),
    "a number": (b"7", 400),
    "null": (b"null", 400),
    "NaN": (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400),
    "infinity": (b'{"messages": [{"role": "user", "content": "x"}], "temperature": Infinity}', 400),
    "a number beyond a double": (b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}', 400),
    "a number of 5,000 digits": (b'{"seed": ' + b"9" * 5000 + b"}", 400),
    "a key that stands twice": (b'{"model": "echo", "model": "x", "messages": [{"role":"user","content":"x"}]}', 400),
    "a crowd of keys": (b"{" + b",".join(b'"%d":0' % n for n in [*range(2100), 2099]) + b"}", 400),
    "half a surrogate pair": (rb'{"messages": [{"role": "user", "content": "\ud800"}]}', 400),
    "an escaped NUL": (rb'{"messages": [{"role": "user", "content": "\u0000"}]}', 400),
    "bytes that are no UTF-8": (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', 400),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), 400),
    "a tower of lists": (b"[" * 9000 + b"]" * 9000, 400),
    "a tower of objects in a tool": (
        b'{"messages": [{"role": "user", "content": "x"}], "x": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001,
        400,
    ),
    "more bytes than are taken": (b'{"x": "' + b"x" * 20_000 + b'"}', 413),
}


@pytest.mark.parametrize("case", BODIES)
def test_bodies_that_mean_nothing_are_refused(client: httpx.Client, case: str) -> None:
    """Or that mean two things: a lenient parser picks one in silence."""
    body, status = BODIES[case]
    done = client.post(CHAT, content=body, headers={**KEY, "Content-Type": "application/json"})
    check(done.status_code, done.content, status)
    assert still_answers(client)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", KEY, 404),
        ("GET", "/v1/nothing", KEY, 404),
        ("GET", "/v1/models/nobody", KEY, 404),
        ("GET", "/v1/models/%00%ff/../x", KEY, 404),
        ("POST", "/v1/embeddings", KEY, 404),
        ("GET", CHAT, KEY, 405),
        ("DELETE", "/v1/models", KEY, 405),
        ("POST", "/health", KEY, 405),
        ("GET", "/v1/models", {}, 401),
        ("GET", "/metrics", {}, 401),
        ("GET", "/openapi.json", {}, 401),
        ("POST", CHAT, {"Authorization": "Bearer"}, 401),
        ("POST", CHAT, {"Authorization": "Basic secret"}, 401),
        ("POST", CHAT, {"Authorization": "Bearer secret2"}, 401),
        ("POST", CHAT, {"Authorization": b"Bearer \xe4\xf6"}, 401),
        ("GET", "/v1/models", {**KEY, "Host": "evil.example"}, 403),
        ("POST", CHAT, {**KEY, "Content-Type": "text/plain"}, 415),
        ("POST", CHAT, {**KEY, "Content-Type": "multipart/form-data; boundary=x"}, 415),
        ("POST", CHAT, {**KEY, "Content-Type": "application/jsonx"}, 415),
        ("POST", TEXT, {**KEY, "Content-Type": ";;;"}, 415),
    ],
)
def test_the_wrong_door_is_closed_politely(
    client: httpx.Client, method: str, path: str, headers: Any, status: int
) -> None:
    """Paths, methods, keys, hosts and types."""
    done = client.request(method, path, headers=headers, content=b"{}" if method == "POST" else None)
    check(done.status_code, done.content, status)
    assert still_answers(client)


TEXT_BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({}, "prompt"),
    "no prompts": ({"prompt": []}, "prompt"),
    "a prompt without ids": ({"prompt": [[1], []]}, "prompt"),
    "a negative id": ({"prompt": [-1]}, "prompt"),
    "texts and ids together": ({"prompt": ["a", 1]}, "prompt"),
    "too many prompts": ({"prompt": ["x"] * 3, "n": 2}, "n"),
    "too long a prompt": ({"prompt": "x" * 5001}, "prompt"),
    "an echo": ({"prompt": "x", "echo": True}, "echo"),
    "the best of some": ({"prompt": "x", "best_of": 3}, "best_of"),
    "a suffix": ({"prompt": "x", "suffix": "y"}, "suffix"),
    "too many likelihoods": ({"prompt": "x", "logprobs": 6}, "logprobs"),
}


@pytest.mark.parametrize("case", TEXT_BODIES)
def test_completions_name_their_fields_too(client: httpx.Client, case: str) -> None:
    """The older API has traps of its own."""
    body, param = TEXT_BODIES[case]
    done = client.post(TEXT, json=body, headers=KEY)
    assert (check(done.status_code, done.content, 400)["param"] or "").partition("[")[0] == param
    assert still_answers(client)


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
JSON = b"Content-Type: application/json\r\n"
RAW: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    "a head without an end": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000, 400),
    "one endless line": (b"GET /" + b"x" * 100_000, 400),
    "a length that is a word": (HEAD + JSON + b"Content-Length: many\r\n\r\n{}", 400),
    "a negative length": (HEAD + JSON + b"Content-Length: -1\r\n\r\n{}", 400),
    "two lengths": (HEAD + JSON + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a length of a terabyte": (HEAD + JSON + b"Content-Length: 1099511627776\r\n\r\n{}", 413),
    "chunks without an end": (
        HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 40,
        413,
    ),
    "chunks of no length": (HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\nnope\r\n", 400),
    "a head that never comes": (b"GET /health HTTP/1.1\r\nHost: loc", 408),
    "nothing at all": (b"", 408),
    "a body that never comes": (HEAD + JSON + b"Content-Length: 100\r\n\r\n{", 408),
    "chunks that never come": (HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", 408),
    "an upgrade": (HEAD + JSON + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a line feed in a header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\nY: b\x00c\r\n\r\n", 400),
}


def talk(server: ServerProcess, sent: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to raw bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(sent)
        received = b""
        while b"\r\n\r\n" not in received or not received.rstrip().endswith(b"}"):
            piece = connection.recv(65536)
            if not piece:
                break
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


@pytest.mark.parametrize("case", RAW)
def test_broken_http_gets_an_answer_in_json(server: ServerProcess, client: httpx.Client, case: str) -> None:
    """Sockets that are not a client's: what is no HTTP, what never ends, what never begins."""
    sent, status = RAW[case]
    check(*talk(server, sent), status)
    assert still_answers(client)


def test_an_answer_has_a_time(client: httpx.Client) -> None:
    """A whole answer that is late is a 504; a stream that has begun says so in an event and ends."""
    body = {"messages": [{"role": "user", "content": "a :hang"}]}
    done = client.post(CHAT, json=body, headers=KEY)
    check(done.status_code, done.content, 504)
    done = client.post(CHAT, json={**body, "stream": True}, headers=KEY)
    events = done.text.strip().split("\n\n")
    assert done.status_code == 200 and '"content":"a"' in done.text and "[DONE]" not in done.text
    check(504, events[-1].removeprefix("data: ").encode(), 504)


def test_connections_have_an_end(server: ServerProcess, client: httpx.Client) -> None:
    """Sockets that say nothing must not keep out those that do."""
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(40)]
    refused = idle[-1].recv(4096)
    assert refused.startswith(b"HTTP/1.1 503 ")
    check(503, refused.partition(b"\r\n\r\n")[2], 503)
    assert eventually(lambda: _answers(client), 5)
    for connection in idle:
        connection.close()


def test_a_reader_who_stops_reading_holds_nothing_up(server: ServerProcess, client: httpx.Client) -> None:
    """Its answer is thrown away after its time, and the connection with it."""
    body = json.dumps(
        {**says({"role": "user", "content": f":times=400 {'x' * 4900}"}), "n": 4, "stream": True}
    ).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(HEAD + JSON + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.2)
        assert still_answers(client)
        assert eventually(lambda: "the client did not read" in server.log_text(), 8)


def test_the_gate_can_be_passed(server: ServerProcess, client: httpx.Client) -> None:
    """None of the above is proof of anything if nothing gets through."""
    assert client.get("/health").json() == {"status": "ok", "models": {}, "warnings": []}
    assert client.get("/health", headers=KEY).json()["models"] == {"echo": "ok"}
    assert client.get("/v1/models", headers={**KEY, "Host": "localhost:1"}).status_code == 200
    sent = HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    body = json.dumps({"messages": [HELLO]}).encode()
    status, _ = talk(server, sent + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert status == 200


def test_nothing_of_it_was_the_servers_fault(server: ServerProcess, client: httpx.Client) -> None:
    """After all of the above: no error of our own, no engine lost, no content in the log."""
    log = server.log_text()
    assert "Traceback" not in log and "internal_error" not in log and "hello" not in log and "secret" not in log
    metrics = client.get("/metrics", headers=KEY).text
    assert 'status="500"' not in metrics and 'minimind_engine_restarts{model="echo"} 0.0' in metrics


def _answers(client: httpx.Client) -> bool:
    try:
        return still_answers(client)
    except (httpx.HTTPError, KeyError):
        return False

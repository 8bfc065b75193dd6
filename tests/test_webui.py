"""The page without a browser: texts, conversations, rows, HTML, what a server sends, and the page's own script."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import psutil
import pytest
from streamlit.testing.v1 import AppTest
from stub_openai import NASTY, Stub, stub_openai

from minimind.errors import ConfigError, DataError, MissingError, ServiceError
from minimind.serve.webui import html, process, rows
from minimind.serve.webui.answers import Answering, Answers
from minimind.serve.webui.asking import fitted, open_calls, read_tools, requests
from minimind.serve.webui.chats import Chat, ChatStore, Figures, Message, Problem, Settings, ToolCall, new_chat
from minimind.serve.webui.client import Piece, Request, ServedModel, Server, list_models
from minimind.serve.webui.sidebar import SLIDERS
from minimind.serve.webui.words import WORDS, language_of, speaker

SOURCES = sorted(Path(process.__file__).parent.glob("*.py"))


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_openai() as started:
        yield started


@pytest.fixture
def chats(tmp_path: Path) -> ChatStore:
    return ChatStore(tmp_path / "chats")


def asked(*texts: str, settings: Settings | None = None) -> Chat:
    """A conversation of questions and answers in turn."""
    chat = new_chat(settings or Settings(model="words"))
    for place, text in enumerate(texts):
        chat = chat.with_message(Message(parent=chat.head, role="assistant" if place % 2 else "user", content=text))
    return chat


def answered(stub: Stub, question: str, **settings: object) -> Message:
    """What becomes of a question."""
    chat = asked(question, settings=Settings(**{"model": "words", **settings}))
    request, blank = requests(chat)[0]
    answering = Answering(request, blank)
    answering.run(Server(stub.url, "key"))
    return answering.message()


def wait_until(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# --- words


def test_every_text_is_there_in_both_languages() -> None:
    """A key without a text would be a traceback on the page of whoever speaks that language."""
    for key, texts in WORDS.items():
        assert len(texts) == 2 and all(text.strip() for text in texts), key
        fields = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in texts]
        assert fields[0] == fields[1], key
        assert not re.search(r"[\u4e00-\u9fff]", texts[0]) or key == "example_3", key


def test_the_page_uses_the_texts_there_are_and_all_of_them() -> None:
    """Found in the sources, so that neither a missing key nor a dead text stays."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES if path.name != "words.py")
    said = set(re.findall(r'say\(\s*"(\w+)"', source))
    assert said <= set(WORDS)
    made = {f"{name}_help" for name in SLIDERS} | {f"finish_{reason}" for reason in html.FINISHES}
    assert made <= set(WORDS)
    assert [key for key in WORDS if f'"{key}"' not in source and key not in made] == []
    problems = set(re.findall(r'kind="(\w+)"|kind = "(\w+)"', source))
    assert {one or other for one, other in problems} <= set(WORDS)


@pytest.mark.parametrize(
    ("locale", "language"), [("zh-CN", "zh"), ("zh", "zh"), ("en-GB", "en"), ("de", "en"), (None, "en")]
)
def test_the_language_is_the_browsers(locale: str | None, language: str) -> None:
    assert language_of([locale]) == language


# --- conversations


def test_a_conversation_outlives_its_page(chats: ChatStore) -> None:
    """What one process saved another reads, with every field."""
    chat = asked("你好", "hello", settings=Settings(model="m", temperature=0.1, seed=3))
    chat = chat.with_message(
        Message(
            parent=chat.head,
            role="assistant",
            tool_calls=(ToolCall(name="f", arguments="{}"),),
            problem=Problem(kind="empty"),
            figures=Figures(seconds=1.5, completion_tokens=3),
        )
    )
    saved = chats.save(chat)
    assert ChatStore(chats.directory).load(chat.id) == saved
    assert saved.title == "你好"


def test_the_newest_conversation_is_first(chats: ChatStore) -> None:
    first, second = chats.save(asked("one")), chats.save(asked("two"))
    assert [head.id for head in chats.list()] == [second.id, first.id]
    chats.change(first.id, lambda chat: chat.replace(title="again"))
    assert [head.title for head in chats.list()] == ["again", "two"]


def test_a_damaged_file_is_set_aside_and_not_lost(chats: ChatStore) -> None:
    """A half-written or foreign file must neither hide the others nor be deleted."""
    good = chats.save(asked("good"))
    (chats.directory / "bad.json").write_text('{"id": "bad", "mess', encoding="utf-8")
    assert [head.id for head in chats.list()] == [good.id]
    assert chats.damaged == ["bad.json.damaged"]
    assert (chats.directory / "bad.json.damaged").read_text(encoding="utf-8").startswith('{"id": "bad"')


def test_changes_from_many_threads_all_arrive(chats: ChatStore) -> None:
    """An answer that ends while a setting is changed must not be overwritten by it."""
    chat = chats.save(asked("question"))

    def add(number: int) -> None:
        chats.change(chat.id, lambda now: now.with_message(Message(parent=0, role="assistant", content=str(number))))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = chats.load(chat.id)
    assert loaded is not None
    assert {message.content for message in loaded.messages[1:]} == {str(number) for number in range(12)}


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "", ".lock"])
def test_an_address_cannot_name_a_file_elsewhere(chats: ChatStore, name: str) -> None:
    """The conversation's id comes from the address bar."""
    chats.directory.mkdir()
    (chats.directory.parent / "secret.json").write_text("{}", encoding="utf-8")
    assert chats.load(name) is None
    assert (chats.directory.parent / "secret.json").exists()


def test_a_deleted_conversation_is_said_to_be_gone(chats: ChatStore) -> None:
    chat = chats.save(asked("x"))
    chats.delete(chat.id)
    with pytest.raises(MissingError, match="not there any more"):
        chats.change(chat.id, lambda now: now)


def test_an_edited_question_is_a_version_beside_the_old_one() -> None:
    """Nothing is dropped: the way back leads to the old question with its old answer."""
    chat = asked("q1", "a1", "q2", "a2").cut_before(2)
    chat = chat.with_message(Message(parent=chat.head, role="user", content="q2 better"))
    assert [chat.messages[n].content for n in chat.path()] == ["q1", "a1", "q2 better"]
    assert chat.versions(4) == [2, 4]
    assert [chat.messages[n].content for n in chat.shown_at(2).path()] == ["q1", "a1", "q2", "a2"]


@pytest.mark.parametrize("order", [("left", "right"), ("right", "left")])
def test_of_two_answers_side_by_side_the_left_one_goes_on(order: tuple[str, str]) -> None:
    """Whichever ends first: the path must not depend on the servers' speed."""
    chat = asked("q")
    for side in order:
        chat = chat.with_message(Message(parent=0, role="assistant", content=side, pair="p", side=side))
    assert chat.messages[chat.path()[-1]].content == "left"
    assert [chat.messages[n].side for n in chat.pair_of(1)] == ["left", "right"]
    assert chat.versions(chat.path()[-1]) == [chat.path()[-1]]


def test_a_path_with_a_loop_ends() -> None:
    """A file somebody edited must not hang the page."""
    chat = new_chat(Settings()).replace(
        messages=(Message(parent=1, role="user"), Message(parent=0, role="user")), head=0
    )
    assert chat.path() == [1, 0]


# --- rows


def test_a_row_goes_out_and_comes_in_again() -> None:
    """What is exported is training data: system, reasoning, tools and calls survive the way."""
    row = {
        "conversations": [
            {"role": "system", "content": "你是助手", "tools": '[{"name": "add"}]'},
            {"role": "user", "content": "1+2"},
            {"role": "assistant", "content": "", "tool_calls": '[{"name": "add", "arguments": {"a": 1}}]'},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "It is 3.", "reasoning_content": "easy"},
        ]
    }
    (chat,) = rows.read_rows(json.dumps(row).encode(), Settings())
    assert rows.row(chat) == row
    assert chat.title == "1+2"


def test_a_row_leaves_out_what_was_not_answered() -> None:
    """A question whose answer failed would teach silence."""
    chat = asked("q1", "a1", "q2")
    failed = Message(parent=chat.head, role="assistant", state="failed", problem=Problem(kind="timeout"))
    chat = chat.with_message(failed)
    assert [turn["content"] for turn in rows.row(chat)["conversations"]] == ["q1", "a1"]
    with pytest.raises(DataError, match="no row of training data"):
        rows.row(asked("only a question"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b'{"conversations": 1}', "line 1"),
        (b'\n{"conversations": [{"role": "user", "content": "x"}]}', "line 2"),
        (b"\xff", "line 1"),
        (b"[" * 100_000, "line 1"),
    ],
)
def test_a_bad_import_names_its_line(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rows.read_rows(content, Settings())


def test_an_unanswered_question_is_not_sent_again() -> None:
    """After an error the next question must not come as the second of two in a row, which servers refuse."""
    chat = asked("q1")
    chat = chat.with_message(Message(parent=0, role="assistant", state="failed", problem=Problem(kind="timeout")))
    chat = chat.with_message(Message(parent=chat.head, role="user", content="q2"))
    assert rows.api_messages(chat) == [{"role": "user", "content": "q2"}]


# --- HTML


def test_nothing_a_model_writes_becomes_active_html() -> None:
    """No tag of the model's, no image, no link but to the web: the text alone is shown."""
    made = html.answer(NASTY, html.reader())
    assert set(re.findall(r"<(\w+)", made)) <= {
        *("div", "p", "a", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"),
    }
    assert re.findall(r'href="([^"]*)"', made) == ["http://evil.test/pixel.png", "https://example.org/"]
    assert "Costs $5 or $10, a :smile: and :red[red] -&gt; here." in made
    assert "<" not in html.literal("<b>&").removeprefix('<div class="mm-said">').removesuffix("</div>")


@pytest.mark.parametrize(
    "text", ["```python\nx", "**bold", "| a |\n|--", "<", ">" * 5000, "[" * 5000, "`" * 999, "\x00\x1b[2J"]
)
def test_half_an_answer_is_shown_too(text: str) -> None:
    """An answer is drawn while it comes in, so every beginning of Markdown must give HTML, and soon."""
    began = time.perf_counter()
    assert html.answer(text, html.reader()).startswith('<div class="mm-answer">')
    assert time.perf_counter() - began < 1


def test_a_caption_says_what_is_known_and_no_more() -> None:
    """A server without token counts gets an estimate that is marked as one."""
    say = speaker("en")
    counted = Figures(seconds=3.0, first_token_seconds=1.0, prompt_tokens=5, completion_tokens=21, pieces=9)
    message = Message(parent=None, role="assistant", model="m", finish_reason="length", figures=counted)
    shown = html.caption(message, say)
    assert "cut off at the token limit · 5 + 21 tokens · 10.0 tokens/s · first after 1.00 s" in shown
    guessed = message.replace(figures=Figures(seconds=3.0, first_token_seconds=1.0, pieces=21))
    assert "≈ 10.0 tokens/s" in html.caption(guessed, say)
    assert "tokens/s" not in html.caption(message.replace(figures=Figures(seconds=1.0)), say)


# --- asking


def test_only_settings_that_were_set_are_sent() -> None:
    """OpenAI's own servers refuse fields they do not know, such as top_k."""
    plain = Request("m", Settings()).fields()
    assert not {"top_k", "min_p", "repetition_penalty", "presence_penalty", "seed", "tools"} & set(plain)
    wanted = Request("m", Settings(top_k=5, min_p=0.1, seed=0, repetition_penalty=1.2)).fields()
    assert (wanted["top_k"], wanted["min_p"], wanted["seed"], wanted["repetition_penalty"]) == (5, 0.1, 0, 1.2)


def test_the_settings_reach_the_server(stub: Stub) -> None:
    answered(stub, "hi", top_k=7, temperature=0.0, system="be brief")
    (body,) = stub.bodies
    assert (body["top_k"], body["temperature"], body["stream_options"]) == (7, 0.0, {"include_usage": True})
    assert body["messages"][0] == {"role": "system", "content": "be brief"}


def test_a_server_that_knows_less_is_asked_again_with_less(stub: Stub) -> None:
    """Other servers refuse stream_options or top_k: the answer must come all the same, in tags or without usage."""
    message = answered(stub, "think", model="old", top_k=7)
    assert (message.reasoning, message.content.strip(), message.state) == ("hm", "answer", "done")
    assert message.figures is not None and message.figures.completion_tokens is None


def test_reasoning_calls_and_usage_are_kept_apart(stub: Stub) -> None:
    message = answered(stub, "think hard")
    assert (message.reasoning, message.content.strip()) == ("first this, then that", "words: think hard")
    assert message.figures is not None and message.figures.prompt_tokens == 11
    assert answered(stub, "call").tool_calls == (ToolCall(id="call_1", name="add", arguments='{"a": 1, "b": 2}'),)


def test_a_pretrained_model_goes_on_with_the_text_itself(stub: Stub) -> None:
    message = answered(stub, "Once upon", model="words-base", continue_text=True)
    assert stub.bodies[0]["prompt"] == "Once upon" and "messages" not in stub.bodies[0]
    assert message.continues_text and message.content.strip() == "words-base: Once upon"


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("fail 400", "context_full"),
        ("fail 401", "wrong_key"),
        ("fail 404", "no_model"),
        ("fail 429", "rate_limited"),
        ("fail 500", "server_failed"),
        ("break", "broke_off"),
        ("empty", "empty"),
        ("html", "not_openai"),
    ],
)
def test_every_failure_has_a_kind_and_words(stub: Stub, question: str, kind: str) -> None:
    """The page has a sentence for each in both languages; the server's own words stand beside it."""
    message = answered(stub, question)
    assert message.state == "failed" and message.problem is not None and message.problem.kind == kind
    for language in ("en", "zh"):
        shown = html.problem(message.problem, speaker(language), url=stub.url)
        assert "Traceback" not in shown
        assert ("7 s" in shown) == (kind == "rate_limited")


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with stub_openai() as stub:
        gone = Stub(url=stub.url)
    message = answered(gone, "hi")
    assert message.problem == Problem(kind="unreachable")


def test_models_come_with_what_the_server_tells_of_them(stub: Stub) -> None:
    models = list_models(Server(stub.url))
    assert [(model.id, model.only_continues) for model in models] == [
        ("words", False),
        ("words-base", True),
        ("old", False),
    ]
    assert "25,829,888" in html.facts(models[0].facts, speaker("en"))
    assert html.facts(models[2].facts, speaker("en")) == ""


def test_a_model_that_is_gone_is_replaced_by_one_that_is_served() -> None:
    models = [ServedModel("base", {"kind": "pretrain"}), ServedModel("chat")]
    settings = fitted(Settings(model="lost", second_model="lost"), models)
    assert (settings.model, settings.continue_text, settings.second_model) == ("base", True, "chat")
    kept = Settings(model="chat", second_model="base")
    assert fitted(kept, models) == kept and fitted(kept, []) == kept


def test_bare_functions_are_put_into_openais_shape() -> None:
    """Rows list functions bare, the API wants them wrapped; what is no list is said and not sent."""
    assert read_tools('[{"name": "add"}]') == [{"type": "function", "function": {"name": "add"}}]
    for text in ("{", "{}", "[1]"):
        with pytest.raises(ValueError):
            read_tools(text)
    request, _ = requests(asked("x", settings=Settings(model="m", tools="{")))[0]
    assert "tools" not in request.fields()


def test_results_are_asked_for_call_by_call() -> None:
    calls = (ToolCall(id="a", name="f"), ToolCall(id="b", name="g"))
    chat = asked("x")
    chat = chat.with_message(Message(parent=0, role="assistant", tool_calls=calls))
    assert open_calls(chat) == ["f", "g"]
    chat = chat.with_message(Message(parent=1, role="tool", content="1"))
    assert open_calls(chat) == ["g"]
    chat = chat.with_message(Message(parent=2, role="tool", content="2"))
    assert [turn["tool_call_id"] for turn in rows.api_messages(chat)[-2:]] == ["a", "b"]


# --- answers under way


def test_stop_keeps_the_beginning_and_frees_the_server(stub: Stub, chats: ChatStore) -> None:
    """The server sees the connection close at once, and the conversation has what came."""
    chat = chats.save(asked("slow one", settings=Settings(model="words")))
    answers = Answers(chats, Server(stub.url))
    answers.start(chat.id, requests(chat))
    (answering,) = answers.under_way(chat.id)
    wait_until(lambda: answering.text.startswith("on and"))
    began = time.monotonic()
    answers.stop(chat.id)
    wait_until(lambda: not answers.under_way(chat.id))
    assert time.monotonic() - began < 1
    wait_until(lambda: stub.disconnects == 1)
    loaded = chats.load(chat.id)
    assert loaded is not None
    assert loaded.messages[-1].state == "stopped" and loaded.messages[-1].content.startswith("on and")


def test_an_answer_to_a_deleted_conversation_ends_in_silence(stub: Stub, chats: ChatStore) -> None:
    chat = chats.save(asked("hi", settings=Settings(model="words")))
    answers = Answers(chats, Server(stub.url))
    chats.delete(chat.id)
    answers.start(chat.id, requests(chat))
    wait_until(lambda: not answers.under_way(chat.id))
    assert chats.list() == []


def test_two_answers_come_at_once(stub: Stub, chats: ChatStore) -> None:
    """Side by side means in parallel: both have begun before either has ended."""
    settings = Settings(model="words", compare=True, second_model="words-base", second_continue_text=True)
    chat = chats.save(asked("slow two", settings=settings))
    answers = Answers(chats, Server(stub.url))
    answers.start(chat.id, requests(chat))
    both = answers.under_way(chat.id)
    wait_until(lambda: all(one.text for one in both))
    answers.stop(chat.id)
    wait_until(lambda: not answers.under_way(chat.id))
    loaded = chats.load(chat.id)
    assert loaded is not None
    assert {(m.side, m.model, m.continues_text) for m in loaded.messages[1:]} == {
        ("left", "words", False),
        ("right", "words-base", True),
    }


def test_an_answer_without_an_end_is_said_to_have_broken_off() -> None:
    answering = Answering(Request("m", Settings()), Message(parent=0, role="assistant"))
    answering._take(Piece(text="half"))
    answering.ended_at = time.perf_counter()
    assert answering.message().problem == Problem(kind="broke_off")


# --- the process and the page


def test_streamlit_is_told_to_keep_to_itself() -> None:
    """Nothing sent home, no traceback on the page, forgery refused, and the address of nobody else asked for."""
    told = process.options("127.0.0.1", 8501)
    assert told["browser.gatherUsageStats"] == "false" and told["server.enableXsrfProtection"] == "true"
    assert told["client.showErrorDetails"] == "none" and told["browser.serverAddress"] == "127.0.0.1"


def test_streamlits_own_imports_are_not_hidden() -> None:
    """A script's folder comes first on the path: the server's `requests.py` there would be taken for the package."""
    names = {path.stem for path in process.PAGE.parent.iterdir() if not path.name.startswith("__")}
    assert names == {"chat"}


def test_a_taken_port_is_said_at_once(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    port = int(stub.url.split(":")[2].removesuffix("/v1"))
    with pytest.raises(ServiceError, match=f"port {port}"), process.page(stub.url, port=port):
        pass


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--server"):
        process.check_url(url)


COMMAND = [sys.executable, "-c", "import typer; from minimind.cli.ui import ui; typer.run(ui)", "--no-open"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_page_ends_with_its_command(tmp_path: Path, number: signal.Signals) -> None:
    """However the command ends, no server stays behind that holds the port and the key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MINIMIND_HOME": str(tmp_path), "MINIMIND_API_KEY": "a-secret-key"}
    command = subprocess.Popen([*COMMAND, "--port", str(port)], env=environment, stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    assert command.stdout.readline().split() == ["page", f"http://127.0.0.1:{port}"]
    (child,) = psutil.Process(command.pid).children()
    assert "a-secret-key" not in " ".join(child.cmdline())
    command.send_signal(number)
    said = command.communicate(timeout=20)[0]
    assert command.returncode == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    assert "the page is down" in said or number == signal.SIGKILL
    child.wait(10)


def test_the_page_draws_a_conversation_and_a_file_that_is_damaged(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script itself, as Streamlit runs it: the sidebar, the messages, and no exception."""
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    monkeypatch.setenv(process.URL_VARIABLE, stub.url)
    store = ChatStore(tmp_path / "chats")
    chat = store.save(asked("what?", "**that**", settings=Settings(model="lost")))
    (store.directory / "bad.json").write_text("{", encoding="utf-8")
    app = AppTest.from_file(str(process.PAGE), default_timeout=20)
    app.query_params["chat"] = chat.id
    app.query_params["lang"] = "zh"
    app.run()
    assert not app.exception
    shown = "\n".join(element.proto.body for element in app.get("html"))
    assert "<strong>that</strong>" in shown and "bad.json.damaged" in shown and "lost" in shown
    assert app.selectbox[0].options == ["words", "words-base", "old"]
    app.slider(key=f"{chat.id}_temperature").set_value(0.2).run()
    loaded = store.load(chat.id)
    assert loaded is not None and loaded.settings.temperature == 0.2

"""The page in a real browser, over a server that answers by the first word: what a user does, and what goes wrong.

`MINIMIND_SCREENSHOTS=DIR` keeps pictures. Every test also proves that nothing was asked of another machine and that
the browser found nothing to complain of.
"""

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import PHONE, needs_chromium, opened, playwright
from stub_openai import Stub, stub_openai

from minimind.serve.webui import process

WIDE = {"width": 1300, "height": 850}
PATIENCE_MS = 60_000
"""A page that is loaded anew beside two busy cores has taken more than 20 s."""

pytestmark = [pytest.mark.slow, needs_chromium]


class User:
    """Somebody at a browser."""

    def __init__(self, page: "playwright.Page", stub: Stub) -> None:
        self.page, self.stub = page, stub

    def type(self, text: str) -> None:
        field = self.page.locator('[data-testid="stChatInput"] textarea')
        playwright.expect(field).to_be_enabled()
        field.fill(text)
        field.press("Enter")

    def ask(self, text: str) -> None:
        """Ask and wait for the whole answer: each has a caption."""
        captions = self.page.locator('[class*="st-key-answer_"] .mm-caption')
        before = captions.count()
        self.type(text)
        playwright.expect(captions).to_have_count(before + 1, timeout=PATIENCE_MS)

    def sees(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def reload(self) -> None:
        self.page.reload()
        self.page.locator('[data-testid="stChatInput"] textarea').wait_for()

    def look(self, name: str) -> None:
        """Keep a picture, where somebody wants them."""
        if directory := os.environ.get("MINIMIND_SCREENSHOTS"):
            self.page.wait_for_timeout(800)
            self.page.screenshot(path=str(Path(directory) / f"ui_{name}.png"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with stub_openai() as started:
        yield started


@pytest.fixture(scope="module")
def address(stub: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIMIND_HOME", str(tmp_path_factory.mktemp("ui")))
        with process.page(stub.url, port=port):
            yield process.address("127.0.0.1", port)


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with opened() as chromium:
        yield chromium


@pytest.fixture
def visit(browser: "playwright.Browser", address: str, stub: Stub) -> Iterator[Any]:
    """`visit(path, **options)` opens the page for a new user; nothing may leave the machine or end in the console."""
    wrong: list[str] = []
    contexts = []

    def open_page(path: str = "", **options: Any) -> User:
        context = browser.new_context(**{"viewport": WIDE, "locale": "en-GB", "accept_downloads": True, **options})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = (address, address.replace("http", "ws", 1), "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        page.goto(address + path)
        page.locator('[data-testid="stChatInput"] textarea').wait_for()
        return User(page, stub)

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def test_an_answer_streams_and_is_there_after_a_reload(visit: Any) -> None:
    """A conversation is in a file and in the address: a reload, or a restart of the browser, loses nothing."""
    user = visit()
    user.look("empty")
    user.ask("think about 你好")
    user.sees("words: think about 你好")
    user.sees(re.compile(r"complete · 11 \+ \d+ tokens"))
    user.page.get_by_text("Thoughts").click()
    user.sees("first this, then that")
    user.look("answer")
    user.reload()
    user.sees("words: think about 你好")
    assert user.page.locator(".st-key-chats button").count() >= 1


def test_stop_ends_the_request_and_keeps_what_came(visit: Any) -> None:
    """Stop must free the server at once, not when the answer would have ended anyway."""
    user = visit()
    gone = user.stub.disconnects
    user.type("slow please")
    user.sees("on and on")
    user.look("streaming")
    user.press("Stop")
    user.sees(re.compile("words · stopped"))
    user.page.wait_for_timeout(500)
    assert user.stub.disconnects == gone + 1
    user.sees("on and on")


def test_the_end_of_an_answer_stays_in_sight(visit: Any) -> None:
    """Who waits for an answer reads its end, without scrolling after it."""
    user = visit(viewport={"width": 390, "height": 500})
    user.type("slow and long")
    user.sees("on and on")
    user.page.wait_for_timeout(5000)
    main = "document.querySelector('[data-testid=stMain]')"
    below = user.page.evaluate(f"{main}.scrollHeight - {main}.scrollTop - {main}.clientHeight")
    assert user.page.evaluate(f"{main}.scrollTop") > 50 and below < 80
    user.press("Stop")
    user.sees(re.compile("words · stopped"))


def test_a_reload_in_the_middle_of_an_answer_finds_it_again(visit: Any) -> None:
    """The answer does not hang on the page: who loads it again sees it go on."""
    user = visit()
    user.type("slow reload")
    user.sees("on and on")
    user.reload()
    user.sees("on and on")
    user.press("Stop")
    user.sees(re.compile("words · stopped"))


def test_answers_and_questions_have_versions(visit: Any) -> None:
    """Asking again and editing lose nothing: the old version is one click away."""
    user = visit()
    user.ask("first question")
    user.page.locator('[class*="st-key-again_"] button:visible').click()
    user.sees("2/2")
    user.page.locator('[class*="st-key-edit_"] button:visible').click()
    editor = user.page.get_by_label("Your message", exact=True)
    editor.fill("better question")
    user.press("Ask again")
    user.sees("words: better question")
    user.look("versions")
    user.page.locator('[class*="st-key-older_"] button').first.click()
    user.sees("words: first question")
    assert [body["messages"][-1]["content"] for body in user.stub.bodies[-3:]] == [
        "first question",
        "first question",
        "better question",
    ]


def test_a_pretrained_model_that_is_chosen_continues_the_text(visit: Any) -> None:
    """It has never seen a conversation: asked as a chat it would answer with noise, and people would blame training."""
    user = visit()
    user.ask("hello")
    for model, text in (("words-base", "Once upon"), ("words", "a time")):
        user.page.locator('[data-testid="stSidebar"] [data-testid="stSelectbox"] input').first.click()
        user.page.locator('[role="option"]').filter(has_text=re.compile(f"^{model}$")).click()
        user.page.wait_for_timeout(1500)
        user.type(text)
        user.sees(f"{model}: {text}")
        assert ("prompt" in user.stub.bodies[-1]) == (model == "words-base")


def test_two_models_answer_side_by_side(visit: Any) -> None:
    """Comparing is asking both at once; the conversation goes on with the one that is chosen."""
    user = visit()
    user.page.get_by_text("Compare two models").click()
    user.page.get_by_text("Second model").wait_for()
    user.sees("words · words-base")
    user.type("slow side by side")
    playwright.expect(user.page.locator('[class*="st-key-live_"]')).to_have_count(2)
    user.look("comparing")
    user.press("Stop")
    user.sees("The conversation goes on with this one")
    assert user.page.locator('[class*="st-key-answer_"]').count() == 2
    asked = user.stub.bodies[-2:]
    assert {body["model"] for body in asked} == {"words", "words-base"}
    assert {"prompt" in body for body in asked if body["model"] == "words-base"} == {True}
    user.press("Go on with this one")
    user.page.wait_for_timeout(800)
    user.look("compared")
    assert user.page.get_by_text("The conversation goes on with this one").count() == 1


def test_nothing_a_model_writes_acts_on_the_page(visit: Any) -> None:
    """No script, no picture from elsewhere, no formula out of prices, no emoji out of words; long words wrap."""
    user = visit(viewport=PHONE)
    user.ask("nasty")
    user.sees("Costs $5 or $10, a :smile: and :red[red] -> here.")
    user.look("nasty_phone")
    assert user.page.evaluate("window.hacked") is None
    assert user.page.locator(".mm-answer img, .mm-answer script, .katex").count() == 0
    width = user.page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth")
    assert width <= PHONE["width"]


def test_a_tool_call_waits_for_its_result(visit: Any) -> None:
    """A call is shown folded; what is typed next goes back as its result."""
    user = visit()
    user.ask("call it")
    user.page.get_by_text("Calls add").click()
    user.sees(re.compile(r'"a": 1'))
    user.look("tool_call")
    user.ask("think 3")
    last = user.stub.bodies[-1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "tool"]
    assert last[2]["tool_call_id"] == last[1]["tool_calls"][0]["id"] == "call_1"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("fail 429", "It asks to wait 7 s"),
        ("fail 400", "the prompt has 900 tokens and the model's context 512"),
        ("fail 401", "refuses the key"),
        ("fail 404", "does not have this model any more"),
        ("fail 500", "the engine ended"),
        ("html x", "not in OpenAI's format"),
        ("break x", "The answer broke off"),
        ("empty", "The answer is empty"),
    ],
)
def test_what_goes_wrong_is_said_in_plain_words(visit: Any, question: str, words: str) -> None:
    """An error is a sentence and a button, never a traceback; the conversation goes on."""
    user = visit()
    user.ask(question)
    user.sees(words)
    user.look(f"wrong_{question.replace(' ', '_')}")
    assert user.page.get_by_text("Traceback").count() == 0
    assert user.page.get_by_role("button", name="Try again").count() == 1
    user.ask("go on")
    user.sees("words: go on")


def test_the_page_speaks_both_languages(visit: Any) -> None:
    """The browser's language decides until the user does, and a reload keeps the choice."""
    user = visit(locale="zh-CN")
    user.sees("想聊点什么？")
    user.look("chinese")
    user.page.get_by_role("radio", name="English").click()
    user.sees("What would you like to know?")
    user.reload()
    user.sees("What would you like to know?")


def test_a_conversation_can_be_taken_away_and_brought_back(visit: Any) -> None:
    """An export is a row our own training reads, and a row comes in again as a conversation."""
    user = visit()
    user.ask("think export 导出")
    user.page.locator(".st-key-header button").first.click()
    with user.page.expect_download() as started:
        user.page.get_by_role("button", name="Export as a training row (JSONL)").click()
    path = started.value.path()
    row = json.loads(Path(path).read_text(encoding="utf-8"))["conversations"]
    assert [turn["role"] for turn in row] == ["user", "assistant"]
    assert row[1]["reasoning_content"] == "first this, then that"
    row[0]["content"] = "brought back"
    user.page.keyboard.press("Escape")
    user.page.get_by_text("Import conversations").click()
    content = json.dumps({"conversations": row}).encode()
    user.page.locator("input[type=file]").set_input_files(
        {"name": "row.jsonl", "mimeType": "application/jsonl", "buffer": content}
    )
    user.page.locator(".mm-title", has_text="brought back").wait_for()
    user.look("imported")
    user.page.locator(".st-key-header button").first.click()
    user.press("Delete")
    user.press("Yes, delete")
    user.sees("What would you like to know?")
    assert user.page.locator(".st-key-chats button", has_text="brought back").count() == 0


def test_copy_gives_the_text_as_the_model_wrote_it(visit: Any) -> None:
    """What is copied is the source, not the page."""
    user = visit()
    user.ask("copy **this**")
    user.page.locator('[class*="st-key-answer_"]').get_by_role("button", name="Copy").click()
    user.sees("Copied")
    assert user.page.evaluate("navigator.clipboard.readText()").strip() == "words: copy **this**"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "viewport"), [("wide", WIDE), ("phone", PHONE)])
def test_both_themes_on_both_widths(visit: Any, scheme: str, name: str, viewport: dict[str, int]) -> None:
    """The page follows the system's theme, and nothing is wider than a phone."""
    user = visit(color_scheme=scheme, viewport=viewport)
    user.ask("think about light and dark")
    user.look(f"{scheme}_{name}")
    colour = user.page.locator(".stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
    assert (brightness > 128) == (scheme == "light")
    assert user.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_a_server_that_is_down_is_named_and_found_again(
    browser: "playwright.Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who starts the page first learns how to start the server, and then only has to press a button."""
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    api, port = free_port(), free_port()
    with process.page(f"http://127.0.0.1:{api}/v1", key="right", port=port):
        page = browser.new_page(locale="en-GB", viewport=WIDE)
        page.set_default_timeout(PATIENCE_MS)
        user = User(page, Stub())
        page.goto(process.address("127.0.0.1", port))
        user.sees(f"No server answers at http://127.0.0.1:{api}/v1")
        user.look("unreachable")
        with stub_openai(api, key="other") as stub:
            user.press("Try again")
            user.sees("refuses the key")
            stub.key = "right"
            user.press("Try again")
            user.sees("Answered by words")
            user.ask("hello")
        page.close()

"""The web page: a chat over any OpenAI-compatible API. Streamlit draws it anew at every click; see `script`.

This is the frame: what is around the messages, and the field to write in. Beside it: the sidebar (`sidebar`), the
messages (`messages`), a run's state (`page`). Only modules of these names import Streamlit.
"""

import os
from html import escape
from pathlib import Path

import streamlit as st

from minimind import runtime
from minimind.serve.webui import html, messages, rows, sidebar
from minimind.serve.webui.answers import Answers
from minimind.serve.webui.asking import open_calls
from minimind.serve.webui.chats import ChatStore
from minimind.serve.webui.client import Server
from minimind.serve.webui.page import Page, forget_models, served_models, shown_answers, shown_chat
from minimind.serve.webui.process import KEY_VARIABLE, URL_VARIABLE
from minimind.serve.webui.words import LANGUAGES, language_of, speaker

CHATS_DIR = "chats"
STYLE, ICON = (Path(__file__).with_name(name) for name in ("page.css", "icon.svg"))
EXAMPLES = ("example_1", "example_2", "example_3")


@st.cache_resource
def _answers() -> Answers:
    """The answers under way of all pages of this process."""
    server = Server(os.environ.get(URL_VARIABLE, "http://127.0.0.1:8000/v1"), os.environ.get(KEY_VARIABLE, ""))
    return Answers(ChatStore(runtime.home() / CHATS_DIR), server)


def show() -> None:
    """The whole page, or why its conversations cannot be read."""
    try:
        _draw()
    except OSError as error:  # of the store: every click would find the same
        st.error(html.plain_label(speaker(language_of([st.context.locale]))("disk", why=error)))


def _draw() -> None:
    given = st.query_params.get("lang")
    language = next((known for known in LANGUAGES if known == given), None) or language_of([st.context.locale])
    say = speaker(language)
    answers = _answers()
    models, problem = served_models(answers)
    under_way = shown_answers(answers)
    chat, gone = shown_chat(answers, models, say)
    st.set_page_config(
        page_title=f"{chat.title} · MiniMind" if chat.title else "MiniMind",
        page_icon=str(ICON),
        layout="wide" if chat.settings.compare else "centered",
    )
    st.html(STYLE)
    page = Page(answers, say, language, html.reader(), models, problem, under_way, chat, gone)
    sidebar.draw(page)
    _notices(page)
    if page.is_draft:
        _greeting(page)
    else:
        _header(page)
    _input(page)
    messages.draw(page)


def _notices(page: Page) -> None:
    """What the user must know before anything else."""
    if notice := st.session_state.pop("notice", None):
        st.toast(notice)
    store = page.answers.store
    for name in store.damaged:
        st.html(html.notice(page.say("damaged", name=name)))
    if page.problem is not None:
        st.html(html.problem(page.problem, page.say, url=page.answers.server.url))
    elif not page.models:
        st.html(html.notice(page.say("no_models", url=page.answers.server.url)))
    elif page.wanted_model:
        other = page.chat.settings.model
        st.html(html.notice(page.say("model_gone", model=page.wanted_model, other=other)))
    if page.problem is not None or not page.models:
        st.button(page.say("retry"), icon=":material/refresh:", on_click=forget_models, key="retry_models")


def _greeting(page: Page) -> None:
    st.html(f'<div class="mm-greeting">{page.say("greeting")}</div>')
    if not page.models:
        return
    settings = page.chat.settings
    names = f"{settings.model} · {settings.second_model}" if settings.compare else settings.model
    st.html(f'<div class="mm-greeting-more">{escape(page.say("greeting_more", model=names))}</div>')
    with st.container(horizontal=True, horizontal_alignment="center", key="examples"):
        for name in EXAMPLES:
            st.button(page.say(name), on_click=page.ask, args=(page.say(name),), key=name)


def _header(page: Page) -> None:
    """The title, and what can be done with the whole conversation."""
    with st.container(key="header", horizontal=True, vertical_alignment="center"):
        st.html(f'<div class="mm-title">{escape(page.chat.title)}</div>')
        with st.popover("", icon=":material/more_horiz:", help=page.say("more"), type="tertiary"):
            _menu(page)


def _menu(page: Page) -> None:
    chat, say = page.chat, page.say
    key = f"title_{chat.id}"

    def rename() -> None:
        if title := " ".join(st.session_state[key].split()):
            page.change(lambda chat: chat.replace(title=title))

    st.text_input(say("rename"), chat.title, key=key, max_chars=120, on_change=rename)
    text = rows.markdown(chat, question=say("you"), answer=say("assistant"))
    st.download_button(
        say("export_markdown"), text, f"{chat.id}.md", "text/markdown", on_click="ignore", width="stretch"
    )
    try:
        row = rows.row_line(chat)
    except ValueError as error:  # DataError: there is no answer yet
        st.caption(html.plain_label(str(error)))
    else:
        st.download_button(
            say("export_row"), row, f"{chat.id}.jsonl", "application/jsonl", on_click="ignore", width="stretch"
        )
    if st.button(say("delete"), icon=":material/delete:", width="stretch", key="delete"):
        _confirm_deletion(page)


def _confirm_deletion(page: Page) -> None:
    @st.dialog(page.say("delete"))
    def sure() -> None:
        st.html(html.literal(page.say("delete_sure", title=page.chat.title), "mm-plain"))
        with st.container(horizontal=True):
            if st.button(page.say("delete_yes"), type="primary", key="delete_yes"):
                page.answers.stop(page.chat.id)
                page.answers.store.delete(page.chat.id)
                page.open_new()
                st.rerun()
            if st.button(page.say("cancel"), key="delete_no"):
                st.rerun()

    sure()


def _input(page: Page) -> None:
    """The field to write in; while an answer comes in, the button that stops it."""
    calls = [] if page.is_draft else open_calls(page.chat)
    with st.bottom:
        if page.is_answering:
            st.button(
                page.say("stop"),
                icon=":material/stop_circle:",
                key="stop",
                on_click=page.answers.stop,
                args=(page.chat.id,),
            )
        hint = page.say("ask_text") if page.chat.settings.continue_text else page.say("ask")
        hint = page.say("ask_result", name=calls[0]) if calls else hint
        hint = page.say("answering") if page.is_answering else hint
        text = st.chat_input(hint, disabled=page.is_answering or not page.models, key="question")
    if text and text.strip() and not page.is_answering:
        if calls:
            page.ask(text, role="tool", continue_now=len(calls) == 1)
        else:
            page.ask(text)
        st.rerun()

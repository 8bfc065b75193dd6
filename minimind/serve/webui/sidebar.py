"""The sidebar: conversations, models, how answers are drawn, import, language."""

from typing import Any

import streamlit as st

from minimind.errors import DataError
from minimind.serve.webui import html
from minimind.serve.webui.asking import read_tools
from minimind.serve.webui.page import Page
from minimind.serve.webui.rows import read_rows
from minimind.serve.webui.words import LANGUAGES

SLIDERS: dict[str, tuple[float, float, float]] = {
    "temperature": (0.0, 2.0, 0.05),
    "top_p": (0.0, 1.0, 0.01),
    "min_p": (0.0, 1.0, 0.01),
    "repetition_penalty": (0.1, 2.0, 0.01),
    "presence_penalty": (-2.0, 2.0, 0.1),
    "frequency_penalty": (-2.0, 2.0, 0.1),
}
"""Lowest, highest and step of each; the first two as `Settings` has them."""


def draw(page: Page) -> None:
    """All of the sidebar."""
    with st.sidebar:
        st.html('<div class="mm-brand">MiniMind</div>')
        st.button(
            page.say("new_chat"), icon=":material/edit_square:", on_click=page.open_new, width="stretch", key="new"
        )
        _chats(page)
        _models(page)
        _sampling(page)
        _prompts(page)
        _import(page)
        _language(page)


def _chats(page: Page) -> None:
    heads = page.answers.store.list()
    if not heads:
        return
    st.html(f'<div class="mm-label">{page.say("conversations")}</div>')
    with st.container(key="chats"):
        for head in heads:
            st.button(
                html.plain_label(head.title) or page.say("untitled"),
                key=f"open_{head.id}",
                type="secondary" if head.id == page.chat.id else "tertiary",
                width="stretch",
                on_click=page.open,
                args=(head.id,),
            )


def _models(page: Page) -> None:
    if not page.models:
        return
    _model(page, "model", "continue_text")
    _switch(page, "compare", help=page.say("compare_help"))
    if page.chat.settings.compare:
        _model(page, "second_model", "second_continue_text")


def _model(page: Page, name: str, continues: str) -> None:
    """A model, whether it continues text, and what the server tells of it."""
    known = {model.id: model for model in page.models}
    key = _key(page, name)
    chosen = getattr(page.chat.settings, name)

    def choose() -> None:
        model = st.session_state[key]
        # Set, not forgotten: the browser keeps what the switch was, and would send it again.
        st.session_state[_key(page, continues)] = known[model].only_continues
        page.set(**{name: model, continues: known[model].only_continues})

    if st.session_state.get(key, chosen) not in known:  # the server has other models than when it was chosen
        del st.session_state[key]
    st.selectbox(page.say(name), list(known), index=list(known).index(chosen), key=key, on_change=choose)
    _switch(page, continues, label="continue_text", help=page.say("continue_help"))
    if facts := html.facts(known[chosen].facts, page.say):
        with st.expander(page.say("about_model")):
            st.html(facts)


def _sampling(page: Page) -> None:
    settings = page.chat.settings
    with st.expander(page.say("sampling"), icon=":material/tune:"):
        for name in ("temperature", "top_p"):
            _slider(page, name)
        _number(page, "max_tokens", min_value=1, step=64)
        _number(page, "top_k", min_value=0, step=1, help=page.say("top_k_help"))
        for name in list(SLIDERS)[2:]:
            _slider(page, name)
        _number(page, "seed", step=1, help=page.say("seed_help"), value=settings.seed)


def _prompts(page: Page) -> None:
    settings = page.chat.settings
    with st.expander(page.say("system"), icon=":material/psychology:"):
        _text(page, "system", page.say("system_hint"))
        _text(page, "tools", page.say("tools_hint"))
        try:
            read_tools(settings.tools)
        except ValueError as error:
            st.html(html.notice(page.say("tools_wrong", why=error)))


def _import(page: Page) -> None:
    """The uploader has a new key after every file, so that it is empty again."""
    with st.expander(page.say("import"), icon=":material/upload_file:"):
        place = st.session_state.setdefault("imports", 0)
        given = st.file_uploader(page.say("import_help"), type=["jsonl", "json"], key=f"import_{place}")
        if given is None:
            return
        try:
            chats = read_rows(given.getvalue(), page.chat.settings)
        except DataError as error:
            st.html(html.notice(str(error)))
            return
        try:
            for chat in reversed(chats):  # the first row is the newest, at the top
                page.answers.store.save(chat)
        except OSError as error:
            st.html(html.notice(page.say("disk", why=error)))
            return
        st.session_state["imports"] = place + 1
        st.session_state["notice"] = page.say("imported", count=len(chats))
        page.open(chats[0].id)
    st.rerun()


def _language(page: Page) -> None:
    def choose() -> None:
        st.query_params["lang"] = st.session_state["language"] or page.language  # None: the one that is on was pressed

    st.segmented_control(
        page.say("language"),
        list(LANGUAGES),
        default=page.language,
        format_func=LANGUAGES.__getitem__,
        key="language",
        on_change=choose,
        width="stretch",
        required=True,
    )


def _key(page: Page, name: str) -> str:
    """The key of a setting's widget: each conversation has its own, so that none takes over another's value."""
    return f"{page.chat.id}_{name}"


def _keep(page: Page, name: str) -> None:
    value = st.session_state[_key(page, name)]
    if value is not None or name == "seed":  # a number field that was emptied
        page.set(**{name: value})


def _slider(page: Page, name: str) -> None:
    low, high, step = SLIDERS[name]
    value = min(max(float(getattr(page.chat.settings, name)), low), high)
    st.slider(
        page.say(name),
        low,
        high,
        value,
        step,
        key=_key(page, name),
        help=page.say(f"{name}_help"),
        on_change=_keep,
        args=(page, name),
    )


def _number(page: Page, name: str, **options: Any) -> None:
    value = options.pop("value", getattr(page.chat.settings, name))
    st.number_input(page.say(name), value=value, key=_key(page, name), on_change=_keep, args=(page, name), **options)


def _switch(page: Page, name: str, *, label: str = "", help: str) -> None:
    key = _key(page, name)
    st.session_state.setdefault(key, getattr(page.chat.settings, name))
    st.toggle(page.say(label or name), key=key, help=help, on_change=_keep, args=(page, name))


def _text(page: Page, name: str, hint: str) -> None:
    value = getattr(page.chat.settings, name)
    st.text_area(
        page.say(name), value, key=_key(page, name), placeholder=hint, height=100, on_change=_keep, args=(page, name)
    )

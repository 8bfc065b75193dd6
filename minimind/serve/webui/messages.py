"""The messages of a conversation on the page, each with what can be done with it, and answers as they come in."""

import time
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from minimind.serve.webui import html
from minimind.serve.webui.answers import Answering
from minimind.serve.webui.chats import Message
from minimind.serve.webui.components import copy_button, follower
from minimind.serve.webui.page import Page

LOOK_SECONDS = 0.08  # between two looks at an answer under way: smooth to the eye, light for the browser


def draw(page: Page) -> None:
    """The messages on the path; of a pair both sides."""
    path = page.chat.path()
    under_way = page.under_way
    pairs_under_way = {one.blank.pair for one in under_way} - {""}
    for number in path:
        message = page.chat.messages[number]
        if message.role != "assistant":
            _question(page, number)
        elif message.pair and message.pair in pairs_under_way:
            continue  # drawn as it comes in
        elif message.pair:
            _pair(page, number)
        else:
            _answer(page, number)
    follower()(data={"turn": f"{page.chat.id} {page.chat.head}", "live": bool(under_way)}, key="follower", height=1)
    if under_way:
        _follow(page, under_way)
    elif path and page.chat.messages[path[-1]].role == "user":
        st.button(page.say("ask_again"), icon=":material/refresh:", on_click=page.start, key="ask_again")
    if why := page.answers.unsaved.get(page.chat.id):
        st.html(html.notice(page.say("unsaved", why=why)))


def _question(page: Page, number: int) -> None:
    message = page.chat.messages[number]
    if message.role == "tool":
        st.html(html.folded(page.say("tool_result"), html.literal(message.content)))
        return
    if st.session_state.get("editing") == (page.chat.id, number) and not page.is_answering:
        _editor(page, number)
        return
    with st.container(key=f"question_{number}"):
        st.html(html.literal(message.content or " "))
        with st.container(
            key=f"tools_{number}",
            horizontal=True,
            horizontal_alignment="right",
            vertical_alignment="center",
            gap="small",
        ):
            _versions(page, number)
            _copy(page, number)
            st.button(
                "",
                icon=":material/edit:",
                help=page.say("edit"),
                type="tertiary",
                key=f"edit_{number}",
                disabled=page.is_answering,
                on_click=lambda: st.session_state.update(editing=(page.chat.id, number)),
            )


def _editor(page: Page, number: int) -> None:
    with st.form(f"editor_{number}"):
        text = st.text_area(page.say("edit_question"), page.chat.messages[number].content, key=f"edited_{number}")
        with st.container(horizontal=True):
            saved = st.form_submit_button(page.say("ask_again"), type="primary")
            left = st.form_submit_button(page.say("cancel"))
    if saved and text.strip():
        page.ask_instead(number, text)
    if saved or left:
        st.session_state.pop("editing", None)
        st.rerun()


def _answer(page: Page, number: int) -> None:
    with st.container(key=f"answer_{number}"):
        _said(page, number)
        _tools(page, number)


def _pair(page: Page, number: int) -> None:
    """Two answers side by side, and which of them the conversation goes on with; below each other on a phone."""
    for place, side in zip(st.columns(2, gap="medium"), page.chat.pair_of(number), strict=False):
        with place, st.container(key=f"answer_{side}"):
            _said(page, side)
            with st.container(key=f"tools_{side}", horizontal=True, vertical_alignment="center", gap="small"):
                if side == number:
                    st.html(f'<div class="mm-chosen">✓ {page.say("goes_on")}</div>', width="content")
                else:
                    _go_on(page, side)
                _copy(page, side)
    with st.container(key=f"tools_pair_{number}", horizontal=True, vertical_alignment="center", gap="small"):
        _versions(page, number)
        _again(page, number)


def _go_on(page: Page, number: int) -> None:
    def choose() -> None:
        page.change(lambda chat: chat.shown_at(number))

    st.button(page.say("go_on"), type="tertiary", key=f"go_on_{number}", on_click=choose, disabled=page.is_answering)


def _said(page: Page, number: int) -> None:
    message = page.chat.messages[number]
    if message.reasoning:
        st.html(html.folded(page.say("thought"), html.literal(message.reasoning)))
    if message.content:
        st.html(_body(page, message))
    if message.tool_calls:
        st.html(html.calls(message.tool_calls, page.say))
    if message.problem is not None:
        st.html(html.problem(message.problem, page.say, url=page.answers.server.url))
    st.html(html.caption(message, page.say))


def _body(page: Page, message: Message) -> str:
    if message.continues_text:
        prompt = "" if message.parent is None else page.chat.messages[message.parent].content
        return html.continued(prompt, message.content)
    return html.answer(message.content, page.markdown)


def _tools(page: Page, number: int) -> None:
    with st.container(key=f"tools_{number}", horizontal=True, vertical_alignment="center", gap="small"):
        _versions(page, number)
        if page.chat.messages[number].content:
            _copy(page, number)
        _again(page, number)


def _again(page: Page, number: int) -> None:
    failed = page.chat.messages[number].problem is not None
    st.button(
        page.say("retry") if failed else "",
        icon=":material/refresh:",
        help=page.say("regenerate"),
        type="secondary" if failed else "tertiary",
        key=f"again_{number}",
        disabled=page.is_answering or not page.models,
        on_click=page.answer_again,
        args=(number,),
    )


def _versions(page: Page, number: int) -> None:
    """Which of how many versions is shown, and the way to the others."""
    versions = page.chat.versions(number)
    if len(versions) < 2:
        return
    place = versions.index(number)

    def show(target: int) -> None:
        page.change(lambda chat: chat.shown_at(target))

    for name, step in (("older", -1), ("newer", 1)):
        target = versions[(place + step) % len(versions)]
        st.button(
            "",
            icon=f":material/chevron_{'left' if step < 0 else 'right'}:",
            help=page.say(name),
            type="tertiary",
            key=f"{name}_{number}",
            disabled=page.is_answering or not 0 <= place + step < len(versions),
            on_click=show,
            args=(target,),
        )
        if step < 0:
            st.html(f'<div class="mm-caption">{place + 1}/{len(versions)}</div>', width="content")


def _copy(page: Page, number: int) -> None:
    text = page.chat.messages[number].content
    data = {"text": text, "label": page.say("copy"), "done": page.say("copied")}
    copy_button()(key=f"copy_{page.chat.id}_{number}_{page.language}", data=data, width="content")


@dataclass
class _Slots:
    """Where the parts of one answer under way are drawn, and what stands there now."""

    thought: DeltaGenerator
    body: DeltaGenerator
    calls: DeltaGenerator
    caption: DeltaGenerator
    drawn: tuple[str, str, str] = ("", "", "")


def _follow(page: Page, under_way: list[Answering]) -> None:
    """Draw answers as they come in until all are kept, then draw the page anew. A click ends this run at any time."""
    places = st.columns(2, gap="medium") if len(under_way) > 1 else [st.container()]
    slots = []
    for number, place in enumerate(places):
        with place, st.container(key=f"live_{number}"):
            slots.append(_Slots(st.empty(), st.empty(), st.empty(), st.empty()))
    while page.answers.under_way(page.chat.id) == under_way:
        for slot, answering in zip(slots, under_way, strict=True):
            _draw_live(page, slot, answering.message())
        time.sleep(LOOK_SECONDS)
    st.rerun()


def _draw_live(page: Page, slot: _Slots, message: Message) -> None:
    """Draw what is new. Thoughts are open until the answer begins, then they stay as they are."""
    thinks = not message.content and not message.tool_calls
    parts = ("", "", "")
    if message.reasoning:
        label = page.say("thinking") if thinks else page.say("thought")
        parts = (html.folded(label, html.literal(message.reasoning), is_open=thinks), "", "")
    parts = (parts[0], _body(page, message) if message.content else "", html.calls(message.tool_calls, page.say))
    for place, new, old in zip((slot.thought, slot.body, slot.calls), parts, slot.drawn, strict=True):
        if new != old:
            place.html(new)
    slot.drawn = parts
    slot.caption.html(html.caption(message, page.say) if any(parts) else html.waiting(message, page.say))

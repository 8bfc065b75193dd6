"""One run of the page: which conversation it shows, and the changes a click makes.

Streamlit keeps between runs what is in its session; what must outlive a reload is in the address: the conversation and
the language. Every change goes through `Page.change`, so that a conversation that was deleted elsewhere or a full disk
is a notice and not a traceback. Not here: what it looks like.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import openai
import streamlit as st
from markdown_it import MarkdownIt

from minimind.errors import MissingError
from minimind.serve.webui.answers import Answering, Answers
from minimind.serve.webui.asking import fitted, requests
from minimind.serve.webui.chats import Chat, Message, Problem, Settings, new_chat
from minimind.serve.webui.client import ServedModel, list_models, problem_of
from minimind.serve.webui.words import Language, Say

MODELS_SECONDS = 15.0  # for so long a list of models is believed: a new one shows soon, and a click does not wait


@dataclass
class Page:
    """What one run of the script works with."""

    answers: Answers
    say: Say
    language: Language
    markdown: MarkdownIt
    models: list[ServedModel]
    problem: Problem | None
    """Why there are no models."""
    under_way: list[Answering]
    """Answers the conversation waited for when this run began: what ends meanwhile is for the next run to show."""
    chat: Chat
    wanted_model: str = ""
    """The conversation's model, where the server does not have it now."""

    @property
    def is_answering(self) -> bool:
        return bool(self.under_way)

    @property
    def is_draft(self) -> bool:
        """Whether the conversation has no file yet."""
        return not self.chat.messages

    def change(self, change: Callable[[Chat], Chat]) -> bool:
        """Apply a change to the shown conversation and its file; False, and a notice, where that cannot be."""
        try:
            if self.is_draft:
                self.chat = change(self.chat)
                if self.chat.messages:
                    self.chat = self.answers.store.save(self.chat)
                    st.query_params["chat"] = self.chat.id
                st.session_state["draft"] = self.chat
            else:
                self.chat = self.answers.store.change(self.chat.id, change)
        except MissingError:
            st.session_state["notice"] = self.say("gone")
            return False
        except OSError as error:
            st.session_state["notice"] = self.say("disk", why=f"{error.filename or ''} {error.strerror or error}")
            return False
        return True

    def set(self, **changes: object) -> None:
        """Change settings of the conversation."""
        self.change(lambda chat: chat.replace(settings=chat.settings.replace(**changes)))

    def ask(self, text: str, *, role: str = "user", continue_now: bool = True) -> None:
        """Add a question, or the result of a tool, at the end of the path, and have it answered."""
        settings = self.chat.settings  # as fitted to what is served; the file may name a model that is gone
        said = self.change(
            lambda chat: chat.replace(settings=settings).with_message(
                Message(parent=chat.head, role=role, content=text)  # type: ignore[arg-type]
            )
        )
        if said and continue_now:
            self.start()

    def ask_instead(self, number: int, text: str) -> None:
        """Put a new version of a question beside the old one, and have it answered."""
        if self.change(lambda chat: chat.cut_before(number)):
            self.ask(text)

    def answer_again(self, number: int) -> None:
        """Have a new version of an answer, with the settings as they are now."""
        settings = self.chat.settings
        if self.change(lambda chat: chat.cut_before(number).replace(settings=settings)):
            self.start()

    def start(self) -> None:
        """Have the end of the path answered."""
        if not self.answers.under_way(self.chat.id):
            self.answers.start(self.chat.id, requests(self.chat))

    def open(self, chat_id: str) -> None:
        """Show another conversation from the next run on."""
        st.query_params["chat"] = chat_id
        st.session_state.pop("editing", None)

    def open_new(self) -> None:
        """Show an empty conversation with the settings of this one from the next run on."""
        st.query_params.pop("chat", None)
        st.session_state.pop("editing", None)
        st.session_state["draft"] = new_chat(self.chat.settings)


def served_models(answers: Answers) -> tuple[list[ServedModel], Problem | None]:
    """The server's models, or why there are none; asked for again after a while, or where the session has forgotten."""
    known = st.session_state.get("models")
    if known is None or time.monotonic() - known[0] > MODELS_SECONDS:
        try:
            found, problem = list_models(answers.server), None
        except openai.OpenAIError as error:
            found, problem = [], problem_of(error)
        except (ValueError, TypeError, AttributeError) as error:  # an answer that is no list of models
            found, problem = [], Problem(kind="not_openai", message=f"{type(error).__name__}: {error}"[:300])
        known = st.session_state["models"] = (time.monotonic(), found, problem)
    return known[1], known[2]


def forget_models() -> None:
    """Have the server asked for its models at the next run."""
    st.session_state.pop("models", None)


def shown_answers(answers: Answers) -> list[Answering]:
    """The answers under way in the conversation the address names. Looked at before its file, into which they go."""
    return answers.under_way(st.query_params.get("chat", ""))


def shown_chat(answers: Answers, models: list[ServedModel], say: Say) -> tuple[Chat, str]:
    """The conversation the address names, else a draft; and its model, where the server does not have it now."""
    store = answers.store
    chat_id = st.query_params.get("chat")
    chat = store.load(chat_id) if chat_id else None
    if chat_id and chat is None:
        st.query_params.pop("chat", None)
        st.session_state["notice"] = say("gone")
    if chat is None:
        chat = st.session_state.get("draft")
        if chat is None or chat.messages:
            newest = next(iter(store.list()), None)
            last = store.load(newest.id) if newest else None
            settings = last.settings.replace(compare=False, system="", tools="") if last else Settings()
            chat = st.session_state["draft"] = new_chat(settings)
    if chat.settings.model == "" or not models:
        gone = ""
    else:
        gone = "" if chat.settings.model in [model.id for model in models] else chat.settings.model
    return chat.replace(settings=fitted(chat.settings, models)), gone

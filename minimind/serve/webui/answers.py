"""Answers under way, outside the page's own runs.

Streamlit runs the page's script anew at every click. So an answer is a thread of its own: the page only looks at how
far it has come, a click in between breaks nothing, two models can answer at once, and an answer whose page was closed
or loaded again is finished and kept. Stopping cancels the request at any moment, also before the first token: the
connection is closed, which tells the server.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import openai

from minimind.errors import MissingError
from minimind.serve.webui.chats import ChatStore, Figures, Message, Problem, ToolCall
from minimind.serve.webui.client import CallPiece, Piece, Request, Server, problem_of, stream

THINK, END_THINK = "<think>", "</think>"


@dataclass
class Answering:
    """One answer as far as it has come. Read by the page while its thread writes."""

    request: Request
    blank: Message
    """Who answers what: the message without what is said."""
    text: str = ""
    reasoning: str = ""
    calls: dict[int, CallPiece] = field(default_factory=dict)
    last: Piece = Piece()
    """Finish reason and token counts, once they came."""
    pieces: int = 0
    is_heard: bool = False
    """Whether anything came that is in OpenAI's format."""
    started: float = field(default_factory=time.perf_counter)
    first_at: float | None = None
    ended_at: float | None = None
    stopped: bool = False
    problem: Problem | None = None
    is_kept: bool = False
    _cancel: Callable[[], object] | None = None

    def run(self, server: Server) -> None:
        """Take the whole answer; return when it is over, in whatever way."""
        try:
            asyncio.run(self._take_all(server))
        except openai.OpenAIError as error:
            self.problem = problem_of(error)
        except asyncio.CancelledError:
            self.stopped = True
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            # The client reads whatever a server sends as if it were OpenAI's: what is not fails in these ways.
            self.problem = Problem(kind="not_openai", message=f"{type(error).__name__}: {error}"[:1000])
        finally:
            self.ended_at = time.perf_counter()

    def stop(self) -> None:
        """End the answer now; what has come stays."""
        self.stopped = True
        if self._cancel is not None:
            self._cancel()

    def message(self) -> Message:
        """The answer as a message, also while it is under way."""
        reasoning, content = self._split()
        calls = tuple(ToolCall(id=c.id, name=c.name, arguments=c.arguments) for _, c in sorted(self.calls.items()))
        problem = self.problem or self._silent_problem(nothing=not (content or reasoning or calls))
        state = "failed" if problem else "stopped" if self.stopped else "done"
        figures = Figures(
            seconds=(self.ended_at or time.perf_counter()) - self.started,
            first_token_seconds=None if self.first_at is None else self.first_at - self.started,
            prompt_tokens=self.last.prompt_tokens,
            completion_tokens=self.last.completion_tokens,
            pieces=self.pieces,
        )
        said = {"content": content, "reasoning": reasoning, "tool_calls": calls, "problem": problem}
        return self.blank.replace(**said, state=state, finish_reason=self.last.finish_reason, figures=figures)

    def _silent_problem(self, *, nothing: bool) -> Problem | None:
        """What is wrong with an answer that ended without an error: it has no end, or there is nothing in it."""
        if self.ended_at is None or self.stopped:
            return None
        if not self.last.finish_reason:
            return Problem(kind="broke_off" if self.is_heard else "not_openai")
        return Problem(kind="empty") if nothing else None

    async def _take_all(self, server: Server) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._cancel = lambda: None if loop.is_closed() else loop.call_soon_threadsafe(task.cancel)
        if self.stopped:  # before there was anything to cancel
            return
        async for piece in stream(server, self.request):
            self._take(piece)

    def _take(self, piece: Piece) -> None:
        self.is_heard = True
        if piece.text or piece.reasoning or piece.calls:
            self.first_at = self.first_at or time.perf_counter()
            self.pieces += 1
        self.text += piece.text
        self.reasoning += piece.reasoning
        for call in piece.calls:
            known = self.calls.get(call.index, CallPiece(call.index))
            self.calls[call.index] = CallPiece(
                call.index, known.id or call.id, known.name + call.name, known.arguments + call.arguments
            )
        counts = ("finish_reason", "prompt_tokens", "completion_tokens")
        latest = {name: getattr(piece, name) or getattr(self.last, name) for name in counts}
        self.last = Piece(**latest)

    def _split(self) -> tuple[str, str]:
        """Reasoning and content; servers without a channel for reasoning send it in tags before the content."""
        if self.reasoning or self.blank.continues_text or not self.text.lstrip().startswith(THINK):
            return self.reasoning, self.text
        reasoning, _, content = self.text.lstrip().removeprefix(THINK).partition(END_THINK)
        return reasoning.strip(), content.lstrip()


@dataclass
class Answers:
    """All answers under way, by conversation; one object for every page of the process."""

    store: ChatStore
    server: Server
    unsaved: dict[str, str] = field(default_factory=dict)
    """Why the last answer of a conversation could not be written, by the conversation's id."""
    _running: dict[str, list[Answering]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def under_way(self, chat_id: str) -> list[Answering]:
        """The answers a conversation waits for, left one first; of two both, until both are kept."""
        return list(self._running.get(chat_id, ()))

    def start(self, chat_id: str, wanted: list[tuple[Request, Message]]) -> None:
        """Begin answers, one thread each; every one is added to the conversation when it ends."""
        asked = [Answering(request, blank) for request, blank in wanted]
        self.unsaved.pop(chat_id, None)
        self._running[chat_id] = asked
        for answering in asked:
            threading.Thread(target=self._answer, args=(chat_id, answering), daemon=True, name="answer").start()

    def stop(self, chat_id: str) -> None:
        """End all answers of a conversation."""
        for answering in self.under_way(chat_id):
            answering.stop()

    def _answer(self, chat_id: str, answering: Answering) -> None:
        try:
            answering.run(self.server)
            self._keep(chat_id, answering.message())
        finally:
            with self._lock:
                answering.is_kept = True
                if all(other.is_kept for other in self.under_way(chat_id)):
                    self._running.pop(chat_id, None)

    def _keep(self, chat_id: str, message: Message) -> None:
        try:
            self.store.change(chat_id, lambda chat: chat.with_message(message))
        except MissingError:  # the conversation was deleted meanwhile, and its answer with it
            return
        except OSError as error:
            self.unsaved[chat_id] = f"{error.filename or self.store.directory}: {error.strerror}"

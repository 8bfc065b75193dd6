"""A conversation with a model in a terminal, line by line.

`chat` is the session: it reads a line, streams the answer, keeps the turns, and obeys a few
commands. Ctrl-C stops an answer, which is kept as far as it came; Ctrl-D ends the session. What the
context cannot hold any more is forgotten turn by turn, oldest first, and said. Where the console is
no terminal (a pipe, a file, a test) only answers and notices are printed. `Conversation` and `fit`
are the part without a screen.

What the engine has read of the conversation it does not read again. Not here: finding a model, options, tools.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.segment import Segment, Segments

from minimind import runtime
from minimind.config import nearest
from minimind.errors import DataError, MiniMindError
from minimind.infer.engine import Engine
from minimind.infer.generate import stream_text
from minimind.infer.sampling import Sampling
from minimind.tokens.chat import render_prompt

ReadLine = Callable[[str], str]
"""Given the prompt to show, the next line of the user; EOFError at the end, KeyboardInterrupt at Ctrl-C."""

LoadModel = Callable[[str], Engine]
"""The engine of a model as the command line names it."""

COMMANDS = {
    "/model": "/model NAME goes on with another model, such as dpo; without NAME it says which this is",
    "/reset": "forget the conversation",
    "/system": "/system TEXT tells the model who it is; without TEXT it is told nothing",
    "/save": "/save FILE writes the conversation as a row of chat training data",
    "/help": "show this (a message that starts with a slash is written with two)",
    "/exit": "end, as Ctrl-D does; Ctrl-C stops an answer",
}

_UNPRINTABLE = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters: an answer must not move the cursor or recolour the terminal."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer; the reasoning is what stood in think tags before the answer."""

    question: str
    answer: str
    reasoning: str = ""


@dataclass
class Conversation:
    """The system text and the turns so far."""

    system: str = ""
    turns: list[Turn] = field(default_factory=list)

    def messages(self, question: str | None = None, *, first: int = 0) -> list[dict[str, str]]:
        """The messages from turn `first` on, with an open question at the end where one is given."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[first:]:
            thought = {"reasoning_content": turn.reasoning} if turn.reasoning else {}
            messages += [
                {"role": "user", "content": turn.question},
                {"role": "assistant", "content": turn.answer, **thought},
            ]
        return messages if question is None else [*messages, {"role": "user", "content": question}]


def fit(engine: Engine, conversation: Conversation, question: str, *, reserve: int) -> tuple[list[int], int]:
    """The prompt for `question`, and how many of the oldest turns must go to leave `reserve` tokens for the answer.

    Raises DataError where the question is too long even without any turn.
    """
    room = engine.config.max_positions - reserve
    for first in range(len(conversation.turns) + 1):
        prompt_ids = render_prompt(conversation.messages(question, first=first), engine.tokenizer)
        if len(prompt_ids) <= room:
            return prompt_ids, first
    raise DataError(
        f"this message makes {len(prompt_ids)} tokens with the system text, and the model's context has room for "
        f"{room} beside an answer; shorten the message"
    )


def split_reasoning(text: str) -> tuple[str, str]:
    """The reasoning in think tags an answer begins with, and the answer behind it."""
    if not text.startswith("<think>"):
        return "", text
    reasoning, _, answer = text.removeprefix("<think>").partition("</think>")
    return reasoning.strip(), answer.lstrip()


def read_terminal(prompt: str) -> str:
    """The next line of standard input, with editing and the prompt where it is a terminal; a pipe is read as UTF-8."""
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        return line.decode("utf-8", "replace")
    import readline  # noqa: F401  gives input() its editing keys, and wide characters their width

    return input(prompt)


@dataclass
class _Session:
    """Who talks with which model, and where it is shown."""

    engine: Engine
    sampling: Sampling
    console: Console
    conversation: Conversation
    load: LoadModel | None


def chat(
    engine: Engine,
    *,
    sampling: Sampling,
    console: Console,
    read_line: ReadLine = read_terminal,
    system: str = "",
    load: LoadModel | None = None,
) -> Conversation:
    """Talk until the input ends or /exit; the conversation as it then stands. `load` makes /model work."""
    session = _Session(engine, sampling, console, Conversation(system), load)
    if console.is_terminal:
        _note(console, f"{engine.name} · /help shows the commands, Ctrl-D ends")
    while True:
        try:
            line = _whole_characters(read_line("› ")).strip()
        except EOFError:
            if console.is_terminal:
                _show(console, "\n")  # the shell's prompt gets a line of its own
            return session.conversation
        except KeyboardInterrupt:
            if not console.is_terminal:
                raise
            _note(console, "\nCtrl-D or /exit ends")
            continue
        if line == "/exit":
            return session.conversation
        if line.startswith("/") and not line.startswith("//"):
            _obey(line, session)
        elif line:
            _answer(session, line.removeprefix("/"))


def _answer(session: _Session, question: str) -> None:
    """Stream one answer and keep the turn; a question without an answer is not kept."""
    engine, conversation, console = session.engine, session.conversation, session.console
    # At least a quarter of a small context is for the answer, however much max_tokens would take.
    reserve = min(session.sampling.max_tokens, max(1, engine.config.max_positions // 4))
    try:
        prompt_ids, forgotten = fit(engine, conversation, question, reserve=reserve)
    except DataError as error:
        _note(console, str(error))
        return
    if forgotten:
        del conversation.turns[:forgotten]
        _note(console, f"the context is full: forgot the oldest {'turn' if forgotten == 1 else f'{forgotten} turns'}")
    pieces = stream_text(engine, prompt_ids, sampling=session.sampling)
    text, ending, started = "", "", time.perf_counter()
    try:
        while True:
            piece = next(pieces)
            text += piece
            _show(console, piece)
    except StopIteration as end:
        rate = end.value.tokens / max(time.perf_counter() - started, 1e-9)
        ending = f"{end.value.tokens} tokens · {rate:.1f} tokens/s"
        ending += " · cut off at max_tokens" if end.value.finish_reason == "length" else ""
    except KeyboardInterrupt:
        ending = "stopped"
    finally:
        pieces.close()
    _show(console, "\n")
    if text.strip():
        reasoning, answer = split_reasoning(text)
        conversation.turns.append(Turn(question, answer, reasoning))
    else:
        _note(console, "no answer; the message is not kept")
    if console.is_terminal:
        _note(console, ending)


def _obey(line: str, session: _Session) -> None:
    """Carry out a command and say what was done."""
    conversation, console = session.conversation, session.console
    command, _, argument = line.partition(" ")
    argument = argument.strip()
    match command:
        case "/model":
            _note(console, _change_model(session, argument))
        case "/reset":
            conversation.turns.clear()
            _note(console, "the conversation is forgotten" + (", the system text stays" if conversation.system else ""))
        case "/system":
            conversation.system = argument
            _note(console, "the system text is set" if argument else "there is no system text any more")
        case "/save":
            _note(console, _save(conversation, argument))
        case "/help":
            _note(console, "\n".join(f"{name:8} {meaning}" for name, meaning in COMMANDS.items()))
        case _:
            _note(console, f"{command} is no command{nearest(command, list(COMMANDS))}")


def _change_model(session: _Session, name: str) -> str:
    """Go on with the model of that name, and say so, or why not."""
    if not name:
        return f"this is {session.engine.name}; /model NAME goes on with another one"
    if session.load is None:
        return "no other model can be loaded here"
    try:
        session.engine = session.load(name)
    except MiniMindError as error:
        return f"{error}; {session.engine.name} stays"
    return f"{session.engine.name} goes on; /reset makes it forget what was said"


def _save(conversation: Conversation, argument: str) -> str:
    """Write the conversation to the file and say so, or why not."""
    if not argument:
        return "/save needs a file name, for example /save chat.jsonl"
    if not conversation.turns:
        return "there is nothing to save yet"
    path = Path(argument).expanduser()
    if path.exists():
        return f"{path} is there already; take another name"
    row = json.dumps({"conversations": conversation.messages()}, ensure_ascii=False)
    try:
        runtime.write_atomic(path, row + "\n")
    except OSError as error:
        return f"cannot write {path}: {error.strerror}"
    return f"saved to {path}"


def _show(console: Console, text: str) -> None:
    """Print text of the model as it is, tabs included, but for characters that would act on the terminal."""
    console.print(Segments([Segment(text.translate(_UNPRINTABLE))]), end="", soft_wrap=True)


def _note(console: Console, text: str) -> None:
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _whole_characters(text: str) -> str:
    """`text` with halves of characters, which a terminal in another encoding sends, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

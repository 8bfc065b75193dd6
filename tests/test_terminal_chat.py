"""The terminal session: turns, commands, interruption, a full context, pipes, Chinese."""

import io
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from minimind.errors import DataError, MissingError
from minimind.infer import chat as terminal
from minimind.infer.chat import Conversation, Turn, chat, fit, read_terminal, split_reasoning
from minimind.infer.engine import Engine
from minimind.infer.generate import Completion, complete
from minimind.infer.network import Network
from minimind.infer.sampling import Sampling
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer

SAMPLING = Sampling(temperature=1, top_p=1, seed=1, max_tokens=12)


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Engine:
    """A tiny random model: what it says is noise, but the same noise every time."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=1, num_heads=2, head_size=16, ffn_size=32,
        max_positions=256,
    )  # fmt: skip
    return Engine(Network(Transformer(config, seed=0), "fp32"), tokenizer, name="tiny")


def typed(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """A user who types these lines, or presses Ctrl-C, and then ends the session."""
    left = iter(lines)

    def read_line(prompt: str) -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read_line


def session(
    engine: Engine, *lines: str | type[BaseException], terminal: bool = False, **options: Any
) -> tuple[Conversation, str]:
    """What a session with these lines leaves behind, and what it printed."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=40)
    conversation = chat(engine, sampling=SAMPLING, console=console, read_line=typed(*lines), **options)
    return conversation, console.file.getvalue()  # type: ignore[attr-defined]


def test_turns_build_on_each_other(engine: Engine) -> None:
    """The second answer is that to the whole conversation, not to the second line alone."""
    conversation, shown = session(engine, "你好,世界", "and then?", system="Be kind.")
    first, second = conversation.turns
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "你好,世界"},
        {"role": "assistant", "content": first.answer},
        {"role": "user", "content": "and then?"},
    ]
    prompt_ids = render_prompt(messages, engine.tokenizer)
    assert second.answer == complete(engine, prompt_ids, sampling=SAMPLING).text
    assert shown.count("\n") >= 2


def test_a_pipe_gets_the_answers_and_nothing_else(engine: Engine) -> None:
    """Scripts read the output: no greeting, no colours, no rates, and lines as the model broke them."""
    conversation, shown = session(engine, "one\n", "\n", "two\n")
    assert shown == "".join(turn.answer.translate(terminal._UNPRINTABLE) + "\n" for turn in conversation.turns)
    assert len(conversation.turns) == 2


def test_a_terminal_sees_the_rate_and_the_greeting(engine: Engine) -> None:
    """tokens/s after each answer is how a user notices a slow device."""
    _, shown = session(engine, "one", terminal=True)
    assert "tiny · /help" in shown
    assert "tokens/s" in shown


def test_ctrl_c_stops_the_answer_and_not_the_session(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said so far stays in the conversation; the next question is answered."""
    whole = terminal.stream_text
    calls = []

    def interrupted_once(*arguments: object, **options: object) -> Generator[str, None, Completion]:
        calls.append(options)
        if len(calls) > 1:
            return (yield from whole(*arguments, **options))  # type: ignore[arg-type]
        yield "half an "
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal, "stream_text", interrupted_once)
    conversation, shown = session(engine, "one", "two", terminal=True)
    assert [turn.question for turn in conversation.turns] == ["one", "two"]
    assert conversation.turns[0].answer == "half an "
    assert "stopped" in shown


def test_ctrl_c_at_the_prompt_says_how_to_end(engine: Engine) -> None:
    """A terminal session survives the second Ctrl-C; a script is ended by its first."""
    conversation, shown = session(engine, KeyboardInterrupt, "one", terminal=True)
    assert "Ctrl-D or /exit" in shown
    assert len(conversation.turns) == 1
    with pytest.raises(KeyboardInterrupt):
        session(engine, KeyboardInterrupt, "one")


def test_reset_and_system_change_what_the_model_is_told(engine: Engine) -> None:
    """/reset forgets the turns and keeps the system text; /system without text removes it."""
    conversation, _ = session(engine, "one", "/system You are 小明.", "two", "/reset", "three")
    assert conversation.messages()[0] == {"role": "system", "content": "You are 小明."}
    assert [turn.question for turn in conversation.turns] == ["three"]
    assert session(engine, "/system", system="x")[0].messages() == []


def test_exit_ends_before_the_next_line(engine: Engine) -> None:
    """Ctrl-D is not the only way out."""
    assert session(engine, "/exit", "one")[0].turns == []


def test_an_unknown_command_is_not_sent_to_the_model(engine: Engine) -> None:
    """A slip gets a hint; a message that must start with a slash has a way."""
    conversation, shown = session(engine, "/rest", "//etc is a folder", "/help")
    assert "/rest is no command (did you mean `/reset`?)" in shown
    assert [turn.question for turn in conversation.turns] == ["/etc is a folder"]
    assert all(command in shown for command in terminal.COMMANDS)


def test_save_writes_a_row_of_training_data(engine: Engine, tmp_path: Path) -> None:
    """A good conversation can be learnt from: the file is a line of chat rows, Chinese readable."""
    path = tmp_path / "chat.jsonl"
    conversation, shown = session(engine, "/save x", "好", f"/save {path}", f"/save {path}", "/save")
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"conversations": conversation.messages()}
    assert "好" in text
    assert "nothing to save" in shown
    assert "there already" in shown
    assert "needs a file name" in shown
    assert "cannot write" in session(engine, "好", f"/save {tmp_path}/absent/chat.jsonl")[1]


def test_another_model_goes_on_with_the_same_conversation(engine: Engine, tokenizer: Tokenizer) -> None:
    """What SFT and DPO make of one question is compared without typing it twice; a wrong name costs nothing."""
    other = Engine(Network(Transformer(engine.config, seed=9), "fp32"), tokenizer, name="other")

    def load(name: str) -> Engine:
        if name != "dpo":
            raise MissingError(f"no model `{name}`")
        return other

    conversation, shown = session(engine, "one", "/model", "/model nope", "/model dpo", "two", load=load)
    assert "this is tiny" in shown
    assert "no model `nope`; tiny stays" in shown
    assert "other goes on" in shown
    prompt_ids = render_prompt([*conversation.messages()[:2], {"role": "user", "content": "two"}], tokenizer)
    assert conversation.turns[1].answer == complete(other, prompt_ids, sampling=SAMPLING).text
    assert "no other model can be loaded here" in session(engine, "/model dpo")[1]


def test_a_full_context_forgets_the_oldest_turns_and_says_so(engine: Engine) -> None:
    """The session goes on for ever; what was forgotten is no secret."""
    conversation, shown = session(engine, *["some words to fill the context " * 2] * 12)
    assert "forgot the oldest turn" in shown
    assert 0 < len(conversation.turns) < 12
    prompt_ids = render_prompt(conversation.messages(), engine.tokenizer)
    assert len(prompt_ids) <= engine.config.max_positions


def test_fit_forgets_no_more_than_needed(engine: Engine) -> None:
    """One turn fewer would not fit, and the newest turns are the ones that stay."""
    conversation = Conversation("sys", [Turn(f"question {n}", "an answer of some words") for n in range(30)])
    prompt_ids, first = fit(engine, conversation, "last", reserve=16)
    room = engine.config.max_positions - 16
    assert first > 0
    assert prompt_ids == render_prompt(conversation.messages("last", first=first), engine.tokenizer)
    assert len(prompt_ids) <= room
    assert len(render_prompt(conversation.messages("last", first=first - 1), engine.tokenizer)) > room


def test_a_message_longer_than_the_context_is_refused_and_nothing_is_lost(engine: Engine) -> None:
    """A pasted book must not cost the conversation."""
    with pytest.raises(DataError, match="shorten"):
        fit(engine, Conversation(), "many words " * 300, reserve=16)
    conversation, shown = session(engine, "one", "many words " * 300)
    assert [turn.question for turn in conversation.turns] == ["one"]
    assert "shorten the message" in shown


def test_reasoning_is_kept_apart_from_the_answer() -> None:
    """In the history it stands where training rows have it, not as text with tags."""
    assert split_reasoning("<think>\nhm\n</think>\n\n好") == ("hm", "好")
    assert split_reasoning("plain </think>") == ("", "plain </think>")
    conversation = Conversation(turns=[Turn("q", "a", "hm")])
    assert conversation.messages()[1] == {"role": "assistant", "content": "a", "reasoning_content": "hm"}


def test_an_answer_cannot_drive_the_terminal(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Escape sequences out of a model would recolour or rewrite what the user sees; tabs and brackets stay."""

    def colourful(*_: object, **__: object) -> Generator[str, None, Completion]:
        yield "\x1b[31mred\x07\t[bold]text\n\n"
        return Completion("", 1, "stop")

    monkeypatch.setattr(terminal, "stream_text", colourful)
    assert session(engine, "one")[1] == "[31mred\t[bold]text\n\n\n"


def test_half_a_character_from_the_terminal_is_replaced(engine: Engine) -> None:
    """Python hands undecodable bytes on as lone surrogates, which no tokenizer can encode."""
    conversation, _ = session(engine, "caf\udce9")
    assert conversation.turns[0].question == "caf\ufffd"


def test_piped_lines_are_read_without_a_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`minimind chat < questions.txt` must print answers only, and end with the file."""
    piped = io.TextIOWrapper(io.BytesIO("一\n\n".encode() + b"la\xffst"), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", piped)
    assert [read_terminal("› ") for _ in range(3)] == ["一\n", "\n", "la\ufffdst"]
    with pytest.raises(EOFError):
        read_terminal("› ")
    assert capsys.readouterr().out == ""

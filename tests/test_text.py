"""Tokens to text: whole characters, stop strings across any border, tags told from text that spells them."""

import random

import pytest

from minimind.infer.text import Channels, Span, TextStream, settled
from minimind.tokens.tokenizer import END_OF_TEXT, IM_END, SPECIAL_TOKENS, SpecialIds, Tokenizer

THINK, TOOL_CALL = SPECIAL_TOKENS.index("<think>"), SPECIAL_TOKENS.index("<tool_call>")


class Scripted:
    """A tokenizer whose token n is the n-th of the given byte strings: any border between tokens can be tried."""

    specials = SpecialIds(end_of_text=END_OF_TEXT, im_start=1, im_end=IM_END)

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join(self._pieces[token - len(SPECIAL_TOKENS)] for token in ids)


def streamed(*pieces: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    """What is shown when the model says `pieces`, a token each, and the stop string that ended it."""
    stream = TextStream(Scripted(*pieces), stop)  # type: ignore[arg-type]
    shown = []
    for token in range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + len(pieces)):
        shown += stream.feed(token)
        if stream.stop_text is not None:
            return [span.text for span in shown], stream.stop_text
    shown += stream.finish()
    return [span.text for span in shown], stream.stop_text


def channels_of(tokenizer: Tokenizer, *parts: int | str) -> list[tuple[str, str]]:
    """The channels of an answer of tags (ids) and texts, neighbours of one channel joined."""
    stream, channels = TextStream(tokenizer), Channels()
    tokens = [token for part in parts for token in ([part] if isinstance(part, int) else tokenizer.encode(part))]
    spans = [span for token in tokens for span in stream.feed(token)] + stream.finish()
    joined: list[tuple[str, str]] = []
    for span in spans:
        if found := channels.feed(span):
            channel, text = found
            if joined and joined[-1][0] == channel:
                text = joined.pop()[1] + text
            joined.append((channel, text))
    return joined


def test_a_character_is_held_back_until_it_is_whole() -> None:
    """Chinese falls back to three byte tokens each; a screen must never show their halves."""
    assert streamed(*(bytes([byte]) for byte in "é好🙂!".encode()))[0] == ["é", "好", "🙂", "!"]


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    """A model may say anything; what it said last is flushed at the end, not lost."""
    assert "".join(streamed(b"a\xff", b"b", "好".encode()[:2])[0]) == "a\ufffdb\ufffd"


def test_text_runs_the_same_however_it_is_cut_into_tokens() -> None:
    """Stop strings and characters across any border: the answer is that of the bytes taken one by one."""
    cuts = random.Random(0)
    for stop in [("END",), ("ab", "bc"), ("abcd", "bc"), ("aab",), ("好的", "的E"), ("zz",)]:
        for text in ["xaabcdE", "aaabEND", "E EN END.", "ENEND", "问好的END", "abab", "", "好"]:
            data = text.encode()
            expected, ended = streamed(*(bytes([byte]) for byte in data), stop=stop)
            for _ in range(10):
                borders = sorted(cuts.choices(range(len(data) + 1), k=3))
                pieces = [data[a:b] for a, b in zip([0, *borders], [*borders, len(data)], strict=True)]
                shown, found = streamed(*pieces, stop=stop)
                assert ("".join(shown), found) == ("".join(expected), ended)
            assert not any(word in "".join(expected) for word in stop)


@pytest.mark.parametrize(
    ("text", "stop", "shown", "ended"),
    [
        ("one END two", ("END",), "one ", "END"),
        ("one EN", ("END",), "one EN", None),
        ("xaab", ("aab",), "x", "aab"),
        ("xabcd", ("abcd", "bc"), "xa", "bc"),
        ("END", ("END",), "", "END"),
    ],
)
def test_the_text_ends_before_the_first_stop_string(
    text: str, stop: tuple[str, ...], shown: str, ended: str | None
) -> None:
    """The beginning of a stop string that was never completed belongs to the answer."""
    found, stop_text = streamed(*(bytes([byte]) for byte in text.encode()), stop=stop)
    assert ("".join(found), stop_text) == (shown, ended)


def test_no_part_of_a_stop_string_is_shown_early() -> None:
    """What a screen has shown cannot be taken back."""
    assert streamed(b"one E", b"N", b"D two", stop=("END",)) == (["one "], "END")
    assert settled("one E", ("END",)) == (4, False)


def test_a_tag_is_a_span_of_its_own_and_turn_tokens_are_not_shown(tokenizer: Tokenizer) -> None:
    """Reasoning and tool calls are told from the answer by their tags, which are single tokens."""
    stream = TextStream(tokenizer)
    spans = [span for token in [THINK, *tokenizer.encode("hm"), THINK + 1, IM_END] for span in stream.feed(token)]
    assert [span for span in spans if span.is_tag] == [Span("<think>", True), Span("</think>", True)]
    assert "".join(span.text for span in spans) == "<think>hm</think>"


def test_an_answer_is_sorted_into_what_is_thought_said_and_called(tokenizer: Tokenizer) -> None:
    """What a client shows folded, reads aloud and executes; the line feeds of the format belong to none."""
    call = '{"name": "add", "arguments": {}}'
    found = channels_of(tokenizer, THINK, "\nhm，好\n", THINK + 1, "\n\nSo.\n", TOOL_CALL, f"\n{call}\n", TOOL_CALL + 1)
    assert [(channel, text.strip("\n")) for channel, text in found] == [
        ("reasoning", "hm，好"),
        ("content", "So."),
        ("tool_call", call),
    ]


def test_spelt_tags_are_text(tokenizer: Tokenizer) -> None:
    """A model that explains the format must not be taken to think or to call."""
    assert channels_of(tokenizer, "write <think> and <tool_call>") == [("content", "write <think> and <tool_call>")]


def test_a_stop_string_may_begin_inside_a_tag(tokenizer: Tokenizer) -> None:
    """Clients stop at `</think>`, or at what comes right before it."""
    stream = TextStream(tokenizer, ("m</think>",))
    spans = [span for token in [THINK, *tokenizer.encode("hm"), THINK + 1] for span in stream.feed(token)]
    assert "".join(span.text for span in spans) == "<think>h"
    assert stream.stop_text == "m</think>"

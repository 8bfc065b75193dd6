"""Rules on rows as people write them: what stands inside their contents.

Every row was checked before (`minimind.data.documents`); what failed there comes in by `bad`. A text that only talks
about a marker is no fault, so code in backticks is passed over where the pipeline would not be hurt by it; and a few
lines `Q:` and `A:` are an exercise, not a pasted transcript.
Not here: rules that need all rows (`lint_answers`), rules on ids (`lint_sets`).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from minimind.data.documents import CONTENT, RowKind
from minimind.data.reading.tally import FEW_ROWS
from minimind.tokens.lint_answers import Answers
from minimind.tokens.lint_rules import Findings, Place
from minimind.tokens.vocabulary import SPECIAL_TOKENS, THINK

_RULE_OF_REASON = {
    "no_target": "nothing_trained",
    "identical_pair": "identical_pair",
    "prompt_mismatch": "prompt_not_shared",
}
"""Reasons of the check that are rules of their own here."""
_MARKUP = re.compile("|".join(map(re.escape, SPECIAL_TOKENS[3 : THINK + 2])))
_TURN_TOKENS = re.compile("|".join(map(re.escape, SPECIAL_TOKENS[:3])))
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
_FOREIGN = re.compile(
    r"\[/?INST\]|<</?SYS>>|<\|(?:eot_id|begin_of_text|start_header_id|end_header_id|user|assistant|system|end)\|>"
    r"|<(?:start|end)_of_turn>|<｜(?:User|Assistant)｜>|^\s*<s>|</s>\s*$"
    r"|^\#{2,3} ?(?:Human|User|Assistant|Instruction|Response) ?:",
    re.M,
)
_USER_LINE = re.compile(r"^(?:User|Human|用户) ?[:：]", re.M)
_ASSISTANT_LINE = re.compile(r"^(?:Assistant|AI|Bot|助手) ?[:：]", re.M)
_ASKED_FOR = re.compile(
    r"dialog|conversation|transcript|chat|interview|script|对话|聊天|会话|交谈|采访|剧本|问答", re.IGNORECASE
)
_EDGES = re.compile(r"\A\s*(?:<\|endoftext\|>|<s>|<bos>|<\|begin_of_text\|>)|(?:<\|endoftext\|>|</s>|<eos>)\s*\Z")
_AROUND = 50
_MIN_REPEATED = 12
"""Characters; shorter answers that repeat the question, like greetings, are answers."""


class RowRules:
    """Looks at rows one by one; `conclude` says what can be said of all together."""

    def __init__(self, kind: RowKind, findings: Findings) -> None:
        self.rows = 0
        self._kind, self._findings = kind, findings
        self._answers = Answers(findings)
        self._unusable: Counter[str] = Counter()
        self._first_unusable: dict[str, tuple[Place, str, str]] = {}

    def bad(self, reason: str, detail: str, raw: bytes, place: Place) -> None:
        """A row that the check refused."""
        self.rows += 1
        excerpt = raw[:400].decode("utf-8", "replace")
        if rule := _RULE_OF_REASON.get(reason):
            self._findings.add(rule, place, detail, excerpt)
        else:
            self._unusable[reason] += 1
            self._first_unusable.setdefault(reason, (place, detail, excerpt))

    def look(self, row: Mapping[str, Any], place: Place) -> None:
        """A good row."""
        self.rows += 1
        if self._kind == "pretrain":
            self._text(row["text"], place)
        elif self._kind == "preference":
            self._turns(row["chosen"], place, "chosen")
            self._turns(row["rejected"][-1:], place, "rejected", asked=_question(row["rejected"]))
            if _squeezed(row["chosen"][-1]) == _squeezed(row["rejected"][-1]):
                excerpt = str(row["chosen"][-1]["content"])
                self._findings.add("identical_pair", place, "they differ in white space alone", excerpt)
        else:
            (name,) = CONTENT[self._kind]
            self._turns(row[name], place, name)

    def conclude(self) -> None:
        """Tell what only all rows together show; of the rows that cannot be used, one finding for each reason."""
        self._answers.conclude()
        for reason, count in self._unusable.most_common():
            place, detail, excerpt = self._first_unusable[reason]
            told = f"{reason}, {count:,} of {self.rows:,} rows, first here: {detail}"
            self._findings.add("unusable_row", place, told, excerpt, count=count)
        unusable = self._unusable.total()
        reason, most = self._unusable.most_common(1)[0] if unusable else ("", 0)
        if most > self.rows / 2 or (unusable > self.rows / 2 and (self.rows >= FEW_ROWS or unusable == self.rows)):
            place, detail, excerpt = self._first_unusable[reason]
            self._findings.add("wrong_kind", place, f"{unusable:,} of {self.rows:,} rows; {detail}", excerpt)

    def _text(self, text: str, place: Place) -> None:
        if found := _EDGES.search(text):
            self._findings.add(
                "end_of_text_inside", place, f"{found[0].strip()} at an end of the text", _around(text, found)
            )
        elif found := _TURN_TOKENS.search(text):
            self._findings.add("special_token_in_text", place, found[0], _around(text, found))

    def _turns(self, turns: Sequence[Mapping[str, Any]], place: Place, name: str, asked: str = "") -> None:
        for number, turn in enumerate(turns, 1):
            where = f"{name}, {'last turn' if asked else f'turn {number}'} ({turn['role']})"
            content = turn["content"] or ""
            if turn["role"] == "assistant":
                self._answer(turn, asked, place, where)
            for text in (content, turn.get("reasoning_content") or ""):
                self._markers(text, turn["role"], asked, place, where)
            if turn["role"] == "user":
                asked = content
        if turns[-1]["role"] == "assistant" and not turns[-1].get("tool_calls"):
            self._answers.add(turns[-1]["content"] or "", place)

    def _answer(self, turn: Mapping[str, Any], asked: str, place: Place, where: str) -> None:
        content = (turn["content"] or "").strip()
        if not content and not turn.get("tool_calls"):
            self._findings.add("empty_answer", place, where, f"… after: {asked[-80:]}")
        if len(content) >= _MIN_REPEATED and content == asked.strip():
            self._findings.add("answer_is_question", place, where, content)

    def _markers(self, text: str, role: str, asked: str, place: Place, where: str) -> None:
        if "<" not in text and ":" not in text and "：" not in text and "[" not in text:
            return
        if found := _TURN_TOKENS.search(text):
            self._findings.add("special_token_in_content", place, f"{where}: {found[0]}", _around(text, found))
            return
        prose = _CODE.sub("", text)
        if found := _MARKUP.search(prose):
            self._findings.add("markup_in_content", place, f"{where}: {found[0]}", _around(prose, found))
        found = _FOREIGN.search(prose)
        if found and not (found[0].strip() in ("<s>", "</s>") and _is_struck_out(prose)):
            rule = "role_marker_in_answer" if role == "assistant" else "role_marker_in_prompt"
            self._findings.add(rule, place, f"{where}: {found[0].strip()}", _around(prose, found))
        elif (found := _transcript(prose)) and not (role == "assistant" and _ASKED_FOR.search(asked)):
            self._findings.add("pasted_transcript", place, f"{where}: {found[0]}", _around(prose, found))


def _transcript(text: str) -> re.Match[str] | None:
    """The line where a second speaker begins, where a user, an assistant and a user again speak in turn."""
    first = _USER_LINE.search(text)
    answer = first and _ASSISTANT_LINE.search(text, first.end())
    if answer and _USER_LINE.search(text, answer.end()):
        return answer
    lone = _ASSISTANT_LINE.search(text)
    again = lone and _USER_LINE.search(text, lone.end())
    return again if again and _ASSISTANT_LINE.search(text, again.end()) else None


def _is_struck_out(text: str) -> bool:
    """Whether `<s>` and `</s>` come in pairs: HTML for a text that is struck out."""
    return text.count("<s>") == text.count("</s>")


def _question(turns: Sequence[Mapping[str, Any]]) -> str:
    return next((turn["content"] or "" for turn in reversed(turns) if turn["role"] == "user"), "")


def _squeezed(turn: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("content", "reasoning_content", "tool_calls")
    return tuple(" ".join((turn.get(name) or "").split()) for name in names)


def _around(text: str, found: re.Match[str]) -> str:
    return text[max(0, found.start() - _AROUND) : found.end() + _AROUND]

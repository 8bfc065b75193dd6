"""What `minimind lint` looks for: the rules by name, what they found, and the report of it.

An error ruins a training, or makes its figures untrue, without a word. A warning is what a person should look at:
it may be meant so. Findings are all counted, but only the first few of a rule are kept to be shown.
Not here: how a rule finds something (`lint_rows`, `lint_answers`, `lint_sets`, `lint_template`).
"""

from collections import Counter
from typing import Literal

from minimind.config import Config

Level = Literal["error", "warning"]
SHOWN = 5
"""Findings of a rule that are kept."""
EXCERPT_CHARACTERS = 160


class Rule(Config):
    """A thing that may be wrong, why it matters, and what to do."""

    name: str
    level: Level
    about: str
    remedy: str


_RULES: tuple[tuple[str, Level, str, str], ...] = (
    (
        "wrong_kind",
        "error",
        "more than half of the rows cannot be used: they are of another kind or shape",
        "say what they are with --kind and --shape, or mend the file",
    ),
    (
        "nothing_trained",
        "error",
        "no position of it is learnt, it only costs time",
        "give the assistant something to say, or remove the row",
    ),
    (
        "empty_answer",
        "error",
        "an assistant's turn is blank: the model learns to end at once",
        "write the answer, or remove the turn and its question",
    ),
    (
        "special_token_in_content",
        "error",
        "a content spells out a special token: stock tokenizers read it as the token itself, and the turn ends there",
        "remove the token's name from the content",
    ),
    (
        "role_marker_in_answer",
        "error",
        "an answer contains the markers of another chat template: the model learns to write them",
        "split the answer into turns with roles, or remove the marker",
    ),
    (
        "end_of_text_inside",
        "error",
        "the end of a text, or a second beginning, stands inside a document: what follows is another document",
        "cut the text there and remove the token; the pipeline puts one before each document itself",
    ),
    (
        "end_never_trained",
        "error",
        "answers are learnt but their `<|im_end|>` is not: the model never learns to stop",
        "make the tokens again; the mask must reach over the token that ends the turn",
    ),
    (
        "mask_outside_answers",
        "error",
        "positions outside the assistant's turns are learnt: the model learns to speak for the user",
        "make the tokens again with the tokenizer and template of this set",
    ),
    (
        "template_differs",
        "error",
        "the chat template that is handed out with the tokenizer gives other ids than the training sees",
        "make tokenizer and tokens again with the same version, or mend `chat_template` in tokenizer_config.json",
    ),
    (
        "id_out_of_range",
        "error",
        "an id is not below the size of the vocabulary: the training would fail, or read another row's weights",
        "make the tokens again; `minimind fsck` says whether the files changed since",
    ),
    (
        "identical_pair",
        "error",
        "chosen and rejected say the same: there is nothing to prefer",
        "remove the pair",
    ),
    (
        "prompt_not_shared",
        "error",
        "chosen and rejected answer different prompts: the difference that is learnt is not that of the answers",
        "give both sides the same turns before the last",
    ),
    (
        "train_row_in_val",
        "error",
        "a document for validation is one for training, too: the validation loss is too good",
        "remove one of them; in a pipeline, switch `duplicates` on in [clean]",
    ),
    (
        "unusable_row",
        "warning",
        "a row does not parse or is no row of this kind; the pipeline leaves it out and says so",
        "`minimind data validate` lists all of them with reasons; mend or remove them",
    ),
    (
        "prompt_in_val",
        "warning",
        "a prompt for validation has another answer in training",
        "give both rows the same `group`, so that they stay on one side",
    ),
    (
        "special_token_in_text",
        "warning",
        "a text spells out a special token; here it stays text, stock tokenizers read the token",
        "see whether it belongs there",
    ),
    (
        "role_marker_in_prompt",
        "warning",
        "a prompt contains the markers of another chat template",
        "see whether the conversation was pasted as text; if so, split it into turns",
    ),
    (
        "markup_in_content",
        "warning",
        "a content holds `<think>` or `<tool_call>` as text; the template has tokens for them",
        "put it into `reasoning_content` or `tool_calls` of the turn instead",
    ),
    (
        "pasted_transcript",
        "warning",
        "a content reads like several turns pasted into one",
        "split it into turns with roles",
    ),
    (
        "truncated_answer",
        "warning",
        "an answer breaks off: the model learns to stop in mid-sentence",
        "complete or remove it; look for a limit where the data was made",
    ),
    (
        "length_limit",
        "warning",
        "many answers break off at exactly the same length: they were cut there",
        "remove the answers of that length, or make them again with a higher limit",
    ),
    (
        "same_answer",
        "warning",
        "one answer is that of a large share of the rows",
        "keep a few of them",
    ),
    (
        "answer_is_question",
        "warning",
        "an answer repeats the question before it",
        "see whether a field was mixed up",
    ),
)
RULES: dict[str, Rule] = {
    name: Rule(name=name, level=level, about=about, remedy=remedy) for name, level, about, remedy in _RULES
}


class Place(Config):
    """Where something was found."""

    file: str
    """A file as it was given, or the source of a row; of a token set the split where the row is not known."""
    line: int | None = None
    split: str = ""
    document: int | None = None
    """Number in the token set."""

    def __str__(self) -> str:
        of_set = f"{self.split}, document {self.document}" if self.document is not None else self.split
        line = f"{self.file}:{self.line}" if self.line is not None else self.file
        return ", ".join(part for part in (line, of_set) if part)


class Finding(Config):
    """One thing that one rule found."""

    rule: str
    place: Place
    detail: str
    excerpt: str = ""


class LintReport(Config):
    """What was looked at and what was found."""

    target: str
    kind: str
    rows: int
    """Or documents of a token set, as `unit` says."""
    unit: Literal["rows", "documents"]
    counts: dict[str, int]
    """Rule → findings, in the order of the rules."""
    findings: list[Finding]
    """The first few of each rule."""
    skipped: list[str]
    """Rules that could not be tried, and why."""

    @property
    def errors(self) -> int:
        return sum(count for name, count in self.counts.items() if RULES[name].level == "error")


class Findings:
    """Collects findings: counts all, keeps the first few of each rule."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._kept: dict[str, list[Finding]] = {}
        self.skipped: list[str] = []

    def add(self, rule: str, place: Place, detail: str, excerpt: str = "", *, count: int = 1) -> None:
        """Note a finding; one that stands for `count` of them counts so often."""
        self._counts[rule] += count
        kept = self._kept.setdefault(rule, [])
        if len(kept) < SHOWN:
            shown = excerpt if len(excerpt) <= EXCERPT_CHARACTERS else excerpt[:EXCERPT_CHARACTERS] + " …"
            kept.append(Finding(rule=RULES[rule].name, place=place, detail=detail, excerpt=shown))

    def room(self, rule: str) -> bool:
        """Whether the next finding of a rule would be kept."""
        return len(self._kept.get(rule, ())) < SHOWN

    def report(self, *, target: str, kind: str, rows: int, unit: Literal["rows", "documents"] = "rows") -> LintReport:
        """What was found, errors first."""
        names = [name for name in RULES if self._counts[name]]
        names.sort(key=lambda name: RULES[name].level)
        return LintReport(
            target=target,
            kind=kind,
            rows=rows,
            unit=unit,
            counts={name: self._counts[name] for name in names},
            findings=[finding for name in names for finding in self._kept[name]],
            skipped=self.skipped,
        )

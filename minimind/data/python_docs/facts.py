"""Conversations and preference pairs that say only what the documentation says.

Each documented object with a clean summary gives a few short conversations: what it does (English, and
for half of them Chinese), how it is called, which function does this, what sort of thing it is. Modules
add what they are for and what is in them; verified examples add what a line of code gives. The wording
is chosen among a few templates by a stable hash, so that two runs give the same rows and a small model
meets a few patterns often. A pair is a true answer against the same sentence with another object's
summary, signature or value: what is rejected is well-formed and wrong.
Not here: reading the documentation (`docstrings`), the sentences (`sentences`), the examples (`examples`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import xxhash

from minimind.data.python_docs.docstrings import Entry
from minimind.data.python_docs.examples import Fact
from minimind.data.python_docs.sentences import predicate, sentence, summary

T = TypeVar("T")

Turn = tuple[str, str]
"""A question and its answer."""
Pair = tuple[str, str, str]
"""A question, the true answer, a wrong one."""

INTERNAL_MODULES = frozenset({"encodings", "idlelib", "lib2to3", "msilib", "pydoc_data"})
"""Documented, but nobody asks about them: they are read for pretraining only."""
MAX_SIGNATURE = 70
MAX_DESCRIPTION = 100
"""Characters of a description inside a question."""
BUILTIN = "the module builtins"
LISTED = 4
"""Members named when asked what is in a module."""

_WHAT_CALLABLE = (
    "What does {0} do?",
    "What is {0} for?",
    "Explain {0}.",
    "Describe {0} in one sentence.",
    "Can you tell me what {0} does?",
    "I found {0} in some code. What does it do?",
)
_WHAT_THING = ("What is {0}?", "Explain {0}.", "Describe {0} in one sentence.", "Can you tell me what {0} is?")
_WHAT_ZH = ("{0} 是做什么的？", "{0} 有什么用？", "请解释一下 {0}。", "请用一句话介绍 {0}。")
_CALL = ("How do I call {0}?", "What is the signature of {0}?", "Which arguments does {0} take?")
_CALL_ZH = ("{0} 怎么调用？", "{0} 的签名是什么？", "{0} 需要哪些参数？")
_THEN_CALL = ("How do I call it?", "What is its signature?", "And which arguments does it take?")
_THEN_CALL_ZH = ("怎么调用它？", "它的签名是什么？", "它需要哪些参数？")
_LIST = ("Which {1} are in {0}?", "Name some {1} of {0}.", "What {1} does {0} have?")
_GIVES = ("What does `{0}` give?", "What is the result of `{0}`?", "What does Python show for `{0}`?")
_GIVES_ZH = ("`{0}` 的结果是什么？", "`{0}` 会得到什么？")


@dataclass(frozen=True)
class Known:
    """An entry that can be spoken about."""

    entry: Entry
    summary: str

    @property
    def name(self) -> str:
        return self.entry.full_name

    @property
    def subject(self) -> str:
        return f"the module {self.name}" if self.entry.kind == "module" else self.name

    @cached_property
    def predicate(self) -> str | None:
        return predicate(self.summary)

    @property
    def is_callable(self) -> bool:
        return self.entry.kind in ("function", "method")

    @property
    def has_signature(self) -> bool:
        signature = self.entry.signature
        return self.is_callable and 0 < len(signature) <= MAX_SIGNATURE and not re.search(r"<|\W_\w", signature)

    @property
    def scope(self) -> str:
        """What the object is in, as a noun phrase with its article."""
        owner = self.entry.name.rpartition(".")[0]
        prefix = "" if self.entry.module == "builtins" else f"{self.entry.module}."
        return f"the class {prefix}{owner}" if owner else f"the module {self.entry.module}"


def known_entries(entries: Iterable[Entry]) -> list[Known]:
    """The public entries that have a clean summary and belong to something a person may ask about."""
    known, said = [], set()
    for entry in entries:
        if not entry.is_public or entry.module.partition(".")[0] in INTERNAL_MODULES:
            continue
        text = summary(entry)
        if text and (entry.full_name, text) not in said:
            said.add((entry.full_name, text))
            known.append(Known(entry, text))
    return known


def conversations(known: Sequence[Known]) -> Iterator[list[Turn]]:
    """The conversations about the entries of one group, in their order."""
    described = Counter((item.scope, item.predicate) for item in known)
    for item in known:
        yield from _about(item)
        if item.is_callable and item.predicate and described[item.scope, item.predicate] == 1:
            yield from _which(item, item.predicate)
    for module in dict.fromkeys(item.entry.module for item in known):
        yield from _contents(module, [item for item in known if item.entry.module == module])


def fact_conversation(fact: Fact) -> list[Turn]:
    """What a line of code gives."""
    return [(_fact_question(fact), _given(fact, fact.shown))]


def pairs(known: Sequence[Known]) -> Iterator[Pair]:
    """The preference pairs about the entries of one group, in their order."""
    for number, item in enumerate(known):
        other = _other(known, number)
        if other is None:
            continue
        chinese = _chance(item.name, 3) == 0
        yield _what(item, chinese), _said(item, item, chinese), _said(item, other, chinese)
        signatures = [o.entry.signature for o in known[max(0, number - 8) : number + 8] if o.has_signature]
        different = [signature for signature in signatures if signature != item.entry.signature]
        if item.has_signature and different and _chance(item.name, 4) == 1:
            wrong = _pick(different, item.name)
            yield _pick(_CALL, item.name).format(item.name), _called(item), f"The signature is {item.name}{wrong}."


def fact_pair(fact: Fact, wrong: str) -> Pair:
    """What a line of code gives, against something it does not give."""
    question, answer = fact_conversation(fact)[0]
    return question, answer, _given(fact, wrong)


def _about(item: Known) -> Iterator[list[Turn]]:
    what = (_what(item, False), _said(item, item, False))
    what_zh = (_what(item, True), _said(item, item, True))
    way = _chance(item.name, 4)
    if not item.has_signature:
        yield [what]
        if way < 2:
            yield [what_zh]
    elif way == 0:
        yield [what, (_pick(_THEN_CALL, item.name), _called(item))]
        yield [what_zh]
    elif way == 1:
        yield [what]
        yield [what_zh, (_pick(_THEN_CALL_ZH, item.name), _called_zh(item))]
    elif way == 2:
        yield [what]
        yield [(_pick(_CALL, item.name).format(item.name), _called(item))]
    else:
        yield [what]
        yield [(_pick(_CALL_ZH, item.name).format(item.name), _called_zh(item))]
    if _chance(item.name, 5) == 0 and item.entry.kind in ("function", "class"):
        yield [_sort_of(item)]


def _what(item: Known, chinese: bool) -> str:
    if chinese:
        name = f"模块 {item.name}" if item.entry.kind == "module" else item.name
        return _pick(_WHAT_ZH, item.name).format(name)
    return _pick(_WHAT_CALLABLE if item.is_callable else _WHAT_THING, item.name).format(item.subject)


def _said(item: Known, of: Known, chinese: bool) -> str:
    """The answer to `_what(item)`, with the summary of `of`: the item itself, or another for a wrong answer."""
    if chinese:
        return f"{item.name} 的{'作用' if item.is_callable else '说明'}是：{of.summary}"
    text = sentence(item.subject, of.summary)
    return text[0].upper() + text[1:] if item.entry.kind == "module" else text


def _called(item: Known) -> str:
    return f"The signature is {item.name}{item.entry.signature}."


def _called_zh(item: Known) -> str:
    return f"签名是 {item.name}{item.entry.signature}。"


def _sort_of(item: Known) -> Turn:
    builtin = item.entry.module == "builtins"
    if _chance(item.name, 2):
        kind = "函数" if item.entry.kind == "function" else "类"
        where = f"内置{kind}" if builtin else f"模块 {item.entry.module} 中的{kind}"
        return f"{item.name} 是函数还是类？", f"{item.name} 是{where}。"
    where = f"built-in {item.entry.kind}" if builtin else f"{item.entry.kind} of the module {item.entry.module}"
    return f"Is {item.name} a function or a class?", f"{item.name} is a {where}."


def _which(item: Known, said: str) -> Iterator[list[Turn]]:
    """From the description to the name."""
    description = said.removesuffix(".")
    if len(description) > MAX_DESCRIPTION or description.startswith("is ") or item.entry.name in description:
        return
    if _chance(item.name, 2):
        which = f"built-in {item.entry.kind}" if item.scope == BUILTIN else f"{item.entry.kind} of {item.scope}"
        yield [(f"Which {which} {description}?", f"{item.name} {said}")]
    elif _chance(item.name, 4) == 0:
        scope = (
            "Python "
            if item.scope == BUILTIN
            else item.scope.replace("the module", "模块").replace("the class", "类") + " "
        )
        kind = "方法" if item.entry.kind == "method" else "函数"
        yield [(f"{scope}的哪个{kind}的作用是“{item.summary}”？", f"是 {item.name}。")]


def _contents(module: str, known: Sequence[Known]) -> Iterator[list[Turn]]:
    """What is in a module, and of a module that is described, in two turns, what one of its functions does."""
    place = "Python" if module == "builtins" else f"the module {module}"
    for kind, plural, chinese in (("function", "functions", "函数"), ("class", "classes", "类")):
        members = [item for item in known if item.entry.kind == kind]
        names = [item.entry.name for item in members][:LISTED]
        if len(names) < 2:
            continue
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        yield [(_pick(_LIST, module).format(place, plural), f"Some {plural} of {place} are {listed}.")]
        zh_place = "Python" if module == "builtins" else f"模块 {module} "
        yield [(f"{zh_place}里有哪些{chinese}？", f"{zh_place}里有 {'、'.join(names)} 等{chinese}。")]
        about = [item for item in known if item.entry.kind == "module"]
        if about and kind == "function":
            first = (_what(about[0], False), _said(about[0], about[0], False))
            member = _pick(members, module)
            yield [first, ("Name one of its functions.", f"One of them is {member.name}.")] + [
                ("What does it do?", _said(member, member, False))
            ]


def _other(known: Sequence[Known], number: int) -> Known | None:
    """Another entry of the same module and kind, or else of the group, whose summary says something different."""
    item = known[number]
    neighbours = known[max(0, number - 12) : number + 12]
    # The frame of the sentence must be the same too, or it would be the frame that is preferred.
    near = [
        other
        for other in neighbours
        if bool(other.predicate) == bool(item.predicate) and _differ(other.summary, item.summary)
    ]
    for fits in (
        [o for o in near if o.entry.module == item.entry.module and o.entry.kind == item.entry.kind],
        [o for o in near if o.entry.module == item.entry.module],
        near,
    ):
        if fits:
            return _pick(fits, item.name)
    return None


def _differ(a: str, b: str) -> bool:
    """Whether less than half of the words are shared; a paraphrase would be no wrong answer."""
    one, two = set(a.lower().split()), set(b.lower().split())
    return len(one & two) * 2 < len(one | two)


def _fact_question(fact: Fact) -> str:
    chinese, builtin = _fact_in_chinese(fact), fact.module == "builtins"
    if fact.context:
        where = "" if builtin else f"With the names of the module {fact.module}:\n"
        return f"{where}```python\n{chr(10).join((*fact.context, fact.code))}\n```\nWhat does the last line give?"
    question = _pick(_GIVES_ZH if chinese else _GIVES, fact.code).format(fact.code)
    if builtin:
        return question
    module = fact.module
    return (
        f"在模块 {module} 中，{question}" if chinese else f"In the module {module}, {question[0].lower()}{question[1:]}"
    )


def _given(fact: Fact, shown: str) -> str:
    if _fact_in_chinese(fact):
        return f"{fact.code} 的结果是 {shown}"
    return f"The last line gives {shown}" if fact.context else f"{fact.code} gives {shown}"


def _fact_in_chinese(fact: Fact) -> bool:
    return not fact.context and _chance(fact.code, 4) == 1


def _pick(options: Sequence[T], key: str) -> T:
    return options[xxhash.xxh3_64_intdigest(key.encode()) % len(options)]


def _chance(key: str, ways: int) -> int:
    """A stable number below `ways`, independent of what `_pick` chooses for the key."""
    return xxhash.xxh3_64_intdigest(key.encode(), seed=ways) % ways

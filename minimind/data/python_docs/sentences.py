"""From a docstring to one clean sentence with a subject: "json.dumps serializes obj to a JSON formatted str."

`summary` gives the first sentence of a docstring, without markup, or None where it is not fit to be
said. `predicate` puts it into the third person ("returns the …", "is a …"), or None where that is not
safe; `sentence` then quotes the documentation instead. The rules are few and refuse rather than guess:
a summary lost is one fact less, a crooked one is taught to the model.
Not covered: other languages than English, and anything after the first sentence.
"""

import re
from functools import cache

from minimind.data.python_docs.docstrings import Entry

MIN_CHARACTERS, MAX_CHARACTERS = 10, 160
"""A sentence below says nothing; one above is more than a short answer (about 40 tokens)."""

_ROLE = re.compile(r":[a-z:+-]+:`[~!.]?(?:[^`<]*?<)?([^`<>]+)>?`")
_TICKS = re.compile(r"``([^`]*)``|`([^`']*)`")
_TEX_QUOTES = re.compile(r"``([^`']*)''|`([^`']*)'")
_STARS = re.compile(r"(?<![\w*])(\*{1,2})(\w[\w -]*?)\1(?![\w*])")
_UNFIT = re.compile(r"::|://|>>>|->|==|\bXXX\b|\bTODO\b|\bFIXME\b|DEPRECATED|[|{}<>\\^`\x00-\x1f]|\.\.\.|--| {2}|\*")
_EMPTY = re.compile(r"[\w.]+\(|Alias for field number|Internal\b|Initialize self\.|See help\(|Deprecated")
"""Beginnings that say nothing: a call of the object itself, and what is written by a generator."""
_END = re.compile(r"(?<=[a-z0-9)'\"\]])[.!](?=\s+[A-Z'\"(\[]|$)")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|a\.k\.a|No|Inc|St)$")
_CLAUSE = re.compile(
    r"\b(?:is|are|was|were|has|have|does|do|can|will|should|must|may|returns?|returned|gets|sets|controls|defines|provides|turns|raises|specifies|contains|indicates)\b"
)
_RELATIVE = re.compile(r"\b(?:that|which|who|whose|where|when|for|if|whether|in|of|used|how|what|while)\b")
_NAMED = re.compile(r"^(?:[Mm]odule )?([\w.]+?)(?:\.py)?(?:\(\))? ?(?:[-:\u2013]|--)+ ")

_VERB_LIST = """
abort accept acquire act activate adapt add adjust advance align allocate allow analyze answer append apply arrange
ask assert assign assume attach attempt authenticate begin bind block break broadcast build byte-compile calculate
call cancel capture cast cause change check choose clean clear close coerce collapse collect combine communicate
compare compile complete compress compute concatenate configure confirm connect construct consume contain continue
control convert copy count create customize deactivate decide declare decode decompress decorate decrement define
delay delegate delete deliver deprecate derive describe deselect deserialize destroy detach detect determine disable
disassemble discard disconnect display divide do download draw drop dump duplicate edit emit emulate enable
encapsulate encode encrypt end enforce ensure enter enumerate escape establish estimate evaluate examine exchange
execute exit expand export extend extract fail feed fetch fill filter finalize find finish fit fix flash flatten flush
fold force fork format forward free gather generate get give grab group guess handle hash hide highlight hold identify
ignore implement import increment indent indicate inform inherit initialise initialize initiate inject inquire insert
inspect install instruct interpolate interpret intersect invert invoke issue iterate join keep kill launch leave let
lift limit link list listen load locate lock log look lower maintain make manage mangle map mark match measure merge
mimic minimize modify monitor move multiply negate normalise normalize notify obtain open optimize order output
overwrite pack paint parse partition pass patch pause peek perform permit pickle place play poll pop populate position
post predict prepare prepend preserve pretend pretty-print prevent print process produce prompt protect provide
publish pull push put query queue quit quote raise randomize reach read rebuild receive recode recognize reconfigure
reconstruct record redefine redirect redisplay redo reduce refactor refresh refuse register reject release reload
remap remember remove rename render reorder repair repeat replace report reposition represent request require resample
reset resize resolve respond restart restore restrict resume retrieve return reverse rewind rewrite roll rotate round
route run sample sanitise sanitize save scale scan scatter schedule score scroll search see seed seek select send
separate serialise serialize serve set shift show shuffle shut shutdown signal simulate skip sleep solve sort spawn
specify split squash squeeze stack stage start step stop store stream stringify strip sub submit subscribe subtract
suggest sum supply support suppress suspend swap switch synchronize take tear tell terminate test toggle tokenize
trace track transform translate transmit traverse trigger trim truncate try turn unbind undefine undo unify uninstall
unlink unload unlock unmap unpack unpickle unquote unregister unserialize unset untokenize unwrap update upgrade
upload use uuencode validate vectorize verify visit wait wake walk warn watch wrap write yield zip
"""
VERBS = frozenset(_VERB_LIST.split())
"""Verbs that summaries begin with, in their base form. Of words that are nouns too, those that mostly act."""
_LATER = re.compile(
    r"(?P<before>,(?: and| or| then)?|,? (?:and|or|then|and then)|;) (?:(?P<sure>return|raise|yield)\b"
    r"|(?P<verb>[a-z-]+)(?= (?:the|a|an|it|its|them|their|this|that|these|all|any|each|every|no|one|some)\b))"
)
"""A second verb of the sentence; what stands before an article is a verb if it is in the list at all."""
_UNSURE = re.compile(
    r"[,;](?: and| or| then)? (?P<verb>[a-z-]+) (?:to|it|from|into|on|with|up|if|for|in|as|out)\b"
    r"|(?:;|\bmaybe|\balso) (?P<other>[a-z-]+)\b"
)
"""Perhaps another verb: the sentence is quoted then."""
_NOUN_OR_VERB_LIST = """
block call copy count exit filter group hash import index link list lock log map match order pass patch position
process queue record report request sample score sequence signal stack stage step stream sum support test trace
transform
"""
_NOUN_OR_VERB = frozenset(_NOUN_OR_VERB_LIST.split())
"""Taken for verbs only before a word that follows verbs."""
_AFTER_VERB = re.compile(
    r"(?:an?|the|this|that|these|all|any|each|every|its?|their|them|one|two|if|whether|when|until|out|up|in|on)\b"
    r"|[\"'(]|[\w.]+\("
)
_NOUN_LIST = """
abstract alias alternate asynchronous base basic browser builtin callable class client collection command common
concrete context convenience coroutine custom decorator default descriptor dialog dictionary dummy error event
exception extended factory fixer formatter function generator generic handler helper high-level hook interface
internal iterator launcher list low-level main manager message metaclass method mix-in mixin module name named
namespace numeric object optimized option package parser plugin protocol proxy reader real replacement representation
restricted scanner selector sequence server set simple simplified special specialized standard string subclass subtype
synchronous thread tool tuple type utility variant version virtual widget wrapper writer
"""
_NOUN_HEADS = frozenset(_NOUN_LIST.split())
"""Words that begin a noun phrase without its article."""
_PARTICIPLES = frozenset(
    {"called", "equivalent", "executed", "invoked", "like", "overridden", "raised", "similar", "used"}
)
_MEASURES = frozenset(
    {
        "date",
        "day",
        "index",
        "length",
        "month",
        "name",
        "number",
        "path",
        "position",
        "result",
        "size",
        "total",
        "type",
        "value",
        "year",
    }
)


def summary(entry: Entry) -> str | None:
    """The first sentence of the entry's docstring, ending with a period, or None if it is not fit to be said."""
    paragraph = re.split(r"\n[ \t]*\n", entry.doc.strip(), maxsplit=1)[0]
    lines = [line.rstrip() for line in paragraph.splitlines()]
    if len(lines) > 1 and any(re.match(r"\s*([-*+o] |\w+ *(:|--| - ))", line) for line in lines[1:]):
        lines = lines[:1] if lines[0].endswith(".") else []
    text = _without_markup(" ".join(line.strip() for line in lines))
    text = _first_sentence(_without_own_name(text, entry))
    if not text or _UNFIT.search(text) or _EMPTY.match(text) or not text.isascii() or not text[0].isalpha():
        return None
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS or " " not in text:
        return None
    balanced = all(text.count(a) == text.count(b) for a, b in ("()", "[]")) and text.count('"') % 2 == 0
    return text[0].upper() + text[1:] if balanced else None


def predicate(text: str) -> str | None:
    """A summary in the third person, to be said after its subject; None where no rule is sure of it."""
    first, _, rest = text.partition(" ")
    word = first.lower()
    if word == "implement" and rest.startswith("this "):  # an order to who writes a subclass
        return None
    if word in _NOUN_OR_VERB and not _AFTER_VERB.match(rest):
        return None
    if word in VERBS:
        return _third_person(word, rest)
    if word in _thirds():
        return None if rest.startswith("of ") else f"{word} {rest}"
    if word.endswith("ly") and rest.partition(" ")[0] in VERBS:
        verb, _, rest = rest.partition(" ")
        said = _third_person(verb, rest)
        return said and f"{word} {said}"
    if found := re.match(
        r"This (?:class|function|method|module|package|exception|error|object|type|attribute|property|is)\b ?", text
    ):
        following = "is " + text[found.end() :] if found[0].startswith("This is") else text[found.end() :]
        return following if following.partition(" ")[0] in {*_thirds(), "is", "has", "can", "will"} else None
    if word in ("a", "an", "the", "one"):
        return f"is {word} {rest}" if _is_noun_phrase(rest) else None
    if word in _MEASURES and rest.startswith("of ") and _is_noun_phrase(rest):
        return f"is the {word} {rest}"
    if word in _PARTICIPLES:
        return f"is {word} {rest}"
    if word in ("true", "same") and rest.startswith(("if ", "as ", "when ")):
        return f"is {'the same' if word == 'same' else word} {rest}"
    if word in _NOUN_HEADS and _is_noun_phrase(rest) and _is_countable(text):
        return f"is {'an' if word[0] in 'aeiou' else 'a'} {word} {rest}"
    return None


def sentence(name: str, text: str) -> str:
    """`text`, a summary, said of `name`."""
    said = predicate(text)
    return f"{name} {said}" if said else f"The documentation of {name} says: {text}"


def _without_markup(text: str) -> str:
    text = _ROLE.sub(lambda match: match[1].strip(), text)
    text = _TICKS.sub(lambda match: match[1] or match[2] or "", text)
    text = _TEX_QUOTES.sub(lambda match: f"'{match[1] or match[2]}'", text)
    text = _STARS.sub(r"\2", text)
    return re.sub(r"\s+", " ", text).strip()


def _without_own_name(text: str, entry: Entry) -> str:
    """Without a heading that repeats the name, as in `csv.py - read CSV files`."""
    found = _NAMED.match(text)
    names = {entry.full_name, entry.module, entry.name, *entry.full_name.split(".")[-1:]}
    return text[found.end() :] if found and found[1] in names else text


def _first_sentence(text: str) -> str | None:
    for found in _END.finditer(text):
        if not _ABBREVIATION.search(text[: found.start()]):
            return text[: found.start()] + "."
    if text.endswith((":", ",", ";", "?", "(", "-")):
        return None
    return text.removesuffix(".") + "." if text else None


def _third_person(verb: str, rest: str) -> str | None:
    """`rest` said with the verb, and with those that follow, in the third person; None if one of them is unsure."""
    if any((found["verb"] or found["other"]) in VERBS - {"return", "raise"} for found in _UNSURE.finditer(rest)):
        return None
    parts, last = [_conjugated(verb) + " "], 0
    found = re.match(r"(?:and|or) ([a-z-]+)\b", rest)  # "create and return a list"
    if found and found[1] in VERBS:
        parts, last = [f"{_conjugated(verb)} {found[0].split()[0]} {_conjugated(found[1])}"], found.end()
    for found in _LATER.finditer(rest, last):
        if _governed(rest[: found.start()]):
            break
        verb = found["sure"] or found["verb"]
        if verb in VERBS:
            parts += [rest[last : found.start()], f"{found['before']} {_conjugated(verb)}"]
            last = found.end()
    return "".join([*parts, rest[last:]])


def _governed(before: str) -> bool:
    """Whether a verb after `before` may hang on an infinitive or a modal verb there, or have another subject."""
    infinitive = any(word in VERBS for word in re.findall(r"\b(?:to|not) ([a-z-]+)", before))
    return infinitive or bool(re.search(r"\b(?:will|can|should|must|may|would|could|it|they|you|we)\b", before))


def _conjugated(verb: str) -> str:
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return {"quiz": "quizzes"}.get(verb, verb + "es")
    return verb[:-1] + "ies" if verb.endswith("y") and verb[-2] not in "aeiou" else verb + "s"


@cache
def _thirds() -> frozenset[str]:
    return frozenset(map(_conjugated, VERBS))


def _is_noun_phrase(rest: str) -> bool:
    """Whether no finite verb comes before a relative clause could have begun."""
    verb, relative = _CLAUSE.search(rest), _RELATIVE.search(rest)
    return verb is None or (relative is not None and relative.start() < verb.start())


def _is_countable(text: str) -> bool:
    """Whether the phrase's head, the word before its first preposition, is a singular."""
    head = re.split(r" (?:for|of|that|to|which|with|in|on|from|used|by|using|as|around|when|so|if|and) |[.,(]", text)[0]
    last = head.rsplit(" ", 1)[-1].lower()
    return last.isalpha() and (not last.endswith("s") or last.endswith(("ss", "class", "alias")))

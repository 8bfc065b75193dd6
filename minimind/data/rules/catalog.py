"""The rules in the order they are applied.

A new rule is a module beside this one with one function `(texts, settings) -> outcomes`, a switch in
`settings` and a line here. Repairs come first, so that the filters judge what would be kept; rules that need
to see other rows, exact and near duplicates, are `minimind.data.deduplication.duplicates`.
"""

from minimind.data.rules.boilerplate import strip_boilerplate
from minimind.data.rules.contamination import find_leaks
from minimind.data.rules.control import strip_control
from minimind.data.rules.gibberish import find_gibberish
from minimind.data.rules.html import unwrap_html
from minimind.data.rules.language import filter_languages
from minimind.data.rules.length import limit_length
from minimind.data.rules.mojibake import repair_unicode
from minimind.data.rules.personal import mask_personal
from minimind.data.rules.repetition import find_repetition
from minimind.data.rules.texts import Rule

RULES: dict[str, Rule] = {
    "unicode": repair_unicode,
    "control": strip_control,
    "html": unwrap_html,
    "boilerplate": strip_boilerplate,
    "length": limit_length,
    "gibberish": find_gibberish,
    "repetition": find_repetition,
    "language": filter_languages,
    "contamination": find_leaks,
    "personal": mask_personal,
}
ANY_ROW = ("unicode", "control", "contamination", "personal")
"""What is applied to conversations and pairs in any case; the others judge prose."""
JUDGES = ("length", "gibberish", "repetition", "language")
"""With `filter_chat` applied to conversations and pairs too, on their contents joined: they change nothing."""

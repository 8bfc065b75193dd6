"""The rules as the data report speaks of them: what each does, and in which order they come."""

from minimind.data.rules.catalog import RULES

ABOUT = {
    "check": "the row cannot be used: broken JSON, a field missing, turns out of order, nothing left after a repair",
    "unicode": "text that was read in a wrong encoding is repaired, what cannot be repaired is dropped",
    "control": "invisible and control characters are taken out",
    "html": "web pages are unwrapped to their text, or dropped where there is none",
    "boilerplate": "menus, cookie notices and their kin are taken off",
    "length": "too short or too long",
    "gibberish": "no language: random letters, encoded bytes",
    "repetition": "says the same again and again",
    "language": "in a language that was not asked for",
    "contamination": "has a question of an evaluation in it",
    "personal": "e-mail addresses, phone and card numbers, keys are masked",
    "duplicates": "the same as an earlier row",
    "near_duplicates": "almost the same as an earlier row",
    "forget": "on the list of rows to forget, or a copy of one",
}
"""Rule → what it does, in a few words."""


def rule_order(rule: str) -> tuple[int, str]:
    """Where a rule comes: the check of a row as it is read, the catalog, duplicates, what is forgotten; others last."""
    known = ["check", *RULES, "duplicates", "near_duplicates", "forget"]
    return (known.index(rule) if rule in known else len(known), rule)


def cleaning_order(rule: str) -> tuple[int, str]:
    """The same within cleaning, where rows are checked again once the catalog is through with them."""
    return (len(RULES), "~") if rule == "check" else rule_order(rule)

"""What docs/data.md and data_specs/README.md say of the rules is what the rules do."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from minimind.data.dropped import CHANGED_FILE, DROPPED_FILE
from minimind.data.ledger import LEDGER_FILE, READ_LEDGER_FILE
from minimind.data.reports.report import HTML_FILE, MARKDOWN_FILE
from minimind.data.rules.catalog import ANY_ROW, JUDGES, RULES
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, Dropped, Texts

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = (CHECKOUT / "docs" / "data.md").read_text(encoding="utf-8")
SPECS = (CHECKOUT / "data_specs" / "README.md").read_text(encoding="utf-8")
CLEAN = SPECS.split("## Fields of `[clean]`\n")[1].split("\n## ")[0]
EXAMPLES = re.findall(r'^\| `(\w+)` \| `(".*?")` \| (.+?) \|$', PAGE, flags=re.M)


@pytest.mark.parametrize(("rule", "given", "outcome"), EXAMPLES, ids=[rule for rule, _, _ in EXAMPLES])
def test_an_example_in_the_docs_is_true(rule: str, given: str, outcome: str) -> None:
    """An example that no longer holds teaches the wrong thing; each is run by the rule it stands for."""
    found = RULES[rule](Texts([json.loads(given)]), CleanRules()).get(0)
    if outcome == "kept":
        assert found is None
    elif outcome.startswith("dropped: "):
        assert isinstance(found, Dropped) and f"dropped: `{found.reason}`" == outcome
    else:
        assert found == Changed(json.loads(outcome.strip("`")))


def test_every_rule_has_an_example_in_the_order_of_the_rules() -> None:
    shown = re.findall(r"^\| `(\w+)` \|", PAGE.split("## The rules\n")[1].split("\n#")[0], flags=re.M)
    assert list(dict.fromkeys(shown)) == list(RULES)


def test_the_table_of_settings_has_every_one_with_its_default() -> None:
    """In the order of the class would be too much to ask; in the order of the rules is not."""
    table = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", CLEAN, flags=re.M))
    assert set(table) == set(CleanRules.model_fields)
    for name, field in CleanRules.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert tomllib.loads(f"v = {re.sub(r'[`,](?=[^ ]|$)', '', table[name])}")["v"] == default, name
    assert [name for name in table if name in RULES] == list(RULES)


def test_every_rule_has_a_section_and_every_reason_a_mention() -> None:
    """Reasons are counted and searched for; one that nobody explains is a riddle."""
    headings = re.findall(r"^### (\w+)$", CLEAN, flags=re.M)
    assert headings == [*RULES, "duplicates", "near_duplicates"]
    files = [*(CHECKOUT / "minimind/data/rules").glob("*.py"), CHECKOUT / "minimind/data/cleaning.py"]
    reasons = {reason for file in files for reason in re.findall(r'\bDropped\(\s*"(\w+)"', file.read_text("utf-8"))}
    assert len(reasons) > 5
    assert not {reason for reason in reasons if f"`{reason}`" not in CLEAN}


def test_the_rules_for_conversations_are_named() -> None:
    for page in (PAGE, CLEAN):
        assert not [name for name in (*ANY_ROW, *JUDGES) if f"`{name}`" not in page]


@pytest.mark.parametrize("name", [DROPPED_FILE, CHANGED_FILE, LEDGER_FILE, READ_LEDGER_FILE, HTML_FILE, MARKDOWN_FILE])
def test_the_files_of_an_artifact_are_listed(name: str) -> None:
    table = PAGE.split("| file of a `clean` artifact | |\n")[1].split("\n\n")[0]
    assert f"`{name}`" in table

"""Every rule of the catalog: what it says of a text does not depend on the texts beside it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules.catalog import RULES
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Texts

PIECES = (
    "13812345678",
    "8.8.4.4",
    "joe@corp.com",
    "AKIAIOSFODNN7EXAMPLE",
    "password = hunter2hunter2",
    "<div>",
    "</div><p>",
    "&nbsp;",
    "<html><body>",
    "cafÃ©",
    "â€œ",
    "浣犲ソ锛",
    "\ufffd",
    "\x07",
    "\u202e",
    "\r",
    "\n",
    "Home | About | Contact",
    "Copyright 2020. All rights reserved.",
    "版权所有",
    "asdkjh qwlekj zxmcnb",
    "你好，世界。",
    "The quick brown fox jumps over the lazy dog. ",
    "Der Hund und die Katze sind nicht im Haus. ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "= = = =",
    "1. ",
    " ",
    "",
)
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map("".join)


@pytest.mark.parametrize("name", RULES)
@given(batch=st.lists(texts, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_text_is_judged_alone(name: str, batch: list[str]):
    """Texts lie end to end in a batch, and what ends one must not begin in another."""
    rules: Any = CleanRules()
    together = RULES[name](Texts(batch), rules)
    for place, text in enumerate(batch):
        assert together.get(place) == RULES[name](Texts([text]), rules).get(0)

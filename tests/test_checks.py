"""What rules say of answers: each kind of check takes what is right and refuses what is not, in English and Chinese."""

import json
from typing import Any

import pytest

from minimind.errors import ConfigError, DataError
from minimind.evaluate.prompts.checks import KINDS, read_check
from minimind.evaluate.prompts.forms import num_words
from minimind.evaluate.prompts.said import Said
from minimind.evaluate.prompts.tools import read_tools

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
    },
}
PING = {"name": "ping", "parameters": {}}
TOOLS = read_tools(json.dumps([WEATHER, PING]))


def fault(kind: str, content: str = "", /, *, said: dict[str, Any] | None = None, **settings: Any) -> str | None:
    check = read_check({"kind": kind, **settings}, origin="test")
    return check.fault(Said(content, tools=TOOLS, **(said or {})))


def call(name: str = "get_weather", /, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


RIGHT = [
    ("number", "42", {"answer": 42}),
    ("number", "6 × 7 = 42.", {"answer": 42}),
    ("number", "一共是1,234,567个", {"answer": 1234567}),
    ("number", "答案是−5。", {"answer": -5}),
    ("number", "x=-5", {"answer": -5}),
    ("number", "10-3", {"answer": 3}),
    ("number", "about 3.50 metres", {"answer": 3.5}),
    ("number", "1, 2, 3", {"answer": 3}),
    ("number", "４２", {"answer": 42}),
    ("exact", "Yes.", {"any_of": ["yes.", "Yes."]}),
    ("exact", "是", {"any_of": ["是"]}),
    ("contains", "In SPRING and in autumn", {"all_of": ["spring"], "any_of": ["fall", "autumn"]}),
    ("contains", "春夏秋冬", {"all_of": ["春", "冬"]}),
    ("not_contains", "A cat.", {"any_of": ["dog"]}),
    ("not_contains", "雪很冷", {"any_of": ["白"]}),
    ("regex", "on 2024-12-25", {"pattern": r"\b\d{4}-12-25$"}),
    ("regex", "我在北京", {"pattern": r"^\p{Han}+$"}),
    ("json", '{"name": "Tom", "age": 30}', {"keys": ["name", "age"]}),
    ("json", 'Here:\n```json\n{"城市": "北京"}\n```\nDone.', {"keys": ["城市"]}),
    ("json", "```\n[1, 2]\n```", {}),
    ("max_words", "A small, furry animal.", {"count": 4}),
    ("max_words", "一种小动物", {"count": 5}),
    ("min_words", "It's well-known.", {"count": 2}),
    ("min_words", "我用 Python 写", {"count": 4}),
    ("starts_with", "In short: yes", {"any_of": ["In short"]}),
    ("ends_with", "再见。祝你好运！", {"any_of": ["祝你好运！"]}),
    ("lowercase", "i am small, 我也是 3.", {}),
    ("uppercase", "WELCOME, 欢迎 2 YOU!", {}),
    ("language", "The cat is on the mat, and it is asleep.", {"code": "en"}),
    ("language", "小猫在窗边睡觉，阳光照在它的身上。", {"code": "zh"}),
    ("bullets", "Fruits:\n- apple\n * pear\n• fig\n", {"count": 3}),
    ("bullets", "1. 烧水\n2) 放茶\n3、喝茶", {"count": 3}),
    ("sentences", "The moon is 3.5 times smaller. It shines!", {"count": 2}),
    ("sentences", "他说：“你好！”然后走了。", {"count": 2}),
    ("sentences", "1. One thing\n2. Another thing", {"count": 2}),
    ("no_comma", "苹果、梨和桃都好吃。", {}),
    ("quoted", '"Never give up."', {}),
    ("quoted", "“加油！”", {}),
    ("quoted", "「加油」", {}),
    ("no_tool_call", "It is sunny.", {}),
    ("ended", "", {}),
    ("not_repetitive", "", {}),
]
WRONG = [
    ("number", "forty-two", {"answer": 42}, "no number"),
    ("number", "四十二", {"answer": 42}, "no number"),
    ("number", "It is 12.", {"answer": 42}, "12 is not 42"),
    ("number", "42 or 43", {"answer": 42}, "43 is not 42"),
    ("number", "1000001", {"answer": 1000000}, "1000001 is not 1000000"),
    ("number", "42.00001", {"answer": 42}, "42.00001 is not 42"),
    ("exact", "Yes, it is.", {"any_of": ["Yes"]}, 'is not "Yes"'),
    ("contains", "spring", {"all_of": ["spring", "winter"]}, '"winter" is missing'),
    ("contains", "春", {"any_of": ["夏", "秋"]}, '"夏" or "秋" is missing'),
    ("not_contains", "HOT!", {"any_of": ["cold", "hot"]}, '"hot" is in it'),
    ("regex", "25.12.2024", {"pattern": r"\d{4}-"}, r"nothing matches \d{4}-"),
    ("json", "{'name': 1}", {}, "no JSON: Expecting property name enclosed in double quotes (column 2)"),
    ("json", '{"a": NaN}', {}, "no JSON: NaN is not JSON"),
    ("json", '{"a": 1, "a": 2}', {}, "no JSON: key 'a' stands twice in one object"),
    ("json", "42", {}, "the JSON is a number, not an object"),
    ("json", "[1]", {"keys": ["a"]}, "the JSON is a list, not an object"),
    ("json", '{"a": 1}', {"keys": ["a", "b"]}, 'the JSON has no key "b"'),
    ("json", "```\n1\n```\n```\n2\n```", {}, "no JSON: Expecting value (column 1)"),
    ("max_words", "A small furry animal", {"count": 3}, "4 words, more than 3"),
    ("max_words", "一种小动物", {"count": 4}, "5 words, more than 4"),
    ("min_words", "No.", {"count": 2}, "1 words, fewer than 2"),
    ("starts_with", "So, in short", {"any_of": ["In short", "So:"]}, 'does not start with "In short" or "So:"'),
    ("ends_with", "祝你好运", {"any_of": ["！"]}, 'does not end with "！"'),
    ("lowercase", "i am Small", {}, "has capital letters"),
    ("lowercase", "我很小", {}, "no small letters"),
    ("uppercase", "WELCOMe", {}, "has small letters"),
    ("uppercase", "", {}, "no capital letters"),
    ("language", "小猫在窗边睡觉，阳光照在它的身上。", {"code": "en"}, "is in zh, not in en"),
    ("language", "The cat is on the mat, and it is asleep.", {"code": "zh"}, "is in en, not in zh"),
    ("language", "", {"code": "zh"}, "its language cannot be told, zh was expected"),
    ("bullets", "- one\n-two\n**three**\n2024 was fine", {"count": 2}, "1 points of a list, not 2"),
    ("sentences", "好。很好。", {"count": 1}, "2 sentences, not 1"),
    ("sentences", "...", {"count": 1}, "0 sentences, not 1"),
    ("no_comma", "Yes, sir", {}, "has a comma"),
    ("no_comma", "好，谢谢", {}, "has a comma"),
    ("quoted", '"Yes" is my "answer".', {}, "is not in quotation marks"),
    ("quoted", '""', {}, "is not in quotation marks"),
]


@pytest.mark.parametrize(("kind", "content", "settings"), RIGHT)
def test_an_answer_that_is_right_passes(kind: str, content: str, settings: dict[str, Any]):
    """A check that refuses good answers measures itself, not the model."""
    assert fault(kind, content, **settings) is None


@pytest.mark.parametrize(("kind", "content", "settings", "words"), WRONG)
def test_an_answer_that_is_wrong_is_refused_in_plain_words(
    kind: str, content: str, settings: dict[str, Any], words: str
):
    """The words stand in the report: they must say what is the matter with this answer."""
    assert fault(kind, content, **settings) == words


CALLS_RIGHT = [
    (call(city="Paris"), {}),
    (call(city="Paris"), {"name": "get_weather", "arguments": {"city": "paris"}}),
    (call(city="北京", days=2), {"arguments": {"city": ["Beijing", "北京"], "days": 2}}),
    (f"[{call(city='Rome')}]", {"name": "get_weather"}),
    (call("ping", anything=1), {"name": "ping"}),
    (call("ping", n={"a": [1, "B"]}), {"arguments": {"n": {"a": [1.0, "b "]}}}),
    (call("ping", n=[1, 2]), {"arguments": {"n": [[1, 2]]}}),
    (call(city="Rome") + "\n" + call(city="Paris"), {"calls": 2, "arguments": {"city": "Paris"}}),
]
CALLS_WRONG = [
    ("", {}, "no tool call"),
    ("\n", {}, "no tool call"),
    ("get_weather(Paris)", {}, "the tool call is no JSON object with a name and arguments"),
    ('{"name": "get_weather"', {}, "the tool call is no JSON object with a name and arguments"),
    ('{"arguments": {}}', {}, "the tool call is no JSON object with a name and arguments"),
    (call("weather", city="Rome"), {}, "called 'weather', and there is no such tool (did you mean `get_weather`?)"),
    (call(), {}, "`get_weather`: 'city' is a required property"),
    (call(city=3), {}, "`get_weather`, city: 3 is not of type 'string'"),
    (call(city="Rome", days=True), {}, "`get_weather`, days: True is not of type 'integer'"),
    (call(city="Rome", days=0), {}, "`get_weather`, days: 0 is less than the minimum of 1"),
    (call(city="Rome", unit="kelvin"), {}, "`get_weather`, unit: 'kelvin' is not one of ['celsius', 'fahrenheit']"),
    (
        call(city="Rome", planet="Mars"),
        {},
        "`get_weather`: Additional properties are not allowed ('planet' was unexpected)",
    ),
    (call(city=float("nan")), {}, "the arguments of `get_weather` have NaN, infinity or a number beyond all bounds"),
    (call(city="Rome"), {"arguments": {"city": ["Paris", "巴黎"]}}, "`get_weather`: city is 'Rome'"),
    (call(city="Rome"), {"arguments": {"days": 1}}, '`get_weather` without the argument "days"'),
    (call("ping", n=[1, 2]), {"arguments": {"n": [1, 2]}}, "`ping`: n is [1, 2]"),
    (call("ping", n={"a": 1, "b": 2}), {"arguments": {"n": {"a": 1}}}, "`ping`: n is {'a': 1, 'b': 2}"),
    (call(city="Rome"), {"name": "ping"}, "called `get_weather`, not `ping`"),
    (call("ping") + call("ping"), {}, "2 tool calls, not 1"),
]


@pytest.mark.parametrize(("calls", "settings"), CALLS_RIGHT)
def test_a_call_that_fits_passes(calls: str, settings: dict[str, Any]):
    """Texts are compared without capitals, and of several right values one will do."""
    assert fault("tool_call", said={"calls": calls}, **settings) is None


@pytest.mark.parametrize(("calls", "settings", "words"), CALLS_WRONG)
def test_a_call_that_does_not_fit_is_refused(calls: str, settings: dict[str, Any], words: str):
    """A call that the tool behind it would refuse is no use to anybody, however good its JSON."""
    assert fault("tool_call", said={"calls": calls}, **settings) == words


def test_true_is_not_one_and_one_is_one_point_zero():
    """Python says True == 1; a tool that is told `true` instead of 1 was told something else."""
    say = {"calls": call("ping", n=True)}
    assert fault("tool_call", said=say, arguments={"n": 1}) == "`ping`: n is True"
    assert fault("tool_call", said={"calls": call("ping", n=1.0)}, arguments={"n": 1}) is None


def test_how_an_answer_ended_and_what_it_repeats_are_checked():
    """A loop and an answer that was cut off are failures of their own, whatever the words are."""
    assert fault("ended", said={"ended": False}) == "cut off at the limit of tokens"
    assert fault("not_repetitive", said={"repetition": 0.3}) == "30% of it was said before"
    assert fault("not_repetitive", said={"repetition": 0.29}) is None
    assert fault("no_tool_call", said={"calls": call("ping")}) == "called a tool"


def test_every_kind_is_in_the_tables():
    """A kind that is added must be added to the tables of right and wrong answers."""
    tried = {kind for kind, *_ in RIGHT} & ({kind for kind, *_ in WRONG} | {"ended", "not_repetitive", "no_tool_call"})
    assert tried | {"tool_call"} == set(KINDS)


def test_a_chinese_character_is_a_word():
    """`not more than 20 words` must mean the same effort in both languages."""
    assert [num_words(text) for text in ("", "don't stop", "你好，世界", "用 Python 3.11 写")] == [0, 2, 4, 5]


BAD_CHECKS = [
    ("number", "a check is an object with a `kind`"),
    ({}, "a check is an object with a `kind`"),
    ({"kind": 3}, "a check is an object with a `kind`"),
    ({"kind": "nubmer"}, r"unknown kind `nubmer` \(did you mean `number`\?\)"),
    ({"kind": "number"}, r"\(number\): `answer` is missing"),
    ({"kind": "number", "answer": "42"}, "`answer`: input should be a valid number"),
    ({"kind": "number", "answer": True}, "`answer` is true; a number was expected"),
    ({"kind": "number", "anwser": 42, "answer": 42}, r"unknown key `anwser` \(did you mean `answer`\?\)"),
    ({"kind": "exact", "any_of": "yes"}, "`any_of`: a list was expected"),
    ({"kind": "exact", "any_of": []}, "`any_of`: tuple should have at least 1 item"),
    ({"kind": "contains"}, "contains needs any_of or all_of"),
    ({"kind": "bullets", "count": 0}, "`count`: input should be greater than or equal to 1"),
    ({"kind": "bullets", "count": 2.0}, "`count`: a whole number was expected"),
    ({"kind": "language", "code": "fr"}, "`code`: input should be 'zh' or 'en'"),
    ({"kind": "regex", "pattern": "("}, r"`pattern`: invalid regular expression: missing \)"),
    ({"kind": "regex", "pattern": "(?=a)"}, "patterns are RE2's, without look-around"),
    ({"kind": "regex", "pattern": "a" * 201}, "`pattern`: string should have at most 200 characters"),
]


@pytest.mark.parametrize(("value", "words"), BAD_CHECKS)
def test_a_check_that_cannot_be_used_says_why(value: Any, words: str):
    """A check that is misspelt must not pass everything, or nothing."""
    with pytest.raises(ConfigError, match=f"row 3.*{words}"):
        read_check(value, origin="row 3")


BAD_TOOLS = [
    ([{}], "the name None"),
    ([PING, PING], "two tools are called `ping`"),
    ([{"name": "x", "parameters": [1]}], "parameters is a list; a JSON Schema was expected"),
    ([{"name": "x", "parameters": {"type": "strnig"}}], "parameters are no JSON Schema: 'strnig' is not valid"),
    ([{"name": "x", "parameters": {"properties": {"a": {"$ref": "#/$defs/b"}}}}], "'#/\\$defs/b' leads nowhere"),
    ([{"name": "x", "parameters": {"properties": {"a": {"$dynamicRef": "#b"}}}}], "'#b' leads nowhere"),
    ([{"name": "x", "parameters": {"properties": {"a": {"pattern": "("}}}}], "parameters are no JSON Schema"),
    ([{"name": "x", "parameters": {"properties": {"a": {"$ref": "http://a.example/b"}}}}], "leads nowhere"),
]


@pytest.mark.parametrize(("tools", "words"), BAD_TOOLS)
def test_a_tool_that_nobody_could_call_is_refused(tools: list[Any], words: str):
    """A broken schema would fail every model alike; and what is in one must never be fetched."""
    with pytest.raises(DataError, match=words):
        read_tools(json.dumps(tools))


def test_a_schema_that_speaks_of_further_arguments_is_taken_at_its_word():
    """Arguments that a schema does not name are wrong unless it allows them itself."""
    schema = {"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "number"}}}
    strict, free = (
        read_tools(json.dumps([{"name": "f", "parameters": parameters}]))
        for parameters in (schema, {**schema, "additionalProperties": True})
    )
    check = read_check({"kind": "tool_call"}, origin="test")
    said = {"content": "", "calls": call("f", a=1, b=2)}
    assert "'b' was unexpected" in (check.fault(Said(**said, tools=strict)) or "")
    assert check.fault(Said(**said, tools=free)) is None


def test_numbers_and_schemas_without_an_end_are_faults_and_no_errors():
    """jsonschema itself raises for a number too large to divide, and for a schema that is nothing but itself."""
    halves = read_tools(json.dumps([{"name": "f", "parameters": {"properties": {"a": {"multipleOf": 0.5}}}}]))
    circle = read_tools(json.dumps([{"name": "f", "parameters": {"$ref": "#"}}]))
    check = read_check({"kind": "tool_call"}, origin="test")
    assert "beyond all bounds" in (check.fault(Said("", call("f", a=10**400), tools=halves)) or "")
    assert "nested too deeply" in (check.fault(Said("", call("f"), tools=circle)) or "")


LONG = 1 << 18
"""Characters: hours for what takes quadratic time, a tenth of a second for the rest."""
HOSTILE = [
    "\0",
    "\ud800",
    "<tool_call>",
    "</tool_call></think>",
    '{"name": ',
    '{"name": "\\ud800", "arguments": {}}',
    '{"name": "get_weather", "arguments": {"city": "\\ud800"}}',
    '{"name": "ping", "arguments": {"n": -Infinity}}',
    '{"name": "ping", "arguments": {"n": 1e999}}',
    '{"name": "ping", "arguments": {"n": ' + "9" * 5000 + "}}",
    '{"name": "ping", "arguments": {"a": ' * 400,
    '{"name": "ping", "arguments": {"n": ' + "[" * 900 + "]" * 900 + "}}",
    "[" * LONG,
    '{"a":' * (LONG // 5),
    "9" * LONG,
    "1,111" * (LONG // 5),
    "-" * LONG,
    "." * LONG + "x",
    '."' * (LONG // 2) + "x",
    "`" * LONG,
    "a" * LONG + "!",
    "a-" * (LONG // 2) + "!",
    "\n" * LONG,
    " " * LONG + "x",
    "- \n" * (LONG // 3),
    "字" * (LONG // 3),
    "a，" * (LONG // 4),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_answer_makes_a_check_raise_or_wait(text: str):
    """A model may say anything. What it says must not stop the evaluation of the others."""
    settings: dict[str, dict[str, Any]] = {
        **{kind: {"count": 1} for kind in ("max_words", "min_words", "bullets", "sentences")},
        **{kind: {"any_of": ["x"]} for kind in ("exact", "contains", "not_contains", "starts_with", "ends_with")},
        "number": {"answer": 1},
        "regex": {"pattern": "x$"},
        "language": {"code": "zh"},
        "json": {"keys": ["a"]},
        "tool_call": {"name": "ping", "arguments": {"n": [1, [2]]}},
    }
    for kind in KINDS:
        words = fault(kind, text, said={"calls": text}, **settings.get(kind, {}))
        assert words is None or 0 < len(words.encode()) < 1000


def test_no_pattern_takes_longer_than_a_reading():
    """Python's own patterns need exponential time for this one, so thirty letters would stop an evaluation."""
    assert fault("regex", "a" * (1 << 20) + "!", pattern="(a+)+$") == "nothing matches (a+)+$"

"""Prompts with checks: files, the sets that come with the project, sums, and a model that is asked them."""

import json
from pathlib import Path
from typing import Any

import pytest
from engine_parts import engine_of, tiny_model

from minimind.errors import ConfigError, DataError, MissingError
from minimind.evaluate.config import BUILT_IN
from minimind.evaluate.prompts.checks import KINDS, ToolCall
from minimind.evaluate.prompts.items import PromptItem, arithmetic, builtin, read_prompts
from minimind.evaluate.prompts.outcomes import TOO_LONG, run_prompts, said_of
from minimind.evaluate.prompts.said import Said
from minimind.evaluate.prompts.tools import read_tools
from minimind.infer.generate import complete, prompt_ids
from minimind.infer.sampling import Sampling
from minimind.tokens.chat import render, render_prompt
from minimind.tokens.repetition import repetition_rate
from minimind.tokens.tokenizer import Tokenizer

ADD = {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]}}
NUMBER = {"kind": "number", "answer": 4}
ROW = {"prompt": "2 + 2?", "checks": [NUMBER]}


def written(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def faults(item: PromptItem, content: str, *, calls: str = "") -> list[str]:
    heard = Said(content, calls, tools=read_tools(item.tools))
    return [fault for check in item.checks if (fault := check.fault(heard))]


def test_a_file_is_read_row_by_row(tmp_path: Path):
    """All ways to write a prompt give the turns that the chat format takes."""
    user, system = {"role": "user", "content": "Add 1."}, {"role": "system", "content": "Be brief."}
    answer = {"role": "assistant", "content": "placeholder"}
    rows = [
        ROW,
        "",
        {"id": "x", "language": "en", "source": "mine", "conversations": [system, user, answer], "checks": [NUMBER]},
        {"prompt": "加一", "tools": [{"type": "function", "function": ADD}], "checks": [{"kind": "tool_call"}]},
        {"conversations": [{**system, "tools": json.dumps([ADD])}, user], "checks": [{"kind": "no_tool_call"}]},
    ]
    first, second, third, fourth = read_prompts(written(tmp_path / "mine.jsonl", *rows))
    assert (first.id, first.suite, first.question, first.tools) == ("line 1", "mine", "2 + 2?", None)
    assert [turn["content"] for turn in second.conversation] == ["Be brief.", "Add 1."]
    assert (second.id, second.language, second.source) == ("x", "en", "mine")
    assert [json.loads(item.tools or "") for item in (third, fourth)] == [[ADD], [ADD]]
    assert all(turn["tools"] is None for turn in fourth.conversation)


BAD_ROWS = [
    ("{", "bad_json: "),
    ('{"prompt": "a", "prompt": "b", "checks": []}', "duplicate_key: key 'prompt'"),
    ([1], "is not a JSON object"),
    ({"prompt": "a"}, "`checks` is missing"),
    ({"prompt": "a", "checks": []}, "`checks`: list should have at least 1 item"),
    ({"prompt": "a", "check": [NUMBER]}, r"unknown key `check` \(did you mean `checks`\?\)"),
    ({"checks": [NUMBER]}, "give either `prompt` or `conversations`"),
    ({**ROW, "conversations": []}, "give either `prompt` or `conversations`"),
    ({**ROW, "prompt": 3}, "`prompt`: input should be a valid string"),
    ({**ROW, "prompt": " "}, "the last user turn is blank"),
    ({**ROW, "id": 7}, "`id`: input should be a valid string"),
    ({"conversations": [{"role": "robot", "content": "a"}], "checks": [NUMBER]}, "bad_role: .*turn 1: role 'robot'"),
    ({"conversations": [{"role": "system", "content": "a"}], "checks": [NUMBER]}, "ends with a system turn"),
    ({**ROW, "checks": [NUMBER, {"kind": "numbr"}]}, r"check 2: unknown kind `numbr` \(did you mean `number`\?\)"),
    ({**ROW, "checks": [{"kind": "number", "answer": "4"}]}, r"check 1 \(number\): `answer`: input should be a valid"),
    ({**ROW, "checks": [{"kind": "tool_call"}]}, "the check tool_call needs `tools`"),
    ({**ROW, "tools": [ADD], "checks": [{"kind": "tool_call", "name": "sub"}]}, "expects `sub`; the tools are: add"),
    ({**ROW, "tools": [3]}, "an object that describes a tool was expected"),
    ({**ROW, "tools": [{"name": "f", "parameters": {"type": 1}}]}, "tool `f`: parameters are no JSON Schema"),
    (
        {"conversations": [{"role": "user", "content": "a", "tools": [ADD]}], "tools": [ADD], "checks": [NUMBER]},
        "`tools` stands in more than one place",
    ),
]


@pytest.mark.parametrize(("row", "words"), BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: Any, words: str):
    """A set has a few hundred rows: whoever wrote it mends the one that is wrong, and none is left out in silence."""
    path = written(tmp_path / "bad.jsonl", ROW, row)
    with pytest.raises(DataError, match=rf"bad\.jsonl:2: .*{words}"):
        read_prompts(path)


def test_files_that_hold_no_prompts_are_refused(tmp_path: Path):
    """Missing, empty, a folder, not UTF-8, the same id twice: each says what it is."""
    with pytest.raises(MissingError, match="gone.jsonl: no such file"):
        read_prompts(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="is not a file"):
        read_prompts(tmp_path)
    with pytest.raises(DataError, match="has no prompts"):
        read_prompts(written(tmp_path / "empty.jsonl", "", " "))
    with pytest.raises(DataError, match=r"twice.jsonl:3: the id 'a' stands in line 1 too"):
        read_prompts(written(tmp_path / "twice.jsonl", {**ROW, "id": "a"}, ROW, {**ROW, "id": "a"}))
    (tmp_path / "gbk.jsonl").write_bytes(json.dumps(ROW).encode() + b"\n" + "中文".encode("gbk"))
    with pytest.raises(DataError, match="gbk.jsonl:2: bad_utf8"):
        read_prompts(tmp_path / "gbk.jsonl")


def test_sums_are_right_and_passable_by_nothing_but_the_right_number():
    """The answer is worked out here from the words of the question, by other means than there."""
    signs = {"plus": "+", "minus": "-", "times": "*", "divided by": "/", "除以": "/", "加": "+", "减": "-", "乘": "*"}
    signs |= {"×": "*", "÷": "/"}
    items = arithmetic(400, seed=3)
    for item in items:
        text = item.question
        for word, sign in signs.items():
            text = text.replace(word, sign)
        sum_only = "".join(letter for letter in text if letter in "0123456789+-*/")
        right = eval(sum_only)  # only digits and one sign are left
        assert right == int(right) >= 0
        assert not faults(item, f"{sum_only} = {int(right):,}") and not faults(item, f"等于{int(right)}。")
        assert faults(item, str(right + 1)) and faults(item, str(-right - 1)) and faults(item, "?")


def test_sums_are_stable_and_of_all_kinds():
    """The same seed must ask the same, or two models of two days cannot be compared."""
    items = arithmetic()
    assert items == arithmetic(seed=0) != arithmetic(seed=1)
    assert arithmetic(10) == items[:10]
    assert [item.language for item in items].count("zh") == 50
    assert len({item.id for item in items}) == len({item.question for item in items}) == 100
    assert items[0].question == "How much is 63 plus 5?"
    numbers = [int(part) for item in items for part in _digits(item.question)]
    assert {len(str(number)) for number in numbers} == {1, 2, 3}
    with pytest.raises(ConfigError, match="1 to 4000 are allowed"):
        arithmetic(4001)


def _digits(text: str) -> list[str]:
    return "".join(letter if letter.isdigit() else " " for letter in text).split()


def test_built_in_sets_have_unique_ids_and_every_kind_of_check():
    """What ships must be readable, in both languages, and use all that there is."""
    items = [item for name in BUILT_IN for item in builtin(name)]
    assert len({(item.suite, item.id) for item in items}) == len(items)
    assert {check.kind for item in items for check in item.checks} == set(KINDS)
    for name in BUILT_IN:
        assert {item.suite for item in builtin(name)} == {name}
        assert {item.language for item in builtin(name)} == {"en", "zh"}
    with pytest.raises(ConfigError, match="no built-in prompts `poems`"):
        builtin("poems")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BUILT_IN)
def test_silence_passes_no_built_in_item(name: Any):
    """A model that stops at once must not score."""
    assert [item.id for item in builtin(name) if not faults(item, "")] == []


@pytest.mark.parametrize("name", ["arithmetic", "instructions"])
def test_a_parrot_passes_no_built_in_item(name: Any):
    """Nor one that says the question back. (A greeting may well be answered with the same greeting.)"""
    assert [item.id for item in builtin(name) if not faults(item, item.question)] == []


ANSWERS = {
    "en-number": "4 boxes of 12 eggs are 48 eggs.",
    "en-number-days": "14",
    "en-exact-yes": "Yes.",
    "en-exact-word": "banana",
    "en-contains": "Spring, summer, autumn and winter.",
    "en-contains-words": "The dog swims in the river.",
    "en-not-contains": "The sun is a star.",
    "en-regex": "2024-12-25",
    "en-json": '{"name": "Tom", "age": 30}',
    "en-json-list": '["red", "green", "blue"]',
    "en-max-words": "A cat is a small animal.",
    "en-min-words": "A forest is a wide land full of trees, " + "where birds sing and deer walk in the shade, " * 3,
    "en-starts-with": "In short, rain is water that falls from clouds.",
    "en-ends-with": "Have a good day. See you soon!",
    "en-lowercase": "i am a small language model.",
    "en-uppercase": "WELCOME TO OUR HOUSE!",
    "en-language": "A cat is a small animal that likes to sleep. It is the friend of many people.",
    "en-bullets": "- apple\n- pear\n- plum",
    "en-bullets-numbers": "1. Boil water.\n2. Put tea into a cup.\n3. Pour the water.\n4. Wait.",
    "en-sentences": "The moon goes around the earth. It has no light of its own.",
    "en-no-comma": "I like rice with vegetables and a cup of tea.",
    "en-quoted": '"Sleep enough."',
    "en-ended": "Good night, sleep well!",
    "en-dialogue": "Dear customer, we open at nine.",
    "zh-number": "3 × 5 = 15",
    "zh-exact": "是",
    "zh-exact-word": "苹果",
    "zh-contains": "春天、夏天、秋天和冬天。",
    "zh-not-contains": "雪从天上轻轻落下。",
    "zh-regex": "2024-10-01",
    "zh-json": '```json\n{"city": "北京", "country": "中国"}\n```',
    "zh-max-words": "书是记录知识的册子。",
    "zh-min-words": "春天来了，天气变暖，" + "树木发芽，花儿开放，鸟儿在枝头歌唱，" * 3,
    "zh-starts-with": "总之，水是生命之源。",
    "zh-ends-with": "生日快乐！祝你好运！",
    "zh-language": "我是一个小小的语言模型。我会回答简单的问题。",
    "zh-bullets": "- 猫\n- 狗\n- 鸟",
    "zh-sentences": "大海很宽。海水是蓝色的。",
    "zh-no-comma": "我的家乡有山有水。",
    "zh-quoted": "“坚持就是胜利！”",
    "zh-ended": "晚安，做个好梦！",
    "zh-dialogue": "亲爱的读者，小说在二楼。",
}


def test_every_instruction_can_be_followed():
    """An item that no answer passes says nothing about a model."""
    items = builtin("instructions")
    assert {item.id for item in items} == set(ANSWERS)
    assert [(item.id, found) for item in items if (found := faults(item, ANSWERS[item.id]))] == []


def test_every_tool_question_can_be_answered():
    """The call that an item expects must be one that its own tools accept."""
    plain = {"en-none-poem": "The sea is wide.", "zh-none-poem": "花开了。"}
    plain |= {"en-after-result": "It is 27 degrees.", "zh-after-result": "现在是9点41分。"}
    for item in builtin("tools"):
        (expected, *_) = item.checks
        if not isinstance(expected, ToolCall):
            assert not faults(item, plain.get(item.id, "你好 / Hello!")), item.id
            assert faults(item, plain.get(item.id, "Hello!"), calls='{"name": "x"}') == ["called a tool"]
            continue
        arguments = {key: value[0] if isinstance(value, list) else value for key, value in expected.arguments.items()}
        call = {"name": expected.name, "arguments": arguments}
        assert not faults(item, "", calls=json.dumps(call)), item.id
        assert faults(item, "", calls=json.dumps({**call, "arguments": {}})), item.id
        assert faults(item, json.dumps(call)) == ["no tool call"]


def test_outcomes_are_the_greedy_answers_and_their_failures(tokenizer: Tokenizer, tmp_path: Path):
    """What is checked must be what a user gets at temperature 0, with system turn and tools, in the items' order."""
    engine = engine_of(tiny_model(tokenizer.vocab_size, max_positions=400), tokenizer)
    system = {"role": "system", "content": "Be brief."}
    turns = [system, {"role": "user", "content": "2 + 2?"}]
    rows = [
        {"conversations": turns, "tools": [ADD], "checks": [{"kind": "tool_call"}, {"kind": "ended"}]},
        {"prompt": "long " * 500, "checks": [NUMBER]},
        {"prompt": "Who are you?", "checks": [{"kind": "not_contains", "any_of": ["\0"]}]},
    ]
    items = read_prompts(written(tmp_path / "three.jsonl", *rows))
    outcomes = run_prompts(engine, items, max_tokens=9, chat=True)
    asked = render_prompt([{**system, "tools": json.dumps([ADD])}, turns[1]], tokenizer)
    wanted = complete(engine, asked, sampling=Sampling(temperature=0, max_tokens=9))
    first, second, third = outcomes
    assert [outcome.item for outcome in outcomes] == items
    assert (first.text, first.tokens, first.ended) == (wanted.text, wanted.tokens, wanted.finish_reason == "stop")
    assert first.repetition == repetition_rate(wanted.ids)
    assert first.failures == ("no tool call", "cut off at the limit of tokens") and not first.passed
    assert (second.text, second.tokens, second.ended, second.failures) == ("", 0, False, (TOO_LONG,))
    assert third.passed and third.tokens == 9
    assert not engine.busy


def test_a_pretrained_model_goes_on_from_the_question(tokenizer: Tokenizer):
    """It has never seen the chat format: it gets what the user said last, as a document's beginning."""
    engine = engine_of(tiny_model(tokenizer.vocab_size), tokenizer)
    item = arithmetic(1)[0]
    (outcome,) = run_prompts(engine, [item], max_tokens=9, chat=False)
    asked = prompt_ids(tokenizer, item.question, raw=True)
    assert outcome.text == complete(engine, asked, sampling=Sampling(temperature=0, max_tokens=9)).text


def test_a_cache_too_small_for_a_prompt_is_a_failure_too(tokenizer: Tokenizer):
    """An engine may keep fewer tokens than the model could read."""
    engine = engine_of(tiny_model(tokenizer.vocab_size), tokenizer, cache_tokens=16)
    (outcome,) = run_prompts(engine, arithmetic(1), max_tokens=9, chat=True)
    assert outcome.failures == (TOO_LONG,)


def test_calls_are_what_stands_between_tag_tokens(tokenizer: Tokenizer):
    """As for the server: reasoning is not said, and a tag that is merely spelt calls nothing."""
    call = '{"name": "add", "arguments": {"a": 1}}'
    turn = {"role": "assistant", "content": "Wait.", "reasoning_content": "Hm, 5.", "tool_calls": call}
    asked = [{"role": "user", "content": "Add."}]
    ids = render([*asked, turn], tokenizer).ids[len(render_prompt(asked, tokenizer)) : -2]  # without its end
    more = {"ended": True, "repetition": 0.0, "tools": read_tools(json.dumps([ADD]))}
    heard = said_of(tokenizer, ids, **more)
    assert (heard.content, json.loads(heard.calls)) == ("Wait.", json.loads(call))
    check = ToolCall(kind="tool_call", name="add", arguments={"a": 1})
    assert check.fault(heard) is None
    spelt = said_of(tokenizer, tokenizer.encode(f"<tool_call>\n{call}\n</tool_call>"), **more)
    assert check.fault(spelt) == "no tool call" and "<tool_call>" in spelt.content

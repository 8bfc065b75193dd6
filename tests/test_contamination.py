"""Leaks of evaluation questions are found however they are set, and ordinary text is not taken for one."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules import contamination
from minimind.data.rules.contamination import evaluation_digests, find_leaks
from minimind.data.rules.evaluation_index import load_index
from minimind.data.rules.evaluation_pieces import pieces_of
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Texts
from minimind.errors import DataError, MissingError

MARS = {
    "id": "sky-1",
    "question": "Which planet of the solar system has the two small moons Phobos and Deimos?",
    "choices": ["Venus, the morning star", "Mars, the red planet", "Jupiter, a giant of gas", "Neptune, far outside"],
    "answer": 1,
}
CANAL = {
    "id": "canal-1",
    "question": "京杭大运河最早开凿的一段是",
    "choices": ["邗沟", "通惠河", "永济渠", "江南河"],
    "answer": 0,
}
GENERIC = {
    "id": "generic-1",
    "question": "Which of the following is true?",
    "choices": [
        "Copper floats on mercury at noon",
        "Whales breathe through gills",
        "Basalt is a kind of wood",
        "Tin sings",
    ],
    "answer": "A",
}
CLOZE = {
    "id": "cloze-1",
    "context": "老人把灯挂在船头，慢慢地向河心摇去。",
    "choices": ["他要去对岸接迟归的孙女。", "山上的雪还没有化。", "账本里少了三页。", "城门已经关了。"],
    "answer": 0,
}
PROSE = "The ferry was late that morning, and the whole village stood on the quay and talked about the weather. " * 3
HAN = "那一年的冬天来得很早，村里的人都忙着修补屋顶和围墙，没有谁去河边看船。" * 3


@pytest.fixture(scope="module")
def rules(tmp_path_factory) -> CleanRules:
    return CleanRules(
        evaluation=(str(write(tmp_path_factory.mktemp("sets") / "quiz.jsonl", [MARS, CANAL, GENERIC, CLOZE])),)
    )


def write(path: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def leaks(rules: CleanRules, *texts: str) -> list[int]:
    return sorted(find_leaks(Texts(texts), rules))


def lettered(item: dict) -> str:
    question = item.get("question", item.get("context"))
    return "\n".join(
        [question, *(f"{letter}. {choice}" for letter, choice in zip("ABCD", item["choices"], strict=False))]
    )


@pytest.mark.parametrize("item", [MARS, CANAL, GENERIC, CLOZE], ids=lambda item: item["id"])
def test_a_question_with_its_choices_is_found_inside_other_text(rules, item):
    """The plain case: somebody pasted the test into a document."""
    found = find_leaks(Texts([PROSE, f"{PROSE}\n\n{lettered(item)}\n答案：B\n\n{HAN}", HAN]), rules)
    assert list(found) == [1]
    assert found[1].reason == "evaluation_leak"
    assert item["id"] in found[1].detail and "quiz.jsonl" in found[1].detail and "leak_share" in found[1].detail


@pytest.mark.parametrize("item", [MARS, CANAL], ids=lambda item: item["id"])
def test_other_letters_order_case_and_width_hide_nothing(rules, item):
    """Every scrape of a quiz sets it differently."""
    first, second, third, fourth = item["choices"]
    question = item["question"]
    shapes = [
        f"Question: {question}\nOptions:\n(1) {fourth} (2) {first} (3) {third} (4) {second}\nThe answer is {second}.",
        json.dumps({"q": question, "options": [third, first, second, fourth]}, ensure_ascii=False),
        f"{question.upper()}\n\n- {first.upper()}\n- {second}\n- {third}\n- {fourth}",
        "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in lettered(item)),
        f"**{question}**  \n* {third}\n* {second}",  # half of the choices
    ]
    assert leaks(rules, *[f"{HAN}\n{shape}\n{PROSE}" for shape in shapes]) == list(range(len(shapes)))


def test_small_edits_hide_nothing(rules):
    """Typing errors and a changed word are what copies have."""
    mars = lettered(MARS).replace("solar system", "solar sistem").replace("small moons", "little moons")
    canal = lettered(CANAL).replace("最早开凿", "最早开挖")
    assert leaks(rules, f"{PROSE}{mars}", f"{HAN}{canal}") == [0, 1]


def test_a_question_with_its_right_answer_is_a_leak(rules):
    """Chat data asks and answers, and never shows the wrong choices."""
    assert leaks(rules, f"{PROSE} {MARS['question']} It is Mars, the red planet. {PROSE}") == [0]


def test_a_short_question_alone_is_no_leak(rules):
    """Anybody may write these words; without the choices the answer is not learnt as the test has it."""
    texts = [
        f"{PROSE} Which of the following is true? We cannot say. {PROSE}",
        f"{HAN}京杭大运河最早开凿的一段是他家门口的那条水道，如今已经填平。{HAN}",
        "Phobos and Deimos are the two small moons of Mars, the red planet. Venus, the morning star, has none.",
        "邗沟、通惠河、永济渠和江南河都是运河的名字。" + HAN,
    ]
    assert leaks(rules, *texts) == []


def test_a_long_question_alone_is_a_leak(tmp_path):
    """Twenty words in a row are nobody's chance."""
    question = "A baker sells three kinds of bread and keeps a ledger of every loaf; on which day of the week did she sell more rye than wheat, if the totals differ by nine?"  # noqa: E501
    rules = CleanRules(evaluation=(str(write(tmp_path / "long.jsonl", [{"question": question, "answer": "Friday"}])),))
    assert leaks(rules, PROSE, f"{PROSE}\n{question}\n{PROSE}") == [1]


def test_the_share_is_a_setting(rules):
    """Who wants nothing but whole copies can say so."""
    half = MARS["question"][:52] + "?\n" + "\n".join(MARS["choices"])
    assert leaks(rules.replace(leak_share=0.5), f"{PROSE}\n{half}") == [0]
    assert leaks(rules.replace(leak_share=0.99), f"{PROSE}\n{half}") == []


def test_other_shapes_of_evaluation_files_are_read(tmp_path):
    """Hub files of multiple choice, conversations, documents and unknown objects; compressed or not."""
    letter = "请把第七封信抄写两遍，然后寄给南山的姑妈"
    done = "好的，第七封信已经抄写两遍并且寄出"
    quinces = "Quinces ripen late; the gardener wraps each of them in paper and lays them on straw in the loft until"
    manual = "说明书第十二页写着：先拧紧左边的螺丝，再放下右边的挡板，最后打开水阀等待三分钟，看到绿灯亮起才可离开。"
    turns = [("system", "s"), ("user", letter), ("assistant", done)]
    rows = [
        {"question": MARS["question"], "choices": {"text": MARS["choices"], "label": list("ABCD")}, "answerKey": "B"},
        {"conversations": [{"role": role, "content": said} for role, said in turns]},
        {"text": f"{quinces} the first warm days of March."},
        {"stem": manual},
    ]
    rules = CleanRules(evaluation=(str(write(tmp_path / "sets.jsonl.gz", rows)),))
    texts = [
        f"{PROSE}\n{lettered(MARS)}",
        f"用户：{letter}\n助手：{done}",
        f"{PROSE}{quinces} the first warm days of March.",
        HAN + manual,
    ]
    assert leaks(rules, *texts, PROSE, HAN) == [0, 1, 2, 3]


def test_a_text_is_judged_alone(rules):
    """What stands beside it in a batch must not matter, or workers would disagree."""
    texts = [PROSE, lettered(MARS), "", "A", lettered(CANAL), HAN, MARS["question"][:40], MARS["question"][40:]]
    together = find_leaks(Texts(texts), rules)
    for index, text in enumerate(texts):
        assert find_leaks(Texts([text]), rules).get(0) == together.get(index)


def test_without_files_nothing_is_done():
    """The default has no evaluation sets and must cost nothing."""
    texts = Texts([lettered(MARS)])
    assert find_leaks(texts, CleanRules()) == {}
    assert "codes" not in vars(texts)


def test_a_changed_file_is_read_again(tmp_path):
    """The index is kept, but not beyond the file it was made of."""
    path = write(tmp_path / "quiz.jsonl", [MARS])
    rules = CleanRules(evaluation=(str(path),))
    assert leaks(rules, lettered(MARS), lettered(CANAL)) == [0]
    write(path, [CANAL])
    assert leaks(rules, lettered(MARS), lettered(CANAL)) == [1]


def test_digests_name_the_bytes(tmp_path):
    """The fingerprint of cleaning must change with the questions, not with the folder they lie in."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    names = [str(write(tmp_path / folder / "quiz.jsonl", [item])) for folder, item in (("a", MARS), ("b", CANAL))]
    both = evaluation_digests(CleanRules(evaluation=tuple(names)))
    assert list(both) == ["quiz.jsonl", "quiz.jsonl (2)"]
    assert len(set(both.values())) == 2 and all(len(digest) == 64 for digest in both.values())
    assert evaluation_digests(CleanRules(evaluation=tuple(names), contamination=False)) == {}


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, MissingError, "no such file"),
        (b"", DataError, "no questions"),
        (b'{"question": "Q"}\nnot json\n', DataError, "bad.jsonl:2"),
        (b'["a list"]\n', DataError, "bad.jsonl:1"),
        (b'{"id": "x", "answer": 3}\n', DataError, "has no question"),
        ("{}".encode("utf-16"), DataError, "UTF-8"),
    ],
)
def test_wrong_files_are_named(tmp_path, content, error, says):
    """Nobody should train for a day against a misspelt evaluation set."""
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=says):
        find_leaks(Texts(["some text"]), CleanRules(evaluation=(str(path),)))


def test_half_an_archive_and_a_folder_are_named(tmp_path):
    """A download that broke off looks like a file."""
    whole = gzip.compress(json.dumps(MARS).encode() * 50)
    (tmp_path / "half.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole gzip"):
        find_leaks(Texts(["some text"]), CleanRules(evaluation=(str(tmp_path / "half.jsonl.gz"),)))
    with pytest.raises(DataError, match="not a file"):
        find_leaks(Texts(["some text"]), CleanRules(evaluation=(str(tmp_path),)))


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=60), max_size=6))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_no_text_breaks_it(rules, texts):
    """Lone surrogates, NUL, marks without a letter, emptiness: rows are what they are."""
    assert find_leaks(Texts(texts), rules) == {}
    assert leaks(rules, *texts, lettered(MARS)) == [len(texts)]


def test_a_question_to_the_letter_is_a_leak_from_ten_words_on(tmp_path):
    """Written for the set, it stands nowhere else; with its answer a shorter one is enough, a quoted context is not."""
    ten = {"question": "Which element of tobacco smoke is responsible for most cancers?", "choices": ["Tar", "Ash"]}
    six = {"question": "《霓裳羽衣舞》是哪一时期的宫廷乐舞", "choices": ["唐", "宋"], "answer": 0}
    line = {"context": "高才萬夫敵，餘事十全醫，回首江山遠，無人問舊時。", "choices": ["乙", "甲"], "answer": 0}
    rules = CleanRules(evaluation=(str(write(tmp_path / "set.jsonl", [ten, six, line])),))
    texts = [PROSE + ten["question"], HAN + six["question"] + "\n答：唐", HAN + six["question"], HAN + line["context"]]
    assert sorted(find_leaks(Texts(texts), rules)) == [0, 1]


def test_slips_and_choices_in_front_and_escapes_hide_nothing(rules):
    """Two slips in a short line take most of its runs; a dump of JSON may write Chinese characters as escapes."""
    slips = "老人把的挂在船头，慢慢地向河在摇去。他要去对岸接迟归的孙女。"
    front = "选项：" + "；".join(MARS["choices"]) + "。题目：" + MARS["question"][:60]
    assert sorted(find_leaks(Texts([slips, front, json.dumps(CANAL), json.dumps(HAN)]), rules)) == [0, 1, 2]


@given(st.text("ab 京", min_size=1, max_size=40), st.text("ab 京", max_size=80))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_few_runs_and_many_are_counted_alike(part, text):
    """Runs are looked for in the text, or in the set of its runs: where that pays, it must not matter."""
    shares = set()
    with pytest.MonkeyPatch.context() as patch:
        for few in (0, 1000):
            patch.setattr(contamination, "FEW_RUNS", few)
            shares.add(contamination._share(part, text))
    assert len(shares) == 1


def test_what_is_in_the_index_passes_its_tables(tmp_path):
    """The tables that rule pieces out must rule out none that are there, or leaks are missed."""
    file = tmp_path / "set.jsonl"
    file.write_text("\n".join(json.dumps(item) for item in (MARS, CANAL, GENERIC)), encoding="utf-8")
    index = load_index((str(file),))
    texts = Texts(
        [MARS["question"], CANAL["question"], "The quick brown fox jumps over the lazy dog, again and again."]
    )
    every, chosen = pieces_of(texts), pieces_of(texts, index.may_be)
    there = set(index.hashes.tolist())
    assert there & set(every.hashes.tolist()) == there & set(chosen.hashes.tolist()) != set()
    assert len(chosen.hashes) < len(every.hashes)

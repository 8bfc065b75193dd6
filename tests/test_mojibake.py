"""Mojibake: what was read in the wrong encoding is read in the right one, and good text is not touched."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules import double_bytes, mojibake
from minimind.data.rules.mojibake import repair_unicode
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, Dropped, Texts

RULES = CleanRules()
SETTLED = settings(deadline=None, derandomize=True)
CHINESE = """梯度累积是把多个小批次的梯度相加，等到足够了再更新一次参数。这样显存不够的时候，也能用大的批次来训练。
“为什么要这样做？”他问。老师说：因为大的批次更稳定，损失的曲线不会来回跳动。"""
POEM = "《静夜思》李白\n床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。"
ENGLISH = """The café on the corner serves crème brûlée — “the best in town”, it says — for €5.
Zoë’s naïve brother ordered two, and a piñata for his fiancée’s birthday…"""
RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах."
JAPANESE = "文字化けとは、文字が正しく表示されないことです。カタカナもひらがなも読めなくなります。"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다."


def outcome(text: str) -> Changed | Dropped | None:
    return repair_unicode(Texts([text]), RULES).get(0)


def misread(text: str, wrong: str, errors: str = "strict", right: str = "utf-8") -> str:
    return text.encode(right).decode(wrong, errors)


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        *((text, wrong, "utf-8") for text in (CHINESE, ENGLISH, POEM) for wrong in ("latin-1", "sloppy-windows-1252")),
        (ENGLISH, "mac-roman", "utf-8"),
        (ENGLISH, "cp437", "utf-8"),
        (RUSSIAN, "cp1251", "utf-8"),
        (RUSSIAN, "latin-1", "utf-8"),
        (RUSSIAN, "gb18030", "utf-8"),
        ("It’s a nice day, and we don’t care.", "gb18030", "utf-8"),
        ("人工智能是一门新的科学，研究怎样使机器能做人的事", "gb18030", "utf-8"),
        (CHINESE, "latin-1", "gb18030"),
        (CHINESE, "sloppy-windows-1252", "gb18030"),
        (POEM, "latin-1", "gb18030"),
        ("月落烏啼霜滿天，江楓漁火對愁眠。姑蘇城外寒山寺，夜半鐘聲到客船。", "latin-1", "big5"),
        (JAPANESE, "latin-1", "cp932"),
        (JAPANESE, "latin-1", "euc_jp"),
        (KOREAN, "latin-1", "cp949"),
    ],
)
def test_damage_without_loss_is_undone(text: str, wrong: str, right: str):
    """The most common damage of web text, and the one thing that must not be learnt."""
    assert outcome(misread(text, wrong, right=right)) == Changed(text)


@pytest.mark.parametrize("wrong", ["latin-1", "sloppy-windows-1252"])
@pytest.mark.parametrize("text", [CHINESE, ENGLISH])
def test_double_damage_is_undone(text: str, wrong: str):
    """A page that was saved wrongly once is often saved wrongly twice."""
    assert outcome(misread(misread(text, wrong), wrong)) == Changed(text)


@pytest.mark.parametrize(
    ("text", "wrong", "errors"),
    [
        (CHINESE, "gbk", "replace"),
        (CHINESE, "gbk", "ignore"),
        (CHINESE, "big5hkscs", "ignore"),
        (CHINESE, "big5", "replace"),
        (CHINESE, "cp932", "replace"),
        (CHINESE, "cp949", "ignore"),
        (POEM, "gbk", "replace"),
        (JAPANESE, "cp932", "replace"),
        (CHINESE, "cp1252", "replace"),
        (CHINESE, "cp1252", "ignore"),
        (CHINESE, "ascii", "replace"),
    ],
)
def test_damage_with_loss_is_dropped(text: str, wrong: str, errors: str):
    """Where every other character is gone, what is left is no text."""
    found = outcome(misread(text * 2, wrong, errors))
    assert isinstance(found, Dropped) and found.reason in ("mojibake", "broken_characters")


def test_bytes_of_gbk_read_as_utf8_are_gone():
    """锟斤拷 is U+FFFD, damaged once more: nothing of the text is left in either."""
    lost = CHINESE.encode("gbk").decode("utf-8", "replace")
    assert isinstance(outcome(lost), Dropped)
    assert isinstance(outcome(misread(lost, "gbk", "replace")), Dropped)


def test_russian_read_as_latin_is_dropped():
    """Cyrillic of one byte is not put back; it must not stay either."""
    assert isinstance(outcome(misread(RUSSIAN, "latin-1", right="cp1251")), Dropped)


def test_only_damaged_lines_change():
    """One broken line in a document is no reason to touch the others."""
    good = ["Ａ full-width line, naïve", "‘quotes’", "“中文”，全角标点！"]
    for wrong, bad in (("latin-1", "naïve café"), ("gb18030", "北京大学图书馆的门口")):
        damaged = "\n".join([good[0], misread(bad, wrong), *good[1:]])
        assert outcome(damaged) == Changed("\n".join([good[0], bad, *good[1:]]))


def test_a_damaged_piece_of_a_good_line_is_repaired():
    """Templates mix encodings within a line."""
    good, bad = "标题：正常的文字，", "北京大学图书馆的门口"
    assert outcome(f"{good} {misread(bad, 'gb18030')} {good}") == Changed(f"{good} {bad} {good}")


def test_quotes_of_windows_are_not_stripped_as_controls():
    """Bytes 91 to 97 read as latin-1 are quotes and dashes; random C1 characters are left to `control`."""
    assert outcome("It\x92s \x93a good day\x94 \x96 and so on\x85") == Changed("It’s “a good day” – and so on…")
    assert outcome("It\x81 is\x8d a\x9d line\x83 with \x92 noise in it") is None


def test_few_lost_characters_stay_and_many_drop():
    """A book with one bad scan is a book; the limit is the user's."""
    text = CHINESE * 4
    assert outcome(text[:50] + "\ufffd" + text[50:]) is None
    found = outcome("\ufffd".join(text[at : at + 20] for at in range(0, len(text), 20)))
    assert isinstance(found, Dropped) and found.reason == "broken_characters"
    assert "max_broken_share is 0.005" in found.detail
    lenient = CleanRules(max_broken_share=0.2)
    assert repair_unicode(Texts(["\ufffd".join(text[:200])]), lenient).keys() == {0}
    assert repair_unicode(Texts([text[:50] + "\ufffd" * 3 + text[50:200]]), lenient) == {}


ABOUT = [
    "When UTF-8 is read as latin-1, é becomes Ã© and ’ becomes â€™. This is called mojibake. "
    + "To avoid it, say which encoding a file has when you open it, and do not rely on the locale. " * 4,
    "乱码的成因：用 GBK 打开 UTF-8 文件，会看到“鐨”这样的字；用 Latin-1 打开则会看到 ä¸­æ–‡ 这样的符号。"
    + "解决的办法是在打开文件的时候写明编码，不要依赖系统的默认值，也不要反复保存已经损坏的文件。" * 4,
    "“锟斤拷”是最有名的一个，另一个是“烫烫烫”。前者是替换字符两次转码的结果，后者是未初始化的内存。",
    "The replacement character “\ufffd” is shown where a decoder met bytes that it could not read.",
    "It prints the whole buffer, most of it empty:\n" + "\ufffd" * 30 + "\n" + "The rest is a request. " * 60,
]


@pytest.mark.parametrize("text", ABOUT, ids=range(len(ABOUT)))
def test_texts_about_encodings_keep_their_samples(text: str):
    """An article on mojibake that has none is useless."""
    assert outcome(text) is None


GOOD = [
    *(CHINESE, POEM, ENGLISH, RUSSIAN, JAPANESE, KOREAN),
    "« L’élève a été très étonné », dit-elle… « Où ça ? À Noël, peut-être ; l’œuvre coûte 3 € ! » CAFÉ À EMPORTER",
    "„Größe“ und „Übung“ – Straße, Maß, Fuß; ÄÖÜ äöü ß; 5 °C, ½ €, § 3, „naïve“ »Zitat«",
    "Zażółć gęślą jaźń. „Pchnąć w tę łódź jeża lub ośm skrzyń fig” – ĄĆĘŁŃÓŚŹŻ",
    "Příliš žluťoučký kůň úpěl ďábelské ódy. „Nechť již hříšné saxofony rozezvučí síň“",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul’da ığdır “şöyle” dedi…",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. «Ёлка» — её № 5, „Кавычки“…",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. «Η Ελλάδα» — ’Αλφα … ΆΈΉΊΌΎΏ",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "Kæmi ný öxi hér, ykist þjófum nú bæði víl og ádrepa. Þórður, Ægir, Öxi",
    "À noite, vovô Kowalsky vê o ímã cair no pé do pinguim. Não há ação: “coração” – SÃO JOÃO",
    "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε; ∫₀^∞ e^{−x²}dx = √π/2; ‖x‖ ≤ √n·‖x‖_∞ × ½ ± 2°",
    "┌──────┬──────┐\n│ name │ size │\n├──────┼──────┤\n│ café │ 3 µm │\n└──────┴──────┘",
    "ðə ˈkwɪk ˈbraʊn ˈfɒks ˈdʒʌmps ˈəʊvə ðə ˈleɪzi ˈdɒɡ",
    "àáâãäåæçèéêëìíîïðñòóôõö are letters of latin-1; ÀÁÂÃÄÅÆÇÈÉÊË their capitals.",
    "臺灣的「縺綣」難以釋懷，鈥元素與銩、鐿同屬鑭系；龘靐齉爩，岧峣岌嶪，嵚崟嵯峨。",
    "縺れた糸を解く。「繧繝錦」は織物の一種で、憂鬱な薔薇と檸檬。ｶﾀｶﾅ半角もある。",
    "Great 👍🏽 day ☀️ — café ☕ naïve ✨ “yes” 🇫🇷",
    "全角字符：ＡＢＣ，１２３！《书名》、“引号”……——·",
]


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_good_text_is_left_alone(text: str):
    """A repair that changes what is right does more harm than dirt."""
    assert outcome(text) is None


WRONG = ["latin-1", "sloppy-windows-1252", "mac-roman", "cp437", "cp1251", "gb18030", "big5", "cp932", "cp949"]
DAMAGED = st.text(
    st.one_of(
        st.sampled_from("中文字，“”é ü’Привет日本かな한국\n\x85\x92\ufffd€"), st.characters(exclude_categories=())
    )
)


@SETTLED
@given(DAMAGED, st.lists(st.tuples(st.sampled_from(WRONG), st.sampled_from(["replace", "ignore"])), max_size=2))
def test_repairs_are_idempotent_and_never_crash(text: str, damage: list[tuple[str, str]]):
    """Damaged text takes paths that random text hardly ever meets; cleaning clean data must be a no-op."""
    for wrong, errors in damage:
        text = text.encode("utf-8", "surrogatepass").decode(wrong, errors)
    found = outcome(text)
    if isinstance(found, Changed):
        assert found.text != text
        assert outcome(found.text) is None


@SETTLED
@given(st.lists(DAMAGED, max_size=4))
def test_a_text_is_judged_alone(texts: list[str]):
    """The output must not depend on how rows are cut into batches."""
    together = repair_unicode(Texts(texts), RULES)
    assert together == {i: found for i, text in enumerate(texts) if (found := outcome(text)) is not None}


PLAIN = re.compile(
    b"(?:[\xe1-\xef][\x80-\xbf]{2}){3}|(?:[\xc3-\xdf][\x80-\xbf]){6}"
    b"|\xe2\x80[\x90-\xa6]|\xe3\x80[\x80-\x91]|\xef\xbc[\x81-\x9f]"
)
UTF8 = [
    b"\xe4\xb8\x80",
    b"\xc3\xa9",
    b"\xd0\xbf",
    b"\xe2\x80\x90",
    b"\xe3\x80",
    b"\xef\xbc\x81",
    b"\xe0\x80\x80",
    b"\x80",
    b"\n",
]


@given(st.lists(st.one_of(st.sampled_from(UTF8), st.binary(max_size=2)), max_size=30).map(b"".join))
@SETTLED
def test_signs_of_utf8_are_found_as_in_the_plain_pattern(raw):
    """The pattern is arranged for speed; what it says of any bytes is what the plain one says."""
    assert double_bytes._UTF8_BYTES.findall(raw) == PLAIN.findall(raw)


@given(
    st.lists(
        st.sampled_from(["\ufffd", "\ufffd" * 3, "锟斤拷", "a", "字字字字字字字字", "“", "”", "("]), max_size=30
    ).map("".join)
)
@SETTLED
def test_runs_of_what_was_lost_count_for_four(text):
    """However the characters are counted: each run for four at most, unless a third of the text is gone."""
    said = mojibake._QUOTED_BROKEN.sub("", text)
    runs = [len(run) for run in re.findall("\ufffd+", said)]
    lost = sum(runs) if sum(runs) * 3 > len(said) else sum(min(run, 4) for run in runs)
    assert mojibake._broken(text) == lost + 2 * said.count("锟斤拷")

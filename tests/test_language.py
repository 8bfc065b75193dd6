"""Languages are told, and only a language that was not asked for is a reason to drop a text."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules import language
from minimind.data.rules.language import filter_languages, languages
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts

RULES = CleanRules()
ARTICLE_ONE = {
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos, dotados como están de razón.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos, dotados de razão.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "ar": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميراً",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
}


@pytest.mark.parametrize("code", ARTICLE_ONE)
def test_the_declaration_of_human_rights_is_told(code):
    """One sentence is enough; those that were not asked for go, with the reason."""
    texts = Texts([ARTICLE_ONE[code]])
    assert languages(texts) == [code]
    dropped = filter_languages(texts, RULES)
    assert (0 in dropped) == (code not in ("zh", "en"))
    assert all(outcome == Dropped("other_language", f"{code}; languages are zh, en") for outcome in dropped.values())


@pytest.mark.parametrize(
    "text",
    [
        "子曰：學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？",
        "這個故事發生在很久以前的台灣，那時候人們都住在山上の小屋裡，日出而作，日入而息。",
        "佢哋今日去咗邊度呀？我唔知道喎，不如你打個電話問下佢啦。",
        "床前明月光，\n疑是地上霜。",
        "在 Python 中使用 `asyncio.create_task()` 创建任务，它 wraps a coroutine and schedules its execution soon。",
        ":meth:`str.format` 与 :class:`collections.OrderedDict` 自 3.7 起的变化见 :pep:`468` 一节",
    ],
)
def test_chinese_of_any_kind_is_chinese(text):
    """Classical, traditional with a の, Cantonese, a couplet, and documentation full of English names."""
    assert languages(Texts([text])) == ["zh"]


@pytest.mark.parametrize(
    "text",
    [
        "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:",
        "ROMEO:\nMeaning, to court'sy.\nMERCUTIO:\nThou hast most kindly hit it.",
        "HERE IS AN ANNOUNCEMENT: ALL THE SHOPS CLOSE EARLY TODAY BECAUSE OF HEAVY SNOW",
        "Tokyo (東京) and さようなら are words that the student should learn before travelling to Kyoto or Nagoya.",
        "Li Bai, Du Fu and Wang Wei are the poets whose names you find in this anthology of the Tang dynasty.",
        ".. function:: getattr(object, name)\n\n   Return the value of the named attribute of *object*.",
    ],
)
def test_english_of_any_kind_is_english(text):
    """Verse, a play, capitals, foreign words and names, documentation."""
    assert languages(Texts([text])) == ["en"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "Ni hao",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "for i in range(10):\n    print(i ** 2, end=sep)\n",
        "const sumar = (a, b) => a + b;\nexport default { data() { return { msg: 'hola' } } }\n" * 3,
        "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε, α+β=γ",
        "SELECT id, nombre FROM clientes WHERE total > 100 ORDER BY id;",
    ],
)
def test_what_has_no_language_stays(text):
    """Code, tables and formulas are training text in every language."""
    texts = Texts([text])
    assert languages(texts)[0] in ("und", "en")
    assert filter_languages(texts, RULES) == {}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```rust\nfn main() { run('hi'); }\n```\n\nEste programa imprime un saludo. Intente cambiar el texto.", "es"),
        ("// 一般的に、コメントはこのように書きます。\nlet x = 5;\n// 次の行は出力します。\nrun('{}', x);", "ja"),
        ("// 이는 [1]을 출력해야 합니다\nrun('{:?}', a);\n// 순서대로 출력합니다", "ko"),
    ],
)
def test_comments_between_code_are_judged_by_their_words(text, code):
    """Tutorials in other languages are mostly English keywords."""
    assert languages(Texts([text])) == [code]


def test_the_languages_to_keep_are_a_setting():
    """Another pair is a line in the spec; an empty list keeps everything."""
    texts = Texts(list(ARTICLE_ONE.values()))
    dropped = filter_languages(texts, RULES.replace(languages=("fr", "ja")))
    kept = [code for index, code in enumerate(ARTICLE_ONE) if index not in dropped]
    assert kept == ["fr", "ja"]
    assert filter_languages(texts, RULES.replace(languages=())) == {}


def test_languages_are_told_once_a_batch():
    """The report asks again; the answer is kept with the batch."""
    texts = Texts(list(ARTICLE_ONE.values()))
    assert languages(texts) is languages(texts)


def test_a_text_is_judged_alone():
    """What stands beside it in a batch must not matter."""
    texts = [*ARTICLE_ONE.values(), "", "12"]
    assert languages(Texts(texts)) == [languages(Texts([text]))[0] for text in texts]


def test_nothing_is_fetched(monkeypatch):
    """The model is the one inside the package: cleaning works without a network."""

    def refuse(*args, **kwargs):
        raise AssertionError("the language rule opened a socket")

    language._detector.cache_clear()
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert languages(Texts([ARTICLE_ONE["fr"]])) == ["fr"]


@given(st.text(st.characters(exclude_categories=()), max_size=200))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_no_text_breaks_it(text):
    """Lone surrogates, NUL and every script get a code, always the same one."""
    first = languages(Texts([text]))
    assert first == languages(Texts([text]))
    assert 2 <= len(first[0]) <= 3


def test_a_few_words_again_and_again_are_no_language():
    """Tables of test cases repeat the names of functions: the model takes `acos` for Portuguese."""
    table = "\n".join(f"acos00{n} acos 1e-{n} inf -> {n}.57 nan" for n in range(10, 60))
    assert filter_languages(Texts([table]), RULES) == {}


WORDS = (
    "the",
    "The",
    "of",
    "and",
    "casa",
    "NATO",
    "l’été",
    "x_1",
    "`a b`",
    "<b>",
    "](x)",
    "http://a.b",
    "the,",
    "(of",
    ".",
)


@given(st.lists(st.sampled_from(WORDS), max_size=40), st.sampled_from([" ", "\n", "\u3000", "—"]))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_a_quick_look_is_right(words, between):
    """Words that are common as they stand are enough: with the signs taken off there are no fewer, of no more."""
    text = between.join(words)
    plain = language._CODE.sub(" ", text)
    assert language._without_code(text) == plain
    assert not language._are_english(plain.split()) or language._are_english(language._WORD.findall(plain))

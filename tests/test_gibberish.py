"""Gibberish: noise of many kinds is found, languages, code and poems are not."""

import base64
import random
import string
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules.gibberish import find_gibberish, random_share
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts

RULES = CleanRules()
SETTLED = settings(deadline=None, derandomize=True)
PROSE = """It was a bright day in spring, and the clocks of the village had stopped one after the other. Nobody knew
why. The old man who used to wind them had gone to see his daughter by the sea, and those who stayed behind found
that they could live without knowing the hour. They rose with the sun, ate when they were hungry, and met in the
square when the shadows grew long. When he came back he wound the clocks again, and everybody was late for work."""
GB2312 = [bytes((row, cell)).decode("gb2312", "ignore") for row in range(0xB0, 0xF7) for cell in range(0xA1, 0xFF)]


def reason(text: str) -> str | None:
    outcome = find_gibberish(Texts([text]), RULES).get(0)
    assert outcome is None or isinstance(outcome, Dropped)
    return outcome.reason if outcome else None


def of(alphabet: str | list[str], length: int) -> Callable[[random.Random], str]:
    return lambda draw: "".join(draw.choices(alphabet, k=length))


def words(alphabet: str, count: int, shortest: int, longest: int) -> Callable[[random.Random], str]:
    return lambda draw: " ".join(
        "".join(draw.choices(alphabet, k=draw.randint(shortest, longest))) for _ in range(count)
    )


def dump(draw: random.Random) -> str:
    lines = (f"{16 * row:08x}  " + " ".join(f"{byte:02x}" for byte in draw.randbytes(16)) for row in range(20))
    return "\n".join(lines)


NOISE: dict[str, tuple[Callable[[random.Random], str], str, int]] = {
    # how it is made, what it is called, and in how many of 40 it must be seen
    "letters": (of(string.ascii_lowercase + "   ", 200), "random_letters", 39),
    "short letters": (of(string.ascii_lowercase + "  ", 60), "random_letters", 30),
    "words": (words(string.ascii_lowercase, 40, 2, 9), "random_letters", 39),
    "mixed case and digits": (words(string.ascii_letters + string.digits, 40, 4, 12), "random_letters", 39),
    "keys of one row": (words("asdfghjkl", 30, 3, 10), "random_letters", 39),
    "base64": (lambda draw: base64.b64encode(draw.randbytes(300)).decode(), "random_letters", 39),
    "base64 in lines": (lambda draw: base64.encodebytes(draw.randbytes(300)).decode(), "random_letters", 39),
    "base64 of prose": (
        lambda draw: base64.b64encode(PROSE[draw.randint(0, 99) :].encode()).decode(),
        "random_letters",
        39,
    ),
    "base32": (lambda draw: base64.b32encode(draw.randbytes(200)).decode(), "random_letters", 39),
    "printable": (of(string.printable[:94], 400), "random_letters", 37),
    "hex": (lambda draw: draw.randbytes(100).hex(), "hex_dump", 40),
    "hex dump": (dump, "hex_dump", 40),
    "symbols": (of(string.punctuation + "   ", 100), "symbol_soup", 39),
    "Han": (of([chr(code) for code in range(0x4E00, 0x9FA6)], 60), "random_han", 40),
    "Han of GB 2312": (of([char for char in GB2312 if char], 200), "random_han", 39),
    "Hangul": (of([chr(code) for code in range(0xAC00, 0xD7A4)], 100), "random_characters", 40),
    "private use": (of([chr(code) for code in range(0xE000, 0xF8FF)], 60), "random_characters", 40),
    "kana": (of([chr(code) for code in range(0x3041, 0x3094)], 200), "random_script", 39),
    "Cyrillic": (of([chr(code) for code in range(0x430, 0x450)] + [" "] * 5, 250), "random_script", 39),
    "Arabic": (of([chr(code) for code in range(0x621, 0x64B)] + [" "] * 5, 250), "random_script", 39),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_found(name: str):
    """Scraped text has keys, encoded files, broken fonts and filler between its pages."""
    make, expected, least = NOISE[name]
    found = [reason(make(random.Random(seed))) for seed in range(40)]
    assert found.count(expected) >= least, found


CLEAN = {
    "English": PROSE,
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt.",
    "Polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są rozumni.",
    "Czech": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler.",
    "Welsh": "Genir pawb yn rhydd ac yn gydradd â'i gilydd mewn urddas a hawliau. Fe'u cynysgaeddir â rheswm.",
    "Finnish": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki.",
    "Zulu": "Bonke abantu bazalwa bekhululekile belingana ngesithunzi nangamalungelo. Bahlanganiswe wumcabango.",
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "pinyin": "chuang qian ming yue guang, yi shi di shang shuang. ju tou wang ming yue, di tou si gu xiang.",
    "Russian": "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью. "
    * 2,
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。憂鬱な薔薇。" * 4,
    "poem": "《曉》徐夤\n水盡銅龍滴漸微，景陽鍾動夢魂飛。\n潼關雞唱促歸騎，金殿燭殘求御衣。",
    "rhyme-prose": "若夫山林之隈，嵚崟嵯峨，巉岩崷崒，岧峣岌嶪；水则泓汯浤漷，潺湲滂濞，汹涌澎湃，滭浡滵汨。",
    "herbs": "黄芪、党参、白术、茯苓、当归、川芎、熟地黄、白芍、柴胡、黄芩、半夏、陈皮、甘草、桂枝、麻黄、杏仁",
    "surnames": "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜戚谢邹喻柏水窦章云苏潘葛奚范彭郎",
    "commands": "ls cp mv rm chmod chown mkdir rmdir grep awk sed cat tar gzip bzip2 ssh scp rsync wget curl ping",
    "C library": "strlen strcpy strncpy strcmp strcat strchr strstr strtok memcpy memmove memset printf fprintf",
    "assembler": "push rbp\nmov rbp, rsp\nsub rsp, 0x20\nmov DWORD PTR [rbp-0x14], edi\ncall printf",
    "acronyms": "HTML, CSS, XML, JSON, YAML, SQL, HTTP, HTTPS, TCP/IP, UDP, DNS, DHCP, SMTP, FTP, SSH, SSL, TLS, PNG",
    "chess": "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7 6. Re1 b5 7. Bb3 d6 8. c3 O-O 9. h3 Nb8 10. d4 Nbd7",
    "LaTeX": r"\begin{align} \nabla \times \vec{B} &= \mu_0 \vec{J} \\ \sum_{n=1}^{\infty} \frac{1}{n^2} &= \zeta(2)",
    "regex": r"^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}$ or ^[\w.+-]+@[\w-]+\.[\w.-]+$ or (?<!\d)\d{4}-\d\d",
    "minified": '!function(e,t){"object"==typeof exports&&"undefined"!=typeof module?module.exports=t():e.Vue=t()};'
    * 2,
    "Perl": '$_="@{[map{chr ord($_)^32}split//,$x]}";s/(\\w+)/\\u$1/g;print for sort{$a<=>$b}keys%h;@a=grep{!/^#/}@b;',
    "addresses": "\n".join(
        f"https://video.example/watch?v=dQw4w9WgXcQ{n}&list=PLrEnWoR732-BHrPp_Pm8" for n in range(9)
    ),
    "table": "| id | qty | sku |\n|----|-----|-----|\n| 1 | 12 | XK-22 |\n| 2 | 7 | ZQ-91 |\n| 3 | 44 | WV-07 |\n" * 3,
    "numbers": "\n".join(f"{n} {n * n} {n**3} {n**5}" for n in range(1, 40)),
    "brackets": '{"a":[1,2,{"b":null}],"c":{"d":true,"e":"x"},"f":[[],[],{}],"g":[[1,2],[3,4]],"h":{"i":{"j":[]}}}' * 2,
    "drawing": "  ____  _   _ \n / ___|| | | |\n| |    | |_| |\n| |___ |  _  |\n \\____||_| |_|\n   /\\_/\\" * 2,
    "emoji": "Great 👍🏽 day ☀️ for a family 👨‍👩‍👧‍👦 at the sea 🏖️ with می‌خواهم and so on",
}


@pytest.mark.parametrize("name", CLEAN)
def test_languages_code_and_poems_stay(name: str):
    """A rule that knows English words would drop most of the world and all of the code."""
    assert reason(CLEAN[name]) is None


def test_a_key_in_a_document_is_no_reason_to_drop_it():
    """Documentation shows keys, hashes and encoded data; it is dropped only when it is hardly anything else."""
    key = base64.b64encode(random.Random(1).randbytes(200)).decode()
    assert reason(f"{PROSE}\n\n{key}\n\n{PROSE}") is None
    assert reason(f"{PROSE[:60]}\n\n{key * 3}") == "random_letters"


def test_addresses_do_not_decide():
    """Pages that link to a playground carry all their code in the address, longer than the page."""
    code = base64.b64encode(random.Random(2).randbytes(900)).decode()
    assert reason(f"在演练场中查看[示例](https://play.example/#{code})，然后把它改成你想要的样子。") is None


def test_the_share_of_a_text_that_is_random():
    """Half and half is about a half, by the letters of the text and not by its vocabulary."""
    noise = "".join(random.Random(3).choices(string.ascii_lowercase + "  ", k=3 * len(PROSE)))
    assert random_share(PROSE)[0] == 0
    assert random_share(noise)[0] > 0.9
    assert 0.4 < random_share(f"{PROSE} {PROSE} {PROSE} {noise}")[0] < 0.7
    assert random_share("too few")[0] == 0


@SETTLED
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=150), max_size=5))
def test_any_text_is_judged_alone(texts: list[str]):
    """No crash on any Unicode, and no verdict that depends on the other texts of a batch."""
    together = find_gibberish(Texts(texts), RULES)
    assert together == {i: found[0] for i, text in enumerate(texts) if (found := find_gibberish(Texts([text]), RULES))}
    assert all(isinstance(found, Dropped) and found.detail for found in together.values())

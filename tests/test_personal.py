"""What belongs to somebody is masked wherever it stands; what is public, or only looks like it, stays."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules import personal_mail, personal_numbers
from minimind.data.rules.personal import mask_personal
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Texts

RULES = CleanRules()


def masked(text: str, rules: CleanRules = RULES) -> str:
    changed = mask_personal(Texts([text]), rules).get(0)
    assert changed is None or changed.text != text
    return changed.text if changed else text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("联系邮箱wang.fang88@corp-mail.cn谢谢", "联系邮箱[EMAIL]谢谢"),
        ("请发邮件到ｗａｎｇ＠corp.cn，或wang＠corp.cn。", "请发邮件到[EMAIL]，或[EMAIL]。"),
        ("Write to j.o'neil+shop@mail.example-corp.co.uk.", "Write to [EMAIL]."),
        ("<a href=\"mailto:ana@correo.test\">ana@correo.test</a>", "<a href=\"mailto:[EMAIL]\">[EMAIL]</a>"),
        ("Reach me: maria (at) gmail (dot) com!", "Reach me: [EMAIL]!"),
        ("邮箱liu@qq.com13812345678", "邮箱[EMAIL][PHONE]"),
        ("手机13812345678，座机010-82345678", "手机[PHONE]，座机[PHONE]"),
        ("电话：+86 138 1234 5678 或 0086-13812345678 或138-1234-5678", "电话：[PHONE] 或 [PHONE] 或[PHONE]"),
        ("我的号码是１３８１２３４５６７８。", "我的号码是[PHONE]。"),
        ("13812345678/13912345678,18612345678", "[PHONE]/[PHONE],[PHONE]"),
        ("客服400-810-1234，总机（010）82345678转8001", "客服[PHONE]，总机[PHONE]转8001"),
        ("Call (415) 555-2671, 415-555-2671 or +1 415.555.2671.", "Call [PHONE], [PHONE] or [PHONE]."),
        ("London +44 20 7946 0958, Paris +33 1 23 45 67 89", "London [PHONE], Paris [PHONE]"),
        ("mobile 07700 900123; tel: 4155552671", "mobile [PHONE]; tel: [PHONE]"),
        ("身份证号11010119900307001X已登记", "身份证号[ID]已登记"),
        ("她的SSN是123-45-6789", "她的SSN是[ID]"),
        ("护照号：E12345678", "护照号：[ID]"),
        ("卡号4111 1111 1111 1111或378282246310005", "卡号[CARD]或[CARD]"),
        ("pay to GB29 NWBK 6016 1331 9268 19 now", "pay to [ID] now"),
        ("IBAN DE89370400440532013000", "IBAN [ID]"),
        ("连接93.184.216.34:8080失败", "连接[IP]:8080失败"),
        ("http://93.184.216.34/x from 2a02:8108::1, 2607:f8b0:4005:805::200e", "http://[IP]/x from [IP], [IP]"),
        ("OPENAI_API_KEY=sk-abcDEF1234567890ghiJKLmn", "OPENAI_API_KEY=[KEY]"),
        ("AKIAQ3EGRTYU8FLNWXYZ ghp_16C7e42F292c6912E7710c838347Ae178B4a", "[KEY] [KEY]"),
        ("密码：Qw3rTy78zX，password: hunter2Xy9!q", "密码：[KEY]，password: [KEY]"),
        ("postgres://app:s3cr3tPassw0rd9@db.corp.com/x", "postgres://app:[KEY]@db.corp.com/x"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq6Zk1x\n-----END RSA PRIVATE KEY-----\n",
            "[KEY]\n",
        ),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "[KEY]"),
    ],
)  # fmt: skip
def test_what_belongs_to_somebody_is_masked(before, after):
    """Chinese text has no spaces, English has them, and both have full stops behind."""
    assert masked(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "UUID 550e8400-e29b-41d4-a716-446655440000, sha1 9c1185a5c5e9fc54612808977ee8f548b2258d31",
        "ISBN 978-7-111-12345-6，ISBN 9787111123456，订单号2023120112345678901",
        "2^34 = 17179869184, 3.14159265358979, 0x13812345678, n=13812345678, 1,381,234,567",
        "1700000000 1700000000000 2023-12-01 10:11:12.123456 20231201101112 2023/12/01",
        "营收13800000000元，文件大小13812345678字节",
        "version 1.2.3.4, v10.20.30.40, python-2.40.3.77, Chrome/91.0.77.124, 第3.2.1.4节, 1.3.6.1.4.1.311",
        "127.0.0.1 10.1.2.3 172.16.0.9 192.168.1.1 169.254.7.7 0.0.0.0 255.255.255.0 203.0.113.9 198.51.100.7",
        "::1 fe80::1 2001:db8::8a2e std::vector 12:34:56 2001:db00::/24",
        "8.8.8.8 is a name server; 93.184.216.0/24 a network",
        "rand@0.10.1 logo@2x.png getty@tty1.service @vue/compiler @app.route a@b.T A@B.dot(c) <a @click.stop=x>",
        "yield\n@types.coroutine\ndef gen(): ...",
        "git@github.com:user/repo.git, ssh root@db1.corp.com, ssh://hg@hg.python.org/cpython",
        "https://mail.python.org/archives/list/someone@python.org/thread/",
        "password = getpass.getpass()\ntoken: str\nsecret = 'changeme'\napi_key=os.environ['API_KEY']",
        "密码：请输入密码",
        "password: xxxxxxxx1A, api_key = YOUR_API_KEY_HERE_1, token = sha256_crypt",
        "call 110 or 10086, room 1203-4567, pages 123-456-789, 4-4-2",
        "身份证号110101199013070010，卡片4111 1111 1111 1112",
        "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
        "sk-circle-fade-dot-container sk-learn-contrib-package-name",
        "杜甫，字子美，自号少陵野老。公元七一二年生。",
    ],
)
def test_what_only_looks_like_it_stays(text):
    """Identifiers, amounts, versions, code, reserved networks and placeholders are what texts are made of."""
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Author: Barry Warsaw <barry@corp.org>, Eric V. Smith <eric@corp.com>\nStatus: Final",
        "Author: Victor S <victor@corp.org>,\n        Cory B <cory@lukasa.co.uk>,\nBDFL-Delegate: B P <bp@corp.org>",
        "PEP-Delegate: Paul M <p@corp.com>\nDiscussions-To: doc@corp.org\nSigned-off-by: A B <ab@corp.io>",
        "作者\n\nA.M. K <amk@corp.ca>\n\n摘要",
        " * Copyright (c) 2001 Jane Roe <jane@corp.net>",
        "Mail security@corp.io, docs@python.org, python-list@python.org or distutils-sig@python.org.",
        "From: Foo Bar <user@example.com>\nTo: other@example.org",
        'email: "someone@example.com",  # for example user@example.net',
        "The boss's address is boss@example.com, so send it there. 邮箱是li@example.org。",
    ],
)
def test_public_addresses_stay(text):
    """Who wrote a work, an office, a list, and addresses of nobody."""
    assert masked(text) == text


def test_bylines_can_be_masked_too():
    """Who publishes a model may not want any address in it."""
    rules = RULES.replace(personal_bylines=True)
    text = "Author: Barry Warsaw <barry@corp.org>\nMail security@corp.io, not user <user@example.com>."
    assert masked(text) == text
    assert masked(text, rules) == "Author: Barry Warsaw <[EMAIL]>\nMail [EMAIL], not user <user@example.com>."


@pytest.mark.parametrize(
    "text",
    [
        "contact: li.na@corp.org",
        "(li.na@corp.org",
        "From: Li Na <li.na@corp.org>",
        "Author: me\nSome prose in between.\nLi Na <li.na@corp.org>",
        "联系方式：li.na@example.com",
    ],
)
def test_an_address_elsewhere_is_no_byline(text):
    """A head of a letter, a contact line, a signature; not even example.com saves an address given as somebody's."""
    assert "[EMAIL]" in masked(text)


def test_checksums_decide_what_a_number_is():
    """Of 18 or 16 digits one in ten has the right check digit; the others are numbers of something else."""
    stem = "44030519860122877"
    kept = [digit for digit in "0123456789X" if masked(f"编号{stem}{digit}。") == f"编号{stem}{digit}。"]
    assert len(kept) == 10
    cards = [f"453957804{digit}021337" for digit in "0123456789"]
    assert sum(masked(f"编号{card}。") == "编号[CARD]。" for card in cards) == 1


def test_a_label_says_what_a_number_is():
    """Behind a label nothing has to be proved."""
    assert masked("身份证：440305198601228770") == "身份证：[ID]"
    assert masked("身份证号：110101900307001") == "身份证号：[ID]"
    assert masked("银行卡号 6222021234567890123") == "银行卡号 [CARD]"
    assert masked("phone number: 12345678") == "phone number: [PHONE]"
    assert masked("server address: 3.4.5.6") == "server address: [IP]"


def test_a_text_is_judged_alone():
    """What stands beside it in a batch must not matter."""
    texts = ["tel 138", "12345678", "", "a@b", ".com", "sk-abcDEF1234567890ghiJKLmn", "13812345678", "+"]
    together = mask_personal(Texts(texts), RULES)
    assert sorted(together) == [5, 6]
    for index, text in enumerate(texts):
        assert mask_personal(Texts([text]), RULES).get(0) == together.get(index)


def test_a_long_row_of_one_thing_is_read_once():
    """Patterns that look again and again at the same characters would never come to the end of these."""
    for piece in ("@", "a@", "1 ", "1.", "-", "(at)", "<a@b.c>,\n", "password:", "sk-", "2001:", "x" * 64 + "@"):
        text = piece * (20_000 // len(piece))
        assert masked(masked(text)) == masked(text)
    for piece, mask in (("13812345678 ", "[PHONE] "), ("li@corp.cn ", "[EMAIL] "), ("13812345678/", "[PHONE]/")):
        assert masked(piece * 2_000) == mask * 2_000


PIECES = st.sampled_from(
    ["li.na@corp.cn", "13812345678", "+86 ", "(415) 555-2671", "４４０３０５", "11010119900307001X", "4111111111111111",
     "93.184.216.34", "sk-abcDEF1234567890ghiJKLmn", "password: ", "Qw3rTy78zX", "://", "@", "＠", "-", ".", " ", "\n",
     "联系方式：", "Author: X <", ">", "(at)", "GB29 NWBK 6016 1331 9268 19", "1", "a", "\ud800", "\x00", ":", "2001:"]
)  # fmt: skip


@given(st.lists(PIECES | st.text(st.characters(exclude_categories=()), max_size=4), max_size=12).map("".join))
@settings(deadline=None, derandomize=True, max_examples=400)
def test_a_masked_text_has_nothing_left_to_mask(text):
    """Whatever stands side by side, cleaning twice is cleaning once, and nothing breaks it."""
    once = masked(text)
    assert masked(once) == once


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("**13812345678**，**010-82345678**", "**[PHONE]**，**[PHONE]**"),
        ("**93.184.216.34** ** 415-555-2671**", "**[IP]** ** [PHONE]**"),
        ("user=320102197606193463 ip=2a02:8108::7 from=138-1234-5678", "user=[ID] ip=[IP] from=[PHONE]"),
        ("QQ：907607222，加QQ群：12345678，Telefon: 030 3904631", "QQ：[ID]，加QQ群：[ID]，Telefon: [PHONE]"),
        ("call us on 07817 545870", "call us on [PHONE]"),
        ("hf_QmWnEbRvTcYxUzIaOsPdLfKgJhHjGkFlDqZw", "[KEY]"),
        ("SG.7Bw5UdzxtT05wFOYZPoHLf.ZMHMafuxa6Vt75D4u5YZBCb8LWxWY2TnEV1", "[KEY]"),
        ("bot 773462523:AATZlEyJ-OHbmx3dtsE7rUkHCI1rrBGwd75 says", "bot [KEY] says"),
        ("gsk_v66ZEeHpzHvUttGVnS4KN53n0eBU2h50eFCPRcVqhW7DSs7b", "[KEY]"),
        ("Authorization: Bearer hQiZB9rdRLNF7AvQMQ5uatE1uLP9IkaZ", "Authorization: Bearer [KEY]"),
        (
            "https://hooks.chat.com/services/T67RN24LB/B1/XoFxN6IvfMK2fhP3JY3aCFeE",
            "https://hooks.chat.com/services/T67RN24LB/B1/[KEY]",
        ),
        ("AccountKey=6b07PICiUq/v8gecrJAahG1bM5EV/RTWizKp+OY8S==", "AccountKey=[KEY]"),
        ('db_password = "XONLt$aVsMa"', 'db_password = "[KEY]"'),
        ("postgres://app:wHugvTSNkUBG@db.corp.com/x", "postgres://app:[KEY]@db.corp.com/x"),
    ],
)
def test_logs_bold_type_and_keys_without_digits_hide_nothing(before, after):
    """What a label, a sign of markup or a maker's prefix sets off is no part of a longer word."""
    assert masked(before) == after


@pytest.mark.parametrize(
    "text",
    [
        '"IdempotencyToken": "527c5358-2a1a-4b9e-b1b9-7293b0ddff42"',
        "oss/watermark,type_ZmFuZ3poZW5naGVpdGk,text_aHR0cHM6Ly9ibG9nLmNzZG4ubmV0L3FxXzM0MzM3Mjcy,size_16",
        "2**13812345678 x = 2 **13812345678",
        "password = MyPassWord\ntoken = iPhoneAppUser\nsecret=$SECRET_From_Env",
        "const getInternalSlotOrThrowIfMissingFromTheObject = com_sunXmlInternalBindMarshallerFactory",
        "dotted-quad string format (for example, '123.45.67.89')",
        "yourname@yourdomain.com your.email@company.com user@domain.com foo@bar.com",
        "# (c) 2010, Jane Roe <jane@corp.net>",
        '.\\" Copyright 1993 by Jane Roe (jane@rz.corp.de)\n',
        "jane Roe <jane@corp.net>, 1996.\n -- Jane Roe <jane@corp.org>  Sun, 31 Oct 2021",
        'authors = [{name = "Jane Roe", email = "jane@corp.org"}]',
        "=head1 AUTHOR\n\nJane Roe <jane@corp.net>",
    ],
)
def test_placeholders_notices_and_names_of_programs_stay(text):
    """Who made a file says so in many forms; a long name in a program is no key, and a UUID no secret."""
    assert masked(text) == text


NUMBERS = ("+", "(", "（", ")", "-", " ", ".", "=", "A", "E1", "0", "1", "86", "010", "138", "1234", "4155", "12345678")
SIGNS = (
    *NUMBERS,
    "@",
    "jane.roe",
    "mail.org",
    "tel ",
    "电话：",
    "卡号",
    "QQ",
    "护照",
    "4111111111111111",
    "GB82 WEST",
    "\x01",
)


@given(st.lists(st.sampled_from(SIGNS), max_size=12).map("".join))
@settings(deadline=None, derandomize=True, max_examples=500)
def test_a_quick_look_hides_nothing(text):
    """What is turned away before its patterns are tried would not have been masked by them either."""
    with pytest.MonkeyPatch.context() as patch:
        for module, gate in (
            (personal_numbers, "_LONG"),
            (personal_numbers, "_SIX_DIGITS"),
            (personal_mail, "_LOCAL_END"),
        ):
            patch.setattr(module, gate, re.compile(""))
        slowly = masked(text)
    assert masked(text) == slowly


@pytest.mark.parametrize("label", ["to\u212aen", "api key", "PASSWORD '", "passcode**", "密码 ", "Pwd"])
def test_a_label_is_found_however_it_is_written(label):
    """Only signs behind the last letters of a label are looked at: capitals, quotes and odd letters are among them."""
    assert masked(f"x {label}: aB3xY9kQ2z") == f"x {label}: [KEY]"


@pytest.mark.parametrize("before", ["", "see page 1", "abcd", "key:", "a@", "13"])
def test_what_stands_before_in_the_batch_does_not_matter(before: str):
    """Texts lie end to end in a batch; a number or key at a text's beginning is not the end of the one before."""
    texts = ["13812345678 is my phone", "AKIAIOSFODNN7EXAMPLE", "8.8.4.4 and 2001:4860:4860::8888"]
    for text in texts:
        alone = mask_personal(Texts([text]), CleanRules()).get(0)
        assert alone is not None
        assert mask_personal(Texts([before, text, before]), CleanRules()).get(1) == alone


def test_a_block_of_a_private_key_is_masked():
    """PGP writes PRIVATE KEY BLOCK where others end with KEY."""
    body = "lQOYBF" + "abcd1234" * 20
    text = f"x\n-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{body}\n-----END PGP PRIVATE KEY BLOCK-----\ny\n"
    changed = mask_personal(Texts([text]), CleanRules())[0]
    assert body not in changed.text

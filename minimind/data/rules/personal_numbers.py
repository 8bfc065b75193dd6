"""Telephone, identity, card and account numbers in a text.

A number is masked for what it proves (checksums of identity cards, bank cards and IBAN; dates; numbering plans) or
for what the text calls it (电话, tel, 身份证, 卡号). A bare run of digits is not personal: identifiers in code,
amounts, dates, ISBN, hashes and timestamps stay.
Chinese text has no spaces, so a Chinese character is a border; a Latin letter or a digit beside a number is none.

Not here: national formats outside China and North America that are written without + and without a label.
"""

import re
from collections.abc import Callable
from datetime import date

Span = tuple[int, int, str]
"""Where it begins, where it ends, and its mask."""


def number_at(text: str, start: int) -> Span | None:
    """The personal number whose first digit is at `start`; the span may begin before (`+`, `(`) it."""
    if _LONG.match(text, start):
        for find in (_identity, _card, _account):
            if span := find(text, start):
                return span
    return _phone(text, start)


def iban_near(text: str, start: int) -> Span | None:
    """An IBAN that has the run of digits at `start` among its first three parts."""
    before = text[max(0, start - 14) : start]
    if before == before.lower():
        return None
    for head in _IBAN.finditer(text, max(0, start - 14), start + 4):
        length = _IBAN_LENGTHS.get(head[0][:2], 0)
        rest = re.match(rf"(?:[ -]?[A-Z0-9]){{{max(0, length - 4)}}}(?![A-Za-z0-9])", text[head.end() : start + 60])
        if rest is None or not length:
            continue
        packed = "".join(filter(str.isalnum, rest[0] + head[0]))
        if int("".join(str(int(char, 36)) for char in packed)) % 97 == 1:
            return head.start(), head.end() + rest.end(), "[ID]"
    return None


LABEL_END = r"(?:\.?\s?(?:no|nr|num|number|is|at|on|us|me|号码|号|为|是))*\Z"
_PHONE_LABEL = re.compile(
    r"(?:\b(?:tel|telefon|telephone|phone|mobile|cell|cellphone|call|fax|whatsapp|contact|sms)|"
    r"电话|手机|联系方式|联系人?|致电|拨打|热线|传真|短信|微信|咨询)" + LABEL_END,
    re.IGNORECASE,
)
_ID_LABEL = re.compile(r"(?:身份证|证件|公民身份|\bID(?: card)?|identity card|\bssn|social security)" + LABEL_END, re.I)
_PASSPORT_LABEL = re.compile(r"(?:护照|\bpassport)" + LABEL_END, re.IGNORECASE)
_CARD_LABEL = re.compile(
    r"(?:卡号|银行卡|信用卡|储蓄卡|账号|帐号|账户|\b(?:credit |debit |bank )?card|\baccount)" + LABEL_END, re.I
)
_COUNTED = re.compile(r"(?:元|美元|人民币|日元|人|个|次|亿|万|字节|年|%|％|\s?bytes?\b|\s?[numµ]?s\b|\s?[KMGT]i?B\b)")
_LABEL_REACH = 32
"""Characters before a number in which its label must begin."""


def called(label: re.Pattern[str], text: str, start: int) -> bool:
    before = text[max(0, start - _LABEL_REACH) : start].rstrip(_AFTER_LABEL)
    return before[-1:].isalpha() and label.search(before) is not None


_AFTER_LABEL = " \t\"'“”*`:：=#.()（）+"


def free_before(text: str, start: int, joints: str = ".-:/") -> bool:
    """Whether what stands before `start` does not make it the rest of something longer."""
    if start == 0:
        return True
    char = text[start - 1]
    if char == "*" and _BOLD.match(text, max(0, start - 3)):
        return True
    if char in "=*^%#$~\\&_" or (ord(char) < 0x250 and char.isalnum()):
        return False
    if char == "/" and text[max(0, start - 8) : start - 1].isdigit():
        return True  # one number after the other
    return not (char in joints and start > 1 and ord(text[start - 2]) < 0x250 and text[start - 2].isalnum())


_BOLD = re.compile(r"(?:\A|[^A-Za-z0-9*)\]]|(?=\*\*[^*]))\*\*[^*\n]{4,40}\*\*")
"""Bold in Markdown, which ends behind the number; a power does not."""


def _is_field(text: str, start: int) -> bool:
    """`user=…`, as logs write it. Bare digits there are mostly identifiers, what is set like a number is one."""
    return start > 1 and text[start - 1] == "=" and text[start - 2].isalpha()


def free_after(text: str, end: int) -> bool:
    char, after = text[end : end + 1], text[end + 1 : end + 2]
    if char and ((ord(char) < 0x250 and char.isalnum()) or char == "_"):
        return False
    return not (char and char in ".-:" and after.isascii() and (after.isdigit() or (char == "-" and after.isalnum())))


def _phone(text: str, start: int) -> Span | None:
    begin = start
    while begin and start - begin < 3 and text[begin - 1] in "+(（":
        begin -= 1
    if "+" not in text[begin:start] and not _SIX_DIGITS.match(text, start):
        return None
    for first in range(begin, start + 1):
        for pattern, judge in _PHONES:
            match = pattern.match(text, first)
            if match and free_after(text, match.end()) and not _NO_NUMBER.search(match[0]):
                is_free = free_before(text, first) or (not match[0].isdigit() and _is_field(text, first))
                is_clear = is_free and judge(match[0], text, match.end())
                if is_clear or called(_PHONE_LABEL, text, first):
                    return first, match.end(), "[PHONE]"
        if called(_PHONE_LABEL, text, first):
            match = _ANY_PHONE.match(text, first)
            if match and free_after(text, match.end()) and not _NO_NUMBER.search(match[0]):
                return first, match.end(), "[PHONE]"
    return None


_SIX_DIGITS = re.compile(r"[0-9](?:[ .()（）-]{0,3}[0-9]){5}")
"""With what may stand between: the fewest that any telephone number has which does not begin with a +."""


def _is_chinese_mobile(written: str, text: str, end: int) -> bool:
    number = int("".join(filter(str.isdigit, written))[-11:])
    return number & (number - 1) != 0 and number % 100_000 != 0 and not _COUNTED.match(text, end)  # 2^34 is 17179869184


def _is_landline(written: str, text: str, end: int) -> bool:
    return any(char in written for char in " -)）") and not _COUNTED.match(text, end)


def _is_north_american(written: str, text: str, end: int) -> bool:
    return written.startswith(("(", "+", "1-", "1 (")) or (written[3] in "-." and written[3] == written[7])


def _is_international(written: str, text: str, end: int) -> bool:
    digits = "".join(filter(str.isdigit, written))
    longest = 13 if len(written) == len(digits) + 1 else 15  # E.164 has room for 15, no country uses them all
    return 9 <= len(digits) <= longest and not digits.endswith("00000") and not _COUNTED.match(text, end)


def _is_any(written: str, text: str, end: int) -> bool:
    return True


_PHONES: tuple[tuple[re.Pattern[str], Callable[[str, str, int], bool]], ...] = (
    (
        re.compile(
            r"[(（]?(?:(?:\+|00)?86[)）]?[ -]?)?1[3-9][0-9]"
            r"(?:[0-9]{8}|([ -])[0-9]{4}\1[0-9]{4}|[ -][0-9]{8}|[0-9]([ -])[0-9]{3}\2[0-9]{4})(?![0-9])"
        ),
        _is_chinese_mobile,
    ),
    (
        re.compile(
            r"(?:\+?1[ .-]?)?(?:\([0-9]{3}\) ?-?[0-9]{3}|[2-9][0-9]{2}[-. ][2-9][0-9]{2})[-. ][0-9]{4}(?![0-9])"
            r"(?: ?(?:x|ext\.?) ?[0-9]{1,6})?"
        ),
        _is_north_american,
    ),
    (
        re.compile(
            r"(?:(?:\+|00)86[ -]?)?[（(]?0?(?:10|2[0-9]|[3-9][0-9]{2})[)）]?[ -]?[1-9][0-9]{2,3}[ -]?[0-9]{4}(?![0-9])"
            r"(?:-[0-9]{1,6}(?![0-9]))?"
        ),
        lambda written, text, end: bool(_AREA.match(written)) and _is_landline(written, text, end),
    ),
    (re.compile(r"[48]00-(?:[0-9]{3}-?[0-9]{4}|[0-9]{4}-[0-9]{3})(?![0-9])"), _is_any),
    (re.compile(r"\+[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,12}\)?){1,6}(?![0-9])"), _is_international),
)
_ANY_PHONE = re.compile(r"[0-9(+](?:[ ()-]{0,2}[0-9]){6,14}(?![0-9])")
_NO_NUMBER = re.compile(r"^[12][0-9]{3}([-/.])[01]?[0-9]\1[0-3]?[0-9]|([0-9])[ -]?(?:\2[ -]?){6}$")
"""A date, or a form's filler: 400-000-0000."""
_AREA = re.compile(r"(?:(?:\+|00)86|[（(]?0)")


def _identity(text: str, start: int) -> Span | None:
    if not (match := _RESIDENT.match(text, start)) or not free_after(text, match.end()):
        return _short_identity(text, start)
    region, born, rest = match.groups()
    digits = region + born + rest
    weighed = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(digits[:17]))
    is_checked = "10X98765432"[weighed % 11] == digits[17].upper()
    iscalled = called(_ID_LABEL, text, start)
    if (
        _REGION.match(region)
        and _is_date(born)
        and (iscalled or (is_checked and (_is_field(text, start) or free_before(text, start))))
    ):
        return start, match.end(), "[ID]"
    return None


def _short_identity(text: str, start: int) -> Span | None:
    """15 digits (Chinese, before 1999), a United States social security number, or a passport."""
    match = _RESIDENT_15.match(text, start)
    if match and called(_ID_LABEL, text, start) and _REGION.match(match[1]) and _is_date("19" + match[2]):
        return start, match.end(), "[ID]"
    match = _SOCIAL_SECURITY.match(text, start)
    if match and (called(_ID_LABEL, text, start) or free_before(text, start)) and free_after(text, match.end()):
        return start, match.end(), "[ID]"
    match = _PASSPORT.match(text, start - 1) if start else None
    if match and called(_PASSPORT_LABEL, text, start - 1):
        return start - 1, match.end(), "[ID]"
    return None


_RESIDENT = re.compile(r"([1-9][0-9]{5})[ -]?([12][0-9]{7})[ -]?([0-9]{3}[0-9Xx])(?![0-9])")
_RESIDENT_15 = re.compile(r"([1-9][0-9]{5})([0-9]{6})[0-9]{3}(?![0-9A-Za-z])")
_SOCIAL_SECURITY = re.compile(r"(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9])")
_PASSPORT = re.compile(r"[A-Z][A-Z0-9]?[0-9]{7,8}(?![0-9A-Za-z])")
_REGION = re.compile("1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]|91")
"""The first two digits of GB/T 2260: provinces, Hong Kong, Macao and Taiwan."""


def _is_date(digits: str) -> bool:
    try:
        return 1880 <= date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).year <= 2100
    except ValueError:
        return False


def _card(text: str, start: int) -> Span | None:
    match = _CARD.match(text, start)
    if match is None or not free_after(text, match.end()):
        return None
    digits = match[0].replace(" ", "").replace("-", "")
    is_called = called(_CARD_LABEL, text, start)
    if is_called and len(digits) >= 16:
        return start, match.end(), "[CARD]"
    is_power = int(digits) & (int(digits) - 1) == 0
    is_free = free_before(text, start) or (not match[0].isdigit() and _is_field(text, start))
    if (is_called or is_free) and _ISSUERS.fullmatch(digits) and _luhn(digits) and not is_power:
        return start, match.end(), "[CARD]"
    return None


_CARD = re.compile(
    r"(?:[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?![0-9])"
)
_ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}|"
    r"3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}|62[0-9]{14,17}|"
    r"6(?:011|4[4-9][0-9]|5[0-9]{2})[0-9]{12,15}|220[0-4][0-9]{12}"
)
"""Visa, Mastercard (two ranges), American Express, Diners, JCB, UnionPay, Discover, Mir."""


def _luhn(digits: str) -> bool:
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (sum(value - 9 if value > 9 else value for value in doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


_IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9].)[A-Z][0-9]{2}(?=[ -]?[A-Z0-9])", re.DOTALL)
_IBAN_LENGTHS = {
    pair[:2]: int(pair[2:])
    for pair in re.findall(
        "[A-Z]{2}[0-9]{2}",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 "
        "FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IS26 IT27 JO30 KW30 KZ20 LB28 LI21 LT20 LU20 LV21 MC27 "
        "MD24 ME22 MK19 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SE24 SI19 SK24 SM27 TN24 TR26 UA29",
    )
}


def _account(text: str, start: int) -> Span | None:
    """A number of QQ, which is somebody's address, where the text calls it one."""
    match = _ACCOUNT.match(text, start)
    return (start, match.end(), "[ID]") if match and called(_ACCOUNT_LABEL, text, start) else None


_ACCOUNT = re.compile(r"[1-9][0-9]{4,10}(?![0-9A-Za-z]|\.[0-9])")
_ACCOUNT_LABEL = re.compile(r"(?:(?<![A-Za-z])QQ|扣扣|企鹅)(?:群|群号)?" + LABEL_END, re.IGNORECASE)


_LONG = re.compile(r"[0-9]{5}|[0-9]{4}[ -][0-9]{4}|[0-9]{3}-[0-9]{2}-[0-9]{4}")
"""What every number of an identity, a card or an account begins with."""

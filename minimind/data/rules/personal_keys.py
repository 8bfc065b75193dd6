"""Passwords and keys in a text: what would open a door.

Keys of known makers are told by their form (`sk-…`, `ghp_…`, `AKIA…`, JWT, PEM private keys). Anything else is a
secret only where the text calls it one (`password: …`, `api_key = "…"`, `scheme://user:…@host`) and it looks drawn
at random, so that `password = getpass()`, `token: str` and `secret="changeme"` stay. Hashes and UUIDs are no secrets.

Not here: keys without a prefix and without a label.
"""

import math
import re
from collections import Counter

Span = tuple[int, int, str]
"""Where it begins, where it ends, and its mask."""
MASK = "[KEY]"
MIN_SECRET = 8
"""Characters of the shortest password that a service takes today."""


def key_at(text: str, start: int) -> Span | None:
    """The key of a known maker whose run of letters and digits begins at `start`."""
    begin = _first_of_token(text, start, _PREFIX)
    firsts = [begin]
    if begin and text[begin - 1] in ".:":  # the end of a key's first part: `SG.…`, `123456789:AA…`
        firsts.append(_first_of_token(text, begin - 1, _PREFIX - 1))
    for first in firsts:
        match = _KEYS.match(text, first)
        if match is not None and match.end() > start and not (match.lastgroup == "plain" and not _is_random(match[0])):
            return first, match.end(), MASK
    return _carried(text, begin)


def _first_of_token(text: str, end: int, reach: int) -> int:
    """Where the characters of a key that stand before `end` begin, `reach` of them at most."""
    before = text[max(0, end - reach) : end]
    return end - len(before) + len(before.rstrip(_TOKEN_CHARACTERS))


def _carried(text: str, begin: int) -> Span | None:
    """What a request for a service carries, whoever made it: behind `Bearer`, in the path of a web hook."""
    before = text[max(0, begin - 80) : begin]
    has_sign = "earer" in before or "EARER" in before or "hook" in before
    if not has_sign or not _CARRIER.search(before):
        return None
    match = _CARRIED.match(text, begin)
    return (begin, match.end(), MASK) if match and _is_random(match[0]) else None


def secret_at(text: str, sign: int) -> Span | None:
    """The value behind the `=` or `:` at `sign`, if what stands before calls it a secret and it looks like one."""
    if not text[max(0, sign - _LABEL_REACH) : sign].rstrip("\"'`* ").lower().endswith(_LABELS):
        return None
    match = _VALUE.match(text, sign + 1)
    value = _NEXT_FIELD.split(match["value"])[0] if match else ""
    if match is None or len(value) < MIN_SECRET or _UUID.fullmatch(value):
        return None
    if not (_is_random(value) or _is_mixed(value, signs=True)):
        return None
    return match.start("value"), match.start("value") + len(value), MASK


def login_at(text: str, at: int) -> Span | None:
    """The password of a URL whose host follows the @ at `at`."""
    match = _LOGIN.search(text[max(0, at - 100) : at])
    if match is None or not (_is_random(match[1]) or _is_mixed(match[1], signs=False)):
        return None
    return at - len(match[1]), at, MASK


def private_keys(text: str) -> list[Span]:
    """Whole blocks of PEM private keys; a placeholder without a key in it stays."""
    return [(*match.span(), MASK) for match in _PEM.finditer(text) if _PEM_BODY.search(match[0])]


_TOKEN_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
_CARRIER = re.compile(r"\b(?:[Bb]earer|BEARER)\s+\Z|://hooks?\.\S+/\Z|://\S+/(?:web)?hooks?/\S*/\Z")
_CARRIED = re.compile(r"[A-Za-z0-9_.~+/-]{20,}=*")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PREFIX = 40
"""Characters before the long run in which a key begins: `github_pat_`, `sk-proj-`, `xoxb-` and two numbers."""
_KEYS = re.compile(
    r"""
    gh[pousr]_[A-Za-z0-9]{30,255} | github_pat_[A-Za-z0-9_]{22,255}     # GitHub
    | glpat-[A-Za-z0-9_-]{20,}                                          # GitLab
    | (?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])                          # Amazon
    | LTAI[A-Za-z0-9]{12,26} | AKID[A-Za-z0-9]{28,40}                   # Alibaba, Tencent
    | AIza[0-9A-Za-z_-]{35} | ya29\.[0-9A-Za-z_-]{20,}                  # Google
    | xox[abeoprs]-[A-Za-z0-9-]{10,}                                    # Slack
    | hf_[A-Za-z0-9]{30,} | npm_[A-Za-z0-9]{36} | pypi-[A-Za-z0-9_-]{50,} | dapi[0-9a-f]{32}
    | SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}                        # SendGrid
    | [0-9]{8,10}:AA[A-Za-z0-9_-]{32,34} | [MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}
    # Telegram and Discord above; Twilio, DigitalOcean, Google
    | (?:SK|AC)[0-9a-f]{32}(?![0-9A-Za-z]) | do[opr]_v1_[0-9a-f]{64} | GOCSPX-[A-Za-z0-9_-]{24,}
    | eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?   # JWT
    | (?P<plain>(?:sk|pk|rk|ak|api|key|token|secret|access|live|test)[-_][A-Za-z0-9_-]{16,}  # OpenAI, Stripe, others
        | (?<![,/&?%])[a-z][a-z0-9]{1,7}[-_](?:[a-z0-9]{2,6}[-_])?                # gsk_, and who comes next
        (?=[A-Za-z0-9]*[a-z])(?=[A-Za-z0-9]*[A-Z])[A-Za-z0-9]{30,})
    """,
    re.VERBOSE,
)
_LABEL_REACH = 24
"""Characters before the sign in which the end of a label stands, quotes and blanks included."""
_LABELS = (
    *("password", "passwd", "passphrase", "passcode", "pwd", "secret", "token"),
    *(
        f"{what}{joint}key"
        for what in ("api", "access", "account", "auth", "private", "secret", "shared")
        for joint in ("", "_", "-", " ")
    ),
    *("密码", "口令", "密钥", "密匙", "令牌"),
)
_VALUE = re.compile(r"[\s*]{0,3}[\"'`“‘]?(?P<value>[^\s\"'`<>“”‘’，。；、：）(),;\[\]{}]{8,200})(?![(\[{<])")
_NEXT_FIELD = re.compile(r"&(?=\w+=)")
"""The next field of a URL: `token=…&lang=en`."""
_LOGIN = re.compile(r"://[^\s/:@]{1,64}:([^\s/:@]{8,64})\Z")
_PEM = re.compile(
    r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:(?!-----)[\s\S]){0,20000}?-----END (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|(?:\s*[A-Za-z0-9+/=]{16,})+)"
)
_PEM_BODY = re.compile(r"[A-Za-z0-9+/=]{20}")
_WORD = re.compile(r"[A-Za-z]{5,}")
_MIN_BITS = 2.5
"""Entropy of a secret's characters: `abc12345` has 3.0, `aaaa1111` has 1."""


def _is_random(value: str) -> bool:
    """Digits and letters mixed as chance does it: no words, names, paths, versions or placeholders."""
    runs = re.findall(r"[a-z]+|[A-Z]+|[0-9]+|[^A-Za-z0-9]+", value)
    kinds = {_kind(run) for run in runs}
    if "digit" not in kinds or not kinds & {"lower", "upper"} or _PLACEHOLDER.search(value):
        return False
    if _IDENTIFIER.fullmatch(value):
        return False
    if len(kinds) < 3 and len(runs) < 4:
        return False  # sha256, python3, utf8, version20
    in_words = sum(len(word) for word in _WORD.findall(value) if word.islower() or word[1:].islower())
    counts = Counter(value).values()
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    return bits >= _MIN_BITS and (in_words <= len(value) / 2 or len(kinds) == 4)


def _is_mixed(value: str, *, signs: bool) -> bool:
    """Letters without a digit, small and capital as chance has them (`oCStD#vvEUm`), words not (`MyPassWord`)."""
    words = _CASED.findall(value)
    is_plain = value.isalpha() or (signs and _PASSWORD_SIGN.search(value) is not None)
    is_cased = value.isascii() and value != value.lower() and value != value.upper()
    return is_plain and is_cased and len(words) >= 4 and sum(map(len, words)) < _MIXED_LENGTH * len(words)


_CASED = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_PASSWORD_SIGN = re.compile(r"^[A-Za-z!@#$%^&*?]+$")
_MIXED_LENGTH = 2.75
"""Letters of a word, on average, in random ones 2.1; `iPhoneAppUser` has 3.2."""
_PLACEHOLDER = re.compile(
    r"x{4}|\*{3}|\.{3}|your|example|placeholder|1234567890abcdef|://|\.\w+\.|::|->|\w\.\w+\Z|^/|^\$|\$[{(]",
    re.IGNORECASE,
)


_IDENTIFIER = re.compile(r"(?:[a-z]*|[A-Z]*|[A-Z][a-z]+)\d*(?:[_.-](?:[a-z]*|[A-Z]*|[A-Z][a-z]+)\d*)*")
"""sha256_crypt, Config2, utf-8: words with a number at their end."""


def _kind(run: str) -> str:
    return "digit" if run.isdigit() else "lower" if run.islower() else "upper" if run.isupper() else "sign"

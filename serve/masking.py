"""Takes personal data and secrets out of text before anybody can read it in a log: what is masked, and the checks that spare other numbers.

Numbers are known by their form and, where there is one, their checksum: payment cards by Luhn's (ISO/IEC 7812-1), Chinese identity cards by
GB 11643's. Digits may be ASCII, full-width or Chinese numerals, in groups.
"""

from __future__ import annotations

import re
from datetime import datetime

_DIGITS = "0-9０-９〇零一二三四五六七八九幺"
_TO_ASCII = str.maketrans("０１２３４５６７８９〇零一二三四五六七八九幺Ｘｘx", "012345678900123456789" + "1XXX")
_BEFORE, _AFTER = r"(?<![0-9A-Za-z_０-９])(?<![0-9]\.)", r"(?![0-9A-Za-z_０-９])"
_GAP = r"[ \-‐－·()（）]{1,2}"
_NUMBER = re.compile(rf"(?:\+|＋)?(?:{_BEFORE})[{_DIGITS}]+(?:{_GAP}[{_DIGITS}]+)*[XxＸｘ]?{_AFTER}")
_GAPS = re.compile(f"({_GAP})")
_MOST_GROUPS = 8
LONGEST = 64_000
"""Characters; a longer line is cut, so that masking never takes long."""

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<![A-Za-z])fmx_([0-9a-f]{8})_[A-Za-z0-9_-]+"), r"fmx_\1_[secret]"),
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[token]"),
    (re.compile(r"(?i)\b((?:set-)?cookie[\"']?\s*[:=]\s*)[^\n]+"), r"\1[secret]"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)(?!\[)[A-Za-z0-9._~+/=-]{8,}"), r"\1\2[secret]"),
    (
        re.compile(
            r"(?i)((?:api[_-]?key|access[_-]?key|token|secret|passw(?:or)?d|pwd|authorization|密码|口令|密钥)[\"']?\s*[:=：]\s*+)"
            r"(?!\[secret\])(?!(?:bearer|basic)\b)(?:[bru]?\"[^\"\n]*\"|[bru]?'[^'\n]*'|[^\n\"',;&}]+)"
        ),
        r"\1[secret]",
    ),
    (re.compile(r"(://[^\s/:@]{1,200}:)[^\s/@]{1,200}@"), r"\1[secret]@"),
)
_NAME = r"[^\s@＠<>()\[\]\"',;:=，。；：]"
_EMAIL = re.compile(rf"(?<!{_NAME}){_NAME}{{1,64}}[@＠]{_NAME}{{1,250}}[.．。][A-Za-z0-9\u4e00-\u9fff]{{2,}}")


def encodable(text: str) -> str:
    """Give text that UTF-8 can hold: a lone surrogate, which a file's name or a token's subject may have, becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def mask(text: str) -> str:
    """Replace keys, tokens, passwords, e-mail addresses, phone, identity-card and payment-card numbers by what they were."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... [{len(text) - LONGEST} characters cut]"
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    if "@" in text or "＠" in text:
        text = _EMAIL.sub("[email]", text)
    return _NUMBER.sub(_mask_number, text)


def _mask_number(found: re.Match[str]) -> str:
    """Mask a number, or those that a run of groups of digits consists of."""
    parts = _GAPS.split(found[0])  # digits and gaps in turn
    written, place = [], 0
    while place < len(parts):
        ends = range(min(len(parts), place + 2 * _MOST_GROUPS - 1), place, -2)  # digits stand at even places, and parts begin and end with them
        found_end = next((end for end in ends if _kind_written("".join(parts[place:end]))), None)
        end = found_end or place + 1
        text = "".join(parts[place:end])
        written.append(f"[{_kind_written(text)}]" if found_end else text)
        written += parts[end : end + 1]  # the gap behind it
        place = end + 1
    return "".join(written)


def _kind_written(written: str) -> str:
    number = re.sub(r"[^0-9X]", "", written.translate(_TO_ASCII))
    return _kind_of(number, is_international=written[0] in "+＋", is_grouped=len(number) < len(written))


def _kind_of(number: str, *, is_international: bool, is_grouped: bool) -> str:
    """Say what a number is, or nothing."""
    if not 8 <= len(number) <= 19:
        return ""
    if is_identity_card(number):
        return "identity card"
    if number.endswith("X"):
        return ""
    if re.fullmatch(r"(?:0086|86)?1[3-9]\d{9}", number):
        return "phone"
    if 13 <= len(number) <= 19 and passes_luhn(number) and len(set(number)) > 1:
        return "card"
    if is_international and len(number) <= 15:
        return "phone"
    if is_grouped and re.fullmatch(r"0\d{2,3}[2-9]\d{6,7}", number):
        return "phone"
    return ""


def passes_luhn(number: str) -> bool:
    """Check Luhn's digit: every second digit from the right doubled, cross sum a multiple of ten."""
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(number))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def is_identity_card(number: str) -> bool:
    """Say whether it is a Chinese identity number: 17 digits with a birthday and a check digit (GB 11643-1999), or 15 of the kind before."""
    if len(number) == 15 and number.isdigit():
        return _is_date("19" + number[6:12])
    if len(number) != 18 or not number[:17].isdigit() or not _is_date(number[6:14]):
        return False
    weights = [2 ** (17 - place) % 11 for place in range(17)]
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(number, weights, strict=False)) % 11] == number[17]


def _is_date(text: str) -> bool:
    try:
        return 1850 <= datetime.strptime(text, "%Y%m%d").year <= 2100
    except ValueError:
        return False

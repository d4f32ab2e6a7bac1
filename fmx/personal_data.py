"""Personal data in text: e-mail addresses, and phone, identity-card and payment-card numbers, found by their form.

Numbers are known by their form and, where there is one, their checksum: payment cards by Luhn's (ISO/IEC 7812-1), Chinese identity cards by
GB 11643's. Digits may be ASCII, full-width or Chinese numerals, in groups. Keys and passwords are not this file's: serve/masking.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime

_DIGITS = "0-9０-９〇零一二三四五六七八九幺"
_TO_ASCII = str.maketrans("０１２３４５６７８９〇零一二三四五六七八九幺Ｘｘx", "012345678900123456789" + "1XXX")
_BEFORE, _AFTER = r"(?<![0-9A-Za-z_０-９])(?<![0-9]\.)", r"(?![0-9A-Za-z_０-９])"
_GAP = r"[ \-‐－·()（）]{1,2}"
_NUMBER = re.compile(rf"(?:\+|＋)?(?:{_BEFORE})[{_DIGITS}]+(?:{_GAP}[{_DIGITS}]+)*[XxＸｘ]?{_AFTER}")
_GAPS = re.compile(f"({_GAP})")
_MOST_GROUPS = 8
_NAME = r"[^\s@＠<>()\[\]\"',;:=，。；：]"
_EMAIL = re.compile(rf"(?:(?<!{_NAME}){_NAME}{{1,64}}|[A-Za-z0-9._%+-]{{1,64}})[@＠]{_NAME}{{1,250}}[.．。][A-Za-z0-9\u4e00-\u9fff]{{2,}}")


def count_personal_data(text: str) -> Counter[str]:
    """Count the personal data of a text by kind: `email`, `phone`, `identity card` and `card`."""
    kinds: Counter[str] = Counter()

    def count(kind: str) -> str:
        kinds[kind] += 1
        return f"[{kind}]"

    replace_personal_data(text, count)
    return kinds


def replace_personal_data(text: str, instead: Callable[[str], str]) -> str:
    """Replace every e-mail address and every phone, identity-card or payment-card number by what `instead` gives for its kind."""
    if "@" in text or "＠" in text:
        text = _EMAIL.sub(lambda _: instead("email"), text)
    return _NUMBER.sub(lambda found: _replace_number(found[0], instead), text)


def _replace_number(run: str, instead: Callable[[str], str]) -> str:
    """Replace a number, or those that a run of groups of digits consists of."""
    parts = _GAPS.split(run)  # digits and gaps in turn
    written, place = [], 0
    while place < len(parts):
        ends = range(min(len(parts), place + 2 * _MOST_GROUPS - 1), place, -2)  # digits stand at even places, and parts begin and end with them
        found_end = next((end for end in ends if _kind_written("".join(parts[place:end]))), None)
        end = found_end or place + 1
        text = "".join(parts[place:end])
        written.append(instead(_kind_written(text)) if found_end else text)
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

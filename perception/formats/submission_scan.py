"""Boxes of a submission read out of plain JSON text into columns, compiled; what is not plain is left to msgspec.

Plain is what every writer of submissions writes: the fields of a box each once and no others, names and tokens without
escapes, numbers as JSON has them. Whatever else a file holds, faults above all, `submission_reader` decodes itself, so
that there is one place that judges and explains; this one only ever says "plain, and these are the values".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from perception.formats.classes import ATTRIBUTES, DETECTION_CLASSES

NUM_NUMBERS = 13
"""Numbers of a box: translation, size, rotation, velocity, score."""

_FIELDS = (
    "translation", "size", "rotation", "velocity", "detection_score", "sample_token", "detection_name", "attribute_name"
)  # fmt: skip
_FIRST_COLUMN = np.array([0, 3, 6, 10, 12])
_LENGTHS = np.array([3, 3, 4, 2, 0])  # 0: a number by itself
_SCORE, _TOKEN, _CLASS = 4, 5, 6
_ALL = (1 << len(_FIELDS)) - 1
_NOT_PLAIN = -1
_POWERS = np.array([10.0**exponent for exponent in range(23)])  # all exact
_MAX_DIGITS = 18  # of a significand that fits int64
_SPLIT = 134217729.0  # 2**27 + 1, of Dekker's product
_QUOTE, _BACKSLASH, _COMMA, _COLON = ord('"'), ord("\\"), ord(","), ord(":")
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = (ord(sign) for sign in "{}[]")
_MINUS, _PLUS, _POINT, _ZERO, _NINE = (ord(sign) for sign in "-+.09")


@dataclass(frozen=True, eq=False)
class ScannedBoxes:
    """Boxes of one sample.

    Attributes:
        numbers: (M, 13) float64 translation, size, rotation, velocity, score; a missing score is -1.
        labels: (M,) int64 index into `DETECTION_CLASSES`.
        attributes: (M,) int64 index into `ATTRIBUTES`, -1 for none.
        num_pts: (M,) int64, -1 where not given.
    """

    numbers: np.ndarray
    labels: np.ndarray
    attributes: np.ndarray
    num_pts: np.ndarray


def _names(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All letters in a row, and where each name starts."""
    offsets = np.cumsum([0, *map(len, names)])
    return np.frombuffer("".join(names).encode(), dtype=np.uint8), offsets


_FIELD_NAMES, _CLASS_NAMES = _names(_FIELDS), _names(DETECTION_CLASSES)
_ATTRIBUTE_NAMES = _names(tuple(ATTRIBUTES))


class SampleScanner:
    """Reads samples of up to so many boxes.

    Args:
        max_boxes: a sample with more is not plain.
    """

    def __init__(self, max_boxes: int) -> None:
        self._numbers = np.empty((max_boxes, NUM_NUMBERS))
        self._names = np.empty((max_boxes, 2), dtype=np.int64)
        self._hard = np.empty((max_boxes * NUM_NUMBERS, 3), dtype=np.int64)

    def scan(self, text: bytes | memoryview, token: str) -> ScannedBoxes | None:
        """Reads the boxes of one sample.

        Args:
            text: a JSON list of boxes.
            token: of the sample; every box must name it.

        Returns:
            The boxes, or None where the text is not plain.
        """
        letters = np.frombuffer(text, dtype=np.uint8)
        own = np.frombuffer(token.encode(errors="replace"), dtype=np.uint8)
        count, num_hard = _scan(letters, own, self._numbers, self._names, self._hard)
        if count == _NOT_PLAIN:
            return None
        numbers = self._numbers[:count].copy()
        for place, start, stop in self._hard[:num_hard].tolist():
            numbers.flat[place] = float(bytes(letters[start:stop]))
        if not np.isfinite(numbers).all():
            return None
        labels, attributes = self._names[:count].T.copy()
        return ScannedBoxes(numbers, labels, attributes, np.full(count, -1))


@numba.njit(cache=True, nogil=True)
def _scan(
    text: np.ndarray, token: np.ndarray, numbers: np.ndarray, names: np.ndarray, hard: np.ndarray
) -> tuple[int, int]:
    """How many boxes there are, -1 where the text is not plain, and how many numbers are left to do in `hard`."""
    num_hard, count = 0, 0
    at = _skip_space(text, 0)
    if at >= len(text) or text[at] != _OPEN_LIST:
        return _NOT_PLAIN, 0
    at = _skip_space(text, at + 1)
    if at < len(text) and text[at] == _CLOSE_LIST:
        return (0 if _skip_space(text, at + 1) == len(text) else _NOT_PLAIN), 0
    while count < len(numbers):
        at, num_hard = _box(text, at, token, count, numbers, names, hard, num_hard)
        if at < 0:
            return _NOT_PLAIN, 0
        count += 1
        at = _skip_space(text, at)
        if at < len(text) and text[at] == _CLOSE_LIST:
            return (count if _skip_space(text, at + 1) == len(text) else _NOT_PLAIN), num_hard
        at = _after(text, at, _COMMA)
        if at < 0:
            return _NOT_PLAIN, 0
    return _NOT_PLAIN, 0


@numba.njit(cache=True, nogil=True)
def _box(
    text: np.ndarray,
    at: int,
    token: np.ndarray,
    row: int,
    numbers: np.ndarray,
    names: np.ndarray,
    hard: np.ndarray,
    num_hard: int,
) -> tuple[int, int]:
    """Reads one box into a row; where it ends, -1 where it is not plain, and how many numbers are hard by now."""
    seen = 0
    numbers[row, _FIRST_COLUMN[_SCORE]] = -1.0
    sign = _OPEN
    while sign != _CLOSE:
        at = _after(text, at, sign)
        stop = _text_end(text, at)
        field = _find(text, at + 1, stop, _FIELD_NAMES[0], _FIELD_NAMES[1]) if stop > 0 else -1
        if field < 0 or seen >> field & 1:
            return _NOT_PLAIN, num_hard
        seen |= 1 << field
        at = _after(text, _skip_space(text, stop + 1), _COLON)
        if at < 0:
            return _NOT_PLAIN, num_hard
        if field <= _SCORE:
            at, num_hard = _values(text, at, field, row, numbers, hard, num_hard)
        else:
            at = _name(text, at, field, token, row, names)
        at = _skip_space(text, at)
        if at < 0 or at >= len(text):
            return _NOT_PLAIN, num_hard
        sign = text[at]
        if sign != _COMMA and sign != _CLOSE:
            return _NOT_PLAIN, num_hard
    return (at + 1 if seen | 1 << _SCORE == _ALL else _NOT_PLAIN), num_hard


@numba.njit(cache=True, nogil=True)
def _name(text: np.ndarray, at: int, field: int, token: np.ndarray, row: int, names: np.ndarray) -> int:
    """Reads a token, a class or an attribute; where it ends, -1 where it is unknown or another sample's."""
    stop = _text_end(text, at)
    if stop < 0:
        return _NOT_PLAIN
    if field == _TOKEN:
        return stop + 1 if _is(text, at + 1, stop, token, 0, len(token)) else _NOT_PLAIN
    if field == _CLASS:
        names[row, 0] = _find(text, at + 1, stop, _CLASS_NAMES[0], _CLASS_NAMES[1])
        return stop + 1 if names[row, 0] >= 0 else _NOT_PLAIN
    names[row, 1] = _find(text, at + 1, stop, _ATTRIBUTE_NAMES[0], _ATTRIBUTE_NAMES[1])
    return stop + 1 if names[row, 1] >= 0 or stop == at + 1 else _NOT_PLAIN


@numba.njit(cache=True, nogil=True)
def _values(
    text: np.ndarray, at: int, field: int, row: int, numbers: np.ndarray, hard: np.ndarray, num_hard: int
) -> tuple[int, int]:
    """Reads a list of so many numbers, or one number; where it ends, -1 where it is not plain."""
    is_list = _LENGTHS[field] > 0
    for number in range(max(_LENGTHS[field], 1)):
        column = _FIRST_COLUMN[field] + number
        if is_list:
            at = _after(text, at, _COMMA if number else _OPEN_LIST)
        if at < 0:
            return _NOT_PLAIN, num_hard
        stop, value, sure = _number(text, at)
        if stop < 0:
            return _NOT_PLAIN, num_hard
        numbers[row, column] = value
        if not sure:
            hard[num_hard, 0], hard[num_hard, 1], hard[num_hard, 2] = row * NUM_NUMBERS + column, at, stop
            num_hard += 1
        at = _skip_space(text, stop)
    return (_after(text, at, _CLOSE_LIST) if is_list else at), num_hard


@numba.njit(cache=True, nogil=True)
def _number(text: np.ndarray, at: int) -> tuple[int, float, bool]:
    """Where a JSON number ends, -1 for none, its value, and whether that is the nearest double beyond doubt."""
    negative = at < len(text) and text[at] == _MINUS
    start = at + int(negative)
    at, significand = _digits(text, start, 0)
    if at == start or (text[start] == _ZERO and at > start + 1):
        return _NOT_PLAIN, 0.0, False
    has_exponent = at < len(text) and (text[at] == ord("e") or text[at] == ord("E"))
    has_point = at < len(text) and text[at] == _POINT
    if text[start] == _ZERO and not (has_point or has_exponent):  # not by the significand: 2**64 runs over to 0
        return at, 0.0, True  # the integer -0 has no sign
    exponent = 0
    if has_point:
        point = at + 1
        at, significand = _digits(text, point, significand)
        if at == point:
            return _NOT_PLAIN, 0.0, False
        exponent = point - at
    num_digits = at - start  # or one less, with a point
    while num_digits > _MAX_DIGITS and start < at and (text[start] == _ZERO or text[start] == _POINT):
        start += 1
        num_digits = at - start
    if at < len(text) and (text[at] == ord("e") or text[at] == ord("E")):
        down = at + 1 < len(text) and text[at + 1] == _MINUS
        start = at + 2 if down or (at + 1 < len(text) and text[at + 1] == _PLUS) else at + 1
        at, power = _digits(text, start, 0)
        if at == start or at > start + 4:
            return _NOT_PLAIN, 0.0, False
        exponent += -power if down else power
    if num_digits > _MAX_DIGITS:  # the significand ran over
        return at, 0.0, False
    value, sure = _scaled(significand, exponent)
    return at, -value if negative else value, sure


@numba.njit(cache=True, nogil=True)
def _digits(text: np.ndarray, at: int, value: int) -> tuple[int, int]:
    """Reads on: where the digits end, and the integer so far, which may run over."""
    while at < len(text) and _ZERO <= text[at] <= _NINE:
        value = value * 10 + (text[at] - _ZERO)
        at += 1
    return at, value


@numba.njit(cache=True, nogil=True)
def _scaled(significand: int, exponent: int) -> tuple[float, bool]:
    """The value of significand * 10**exponent, and whether it is rounded rightly beyond doubt.

    A significand of up to 53 bits times or by an exact power of ten is rounded once. A longer one is divided with its
    remainder, as the sum of two doubles; how the sum is rounded is in doubt where a hair more or less changes it.
    """
    rounded = float(significand)
    if significand == 0 or (significand <= 1 << 53 and abs(exponent) <= 22):
        if significand == 0:
            return 0.0, True
        return (rounded * _POWERS[exponent] if exponent >= 0 else rounded / _POWERS[-exponent]), True
    if exponent > 0 or exponent < -22:
        return rounded, False
    power = _POWERS[-exponent]
    quotient = rounded / power
    high = quotient * power
    one, other = quotient * _SPLIT, power * _SPLIT
    one_high, other_high = one - (one - quotient), other - (other - power)
    one_low, other_low = quotient - one_high, power - other_high
    low = ((one_high * other_high - high) + one_high * other_low + one_low * other_high) + one_low * other_low
    rest = ((rounded - high) - low + float(significand - np.int64(rounded))) / power
    less, more = quotient + rest * (1 - 1e-12), quotient + rest * (1 + 1e-12)
    return quotient + rest, less == more and math.isfinite(quotient)


@numba.njit(cache=True, nogil=True)
def _skip_space(text: np.ndarray, at: int) -> int:
    """Where the next sign stands; negative places stay."""
    if at < 0:
        return at
    while at < len(text) and (text[at] == 32 or text[at] == 10 or text[at] == 13 or text[at] == 9):
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def _after(text: np.ndarray, at: int, sign: int) -> int:
    """Where the sign after this one stands, -1 where it is another one."""
    if at < 0 or at >= len(text) or text[at] != sign:
        return _NOT_PLAIN
    return _skip_space(text, at + 1)


@numba.njit(cache=True, nogil=True)
def _text_end(text: np.ndarray, at: int) -> int:
    """Where the closing quote of a text stands, -1 for no text, or one with escapes or other than ASCII."""
    if at < 0 or at >= len(text) or text[at] != _QUOTE:
        return _NOT_PLAIN
    at += 1
    while at < len(text) and text[at] != _QUOTE:
        if text[at] < 32 or text[at] > 126 or text[at] == _BACKSLASH:
            return _NOT_PLAIN
        at += 1
    return at if at < len(text) else _NOT_PLAIN


@numba.njit(cache=True, nogil=True)
def _is(text: np.ndarray, start: int, stop: int, letters: np.ndarray, first: int, last: int) -> bool:
    """Whether the text from start to stop is this piece of letters."""
    if stop - start != last - first:
        return False
    for place in range(last - first):  # noqa: SIM110 - compiled
        if text[start + place] != letters[first + place]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _find(text: np.ndarray, start: int, stop: int, letters: np.ndarray, offsets: np.ndarray) -> int:
    """Which of the names the letters from start to stop are, -1 for none."""
    for number in range(len(offsets) - 1):
        if _is(text, start, stop, letters, offsets[number], offsets[number + 1]):
            return number
    return -1

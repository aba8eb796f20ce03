"""The compiled reader of plain boxes against msgspec and Python's own numbers."""

import json

import msgspec
import numpy as np
import pytest

from perception.formats import submission_reader
from perception.formats.classes import ATTRIBUTES, DETECTION_CLASSES
from perception.formats.submission_scan import SampleScanner, ScannedBoxes

TOKEN = "e716f1be217db23196523bc8e264a986"
ALPHABET = b'0123456789.-+eE{}[]",: \n\\uNaI\xc3\xa9'


def boxes(count: int, seed: int = 0) -> list[dict]:
    """Boxes as a file has them, numbers of every length."""
    rng = np.random.default_rng(seed)
    return [
        {
            "sample_token": TOKEN,
            "translation": (rng.normal(size=3) * 1000).tolist(),
            "size": rng.uniform(0.5, 5, 3).round(3).tolist(),
            "rotation": [1, 0.0, -0.0, 6.123233995736766e-17],
            "velocity": rng.normal(size=2).astype(np.float32).tolist(),
            "detection_name": DETECTION_CLASSES[rng.integers(10)],
            "detection_score": float(rng.random()),
            "attribute_name": str(rng.choice(["", *ATTRIBUTES])),
        }
        for _ in range(count)
    ]


def scan(text: str | bytes, max_boxes: int = 500) -> ScannedBoxes | None:
    return SampleScanner(max_boxes).scan(text.encode() if isinstance(text, str) else text, TOKEN)


def decoded(text: bytes) -> ScannedBoxes | None:
    """What the reader makes of a text without the scanner, None where msgspec refuses it."""
    try:
        return submission_reader._boxes(msgspec.json.decode(text, type=list[submission_reader._Record]))
    except ValueError:
        return None


def assert_same(ours: ScannedBoxes, theirs: ScannedBoxes) -> None:
    """Bit by bit, signs of zero included."""
    np.testing.assert_array_equal(ours.numbers.view(np.int64), theirs.numbers.view(np.int64))
    for name in ("labels", "attributes", "num_pts"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\t", " :\r\n")])
def test_plain_text_gives_what_msgspec_gives(separators, indent):
    rows = boxes(50)
    for number, row in enumerate(rows):
        rows[number] = dict(sorted(row.items(), key=lambda item: hash((number, item[0]))))  # fields in any order
    del rows[3]["detection_score"]
    text = json.dumps(rows, separators=separators, indent=indent)
    found = scan(f" {text}\n")
    assert_same(found, decoded(text.encode()))
    assert found.numbers[3, 12] == -1


def test_texts_that_went_wrong_give_what_msgspec_gives_or_are_left_to_it():
    """One to three letters changed, added or lost: what is taken is taken as msgspec takes it."""
    rng = np.random.default_rng(1)
    base = json.dumps(boxes(2)).encode()
    scanner, taken = SampleScanner(500), 0
    for _ in range(3000):
        text = bytearray(base)
        for _ in range(rng.integers(1, 4)):
            place, letter = rng.integers(len(text)), ALPHABET[rng.integers(len(ALPHABET))]
            kind = rng.integers(3)
            text[place : place + (kind != 1)] = b"" if kind == 2 else bytes([letter])
        found = scanner.scan(bytes(text), TOKEN)
        if found is not None:
            taken += 1
            assert_same(found, decoded(bytes(text)))
            assert text.count(TOKEN.encode()) == 2
    assert taken > 100


def test_numbers_are_rounded_as_python_rounds_them():
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(size=400) * 10.0 ** rng.integers(-30, 30, 400), rng.normal(size=400)])
    texts = [form.format(value) for value in values.tolist() for form in ("{!r}", "{:.17e}", "{:.20f}", "{:.19g}")]
    texts += ["0", "-0", "0.0", "-0.0e5", "9007199254740993", "9007199254740993.0", "1e22", "1e23", "1E-22", "5e-324"]
    texts += ["0.500000000000000166533453693773481063544750213623046875", "123456789012345678", "1234567890123456789"]
    texts += ["18446744073709551616", "-36893488147419103232", "184467440737095516160"]  # 0 modulo 2**64
    row = boxes(1)[0]
    for first in range(0, len(texts) - 2, 3):
        three = texts[first : first + 3]
        text = json.dumps(row | {"translation": "HERE"}).replace('"HERE"', f"[{', '.join(three)}]")
        found = scan(text := f"[{text}]")
        assert found is not None, three
        assert_same(found, submission_reader._boxes(msgspec.convert(json.loads(text), list[submission_reader._Record])))


@pytest.mark.parametrize(
    "change",
    [
        {"num_pts": 3},
        {"ego_translation": [0.0, 0.0, 0.0]},
        {"sample_token": "another"},
        {"detection_name": "Car"},
        {"attribute_name": "moving"},
        {"detection_name": "c\u00e4r"},
        {"translation": [1.0, 2.0]},
        {"translation": [1.0, 2.0, 3.0, 4.0]},
        {"size": ["1", 2.0, 3.0]},
        {"detection_score": None},
        {"detection_score": float("inf")},
        {"velocity": [float("nan"), 0.0]},
        {"velocity": []},
    ],
)
def test_what_is_not_plain_is_left(change):
    assert scan(json.dumps([boxes(1)[0] | change])) is None


@pytest.mark.parametrize(
    "text", ["", "[", "]", "[]]", "[,]", "{}", "[{}]", "null", "[[]]", '[{"', '[{"sample_token"', "[1]", "[] x"]
)
def test_what_is_no_list_of_boxes_is_left(text):
    assert scan(text) is None


def test_bounds():
    assert len(scan(" [ ] ").labels) == 0
    assert len(scan(json.dumps(boxes(3)), max_boxes=3).labels) == 3
    assert scan(json.dumps(boxes(4)), max_boxes=3) is None
    whole = json.dumps(boxes(1))
    for stop in range(len(whole)):
        assert scan(whole[:stop]) is None
    row = json.dumps(boxes(1)[0])
    assert scan(f'[{row[:-1]}, "size": [1, 2, 3]}}]') is None  # a field twice
    for name in boxes(1)[0]:
        rows = boxes(1)
        del rows[0][name]
        assert (scan(json.dumps(rows)) is None) == (name != "detection_score")
    text = json.dumps([boxes(1)[0] | {"detection_score": 0.25}])
    for number in ("01.5", "1.", ".5", "1e", "+1", "-", "1e400", "0x10", "0.25.", "1e+", "1ee5"):
        assert scan(text.replace("0.25", number)) is None

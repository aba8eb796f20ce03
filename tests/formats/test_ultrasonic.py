"""Ultrasonic files: the exact bytes, the way back, and every damage that a reader must name."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.formats.ultrasonic import (
    Burst,
    EchoState,
    decode_burst,
    encode_burst,
    read_ultrasonic,
    write_ultrasonic,
)

NAN = float("nan")


def burst() -> Burst:
    return Burst(
        sender=3,
        sound_speed_m_s=343.5,
        half_beam_rad=0.75,
        noise_m=0.0078125,
        temperature_c=20.5,
        receiver=np.array([2, 3, 4], np.uint8),
        state=np.array([EchoState.OBJECT, EchoState.NO_OBJECT, EchoState.OBJECT], np.uint8),
        reach_m=np.array([4.3, 4.3, 5.5]),
        distance_m=np.array([[1.234, 2.5], [NAN, NAN], [0.75, NAN]]),
        level_db=np.array([[40.0, 3.0], [NAN, NAN], [63.0, NAN]]),
    )


def with_checksum(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def test_the_bytes_are_those_of_the_specification() -> None:
    header = b"USND" + struct.pack("<HBBffff", 1, 3, 3, 343.5, 0.75, 0.0078125, 20.5)
    reports = [(2, 1, 4300, 1234, 2500, 40, 3), (3, 0, 4300, 65535, 65535, 255, 255), (4, 1, 5500, 750, 65535, 63, 255)]
    assert encode_burst(burst()) == with_checksum(header + b"".join(struct.pack("<BBHHHBB", *row) for row in reports))


def test_a_file_reads_back(tmp_path: Path) -> None:
    write_ultrasonic(tmp_path / "a.ultra", burst())
    read, original = read_ultrasonic(tmp_path / "a.ultra"), burst()
    for name in ("sender", "sound_speed_m_s", "half_beam_rad", "noise_m", "temperature_c"):
        assert getattr(read, name) == getattr(original, name)
    for name in ("receiver", "state", "reach_m", "distance_m", "level_db"):
        np.testing.assert_allclose(getattr(read, name), getattr(original, name), atol=1e-9)
    assert encode_burst(read) == encode_burst(original)


def test_a_burst_that_nobody_listened_to_reads_back() -> None:
    empty = replace(
        burst(), receiver=np.zeros(0, np.uint8), state=np.zeros(0, np.uint8), reach_m=np.zeros(0),
        distance_m=np.zeros((0, 2)), level_db=np.zeros((0, 2)),
    )  # fmt: skip
    assert decode_burst(encode_burst(empty), "a").distance_m.shape == (0, 2)


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    data = encode_burst(burst())
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            with pytest.raises(ValueError, match="decode_burst: some-burst: "):
                decode_burst(bytes(damaged), "some-burst")
        with pytest.raises(ValueError, match="decode_burst: some-burst: must have"):
            decode_burst(data[:place], "some-burst")
    with pytest.raises(ValueError, match="must have 58 bytes for 3 reports, got 59"):
        decode_burst(data + b"\0", "some-burst")


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (4, struct.pack("<H", 2), "version must be 1, got 2"),
        (6, b"\0", "sender must be in 1..255"),
        (8, struct.pack("<f", NAN), "sound_speed_m_s must be in 250..450"),
        (25, b"\x09", "state must be in 0..5"),
        (25, b"\x00", "echoes must be there where the state is OBJECT"),
        (28, struct.pack("<H", 3000), "must not decrease"),
        (32, b"\x50", "level_db must be in 0..63"),
        (32, b"\xff", "every distance must have a level"),
        (34, b"\x02", "receiver must hold each number once"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(offset: int, value: bytes, message: str) -> None:
    data = bytearray(encode_burst(burst())[:-4])
    data[offset : offset + len(value)] = value
    with pytest.raises(ValueError, match=f"decode_burst: a.ultra: .*{message}"):
        decode_burst(with_checksum(bytes(data)), "a.ultra")


def test_a_burst_with_misshapen_fields_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Burst: level_db must be \(3, 2\), got \(3, 1\)"):
        replace(burst(), level_db=np.zeros((3, 1)))

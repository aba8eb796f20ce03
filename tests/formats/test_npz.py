"""Archives of arrays that something has happened to: one sentence that names the file, whatever it was."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from perception.formats.npz import npz_bytes, read_npz

SHAPE = (4, 5)


def read(path: Path) -> np.ndarray:
    return read_npz("read_cells", path, {"cells": SHAPE}, np.uint8, 20)["cells"]


def archive(header: str) -> bytes:
    """A file whose array has this text for a header."""
    text = header.encode()
    member = np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text + bytes(20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("cells.npy", member)
    return buffer.getvalue()


def test_arrays_come_back(tmp_path: Path) -> None:
    cells = np.arange(20, dtype=np.uint8).reshape(SHAPE)
    (tmp_path / "a.npz").write_bytes(npz_bytes({"cells": cells}))
    np.testing.assert_array_equal(read(tmp_path / "a.npz"), cells)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 5), \n",  # tokenize.TokenError
        "  {'descr':\n x\n y",  # IndentationError
        "{'descr': '|u1' 'fortran_order'",
        "{'descr': (), 'fortran_order': False, 'shape': (4, 5)}",  # IndexError
        "{'descr': [1], 'fortran_order': False, 'shape': (4, 5)}",  # TypeError
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 'five')}",
        "{1: 2, 'a': 3}",
        "{[]: 2}",
        "(" * 900,
        "",
    ],
)
def test_a_header_that_is_none_is_one_sentence(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.npz").write_bytes(archive(header))
    with pytest.raises(ValueError, match=r"read_cells: .*a\.npz: "):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_one_sentence_with_every_packer(tmp_path: Path, method: int) -> None:
    buffer, member = io.BytesIO(), io.BytesIO()
    np.save(member, np.arange(20, dtype=np.uint8).reshape(SHAPE))
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("cells.npy", member.getvalue())
    content = buffer.getvalue()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "a.npz").write_bytes(damaged)
        try:
            read(tmp_path / "a.npz")  # not all of a file's dates and flags are looked at
        except ValueError as error:
            assert str(error).startswith(f"read_cells: {tmp_path / 'a.npz'}: ")


def test_what_cannot_be_read_at_all_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        read(tmp_path / "a.npz")
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a\.npz"):
        read(tmp_path / "a.npz")

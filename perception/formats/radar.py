"""Radar files of nuScenes: binary `.pcd` with 18 fields, 43 bytes per return."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.formats.files import atomic_writer
from perception.formats.lidar import NonFinite, keep_finite

_FIELD_TYPES = {
    "x": "<f4",
    "y": "<f4",
    "z": "<f4",
    "dyn_prop": "i1",
    "id": "<i2",
    "rcs": "<f4",
    "vx": "<f4",
    "vy": "<f4",
    "vx_comp": "<f4",
    "vy_comp": "<f4",
    "is_quality_valid": "i1",
    "ambig_state": "i1",
    "x_rms": "i1",
    "y_rms": "i1",
    "invalid_state": "i1",
    "pdh0": "i1",
    "vx_rms": "i1",
    "vy_rms": "i1",
}
RADAR_FIELDS = tuple(_FIELD_TYPES)
"""Columns of a radar scan; `dyn_prop` and the following states are codes, the `_rms` fields too."""

_DTYPE = np.dtype(list(_FIELD_TYPES.items()))
_NUMBERS = {kind + size: f"<{kind.lower()}{size}" for kind in "IU" for size in "1248"} | {"F4": "<f4", "F8": "<f8"}
_HEADER_KEYS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_MAX_HEADER_BYTES = 4096
_PADDING = b"\0"  # the devkit reads on only if a byte follows the last return


@dataclass(frozen=True)
class RadarFilter:
    """The states that a return may have; the defaults are the devkit's.

    Attributes:
        invalid_states: cluster validity; 0 is valid.
        dyn_props: dynamic property; 0 moving, 1 stationary, 2 oncoming, 3 stationary candidate, 4 unknown,
            5 crossing stationary, 6 crossing moving, 7 stopped.
        ambig_states: Doppler ambiguity; 3 is unambiguous.
    """

    invalid_states: Collection[int] = (0,)
    dyn_props: Collection[int] = (0, 1, 2, 3, 4, 5, 6)
    ambig_states: Collection[int] = (3,)

    def keeps(self, points: np.ndarray) -> np.ndarray:
        """Which returns pass.

        Args:
            points: (P, 18) as `read_radar` gives them.

        Returns:
            (P,) bool.
        """
        allowed = {
            "invalid_state": self.invalid_states,
            "dyn_prop": self.dyn_props,
            "ambig_state": self.ambig_states,
        }
        kept = np.ones(len(points), dtype=bool)
        for field, states in allowed.items():
            kept &= np.isin(points[:, RADAR_FIELDS.index(field)], list(states))
        return kept


def read_radar(
    path: str | Path, radar_filter: RadarFilter | None = None, *, non_finite: NonFinite = "raise"
) -> np.ndarray:
    """The returns of a radar scan.

    Args:
        path: the file.
        radar_filter: which returns to keep; None keeps all.
        non_finite: what to do about returns with NaN or infinity: raise, or drop them with a warning. A NaN in the
            first return is no such fault, it marks a scan without returns.

    Returns:
        (P, 18) float32, columns `RADAR_FIELDS`, sensor frame; (0, 18) for an empty scan.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the header is not that of a binary radar scan, or the data are shorter than it says.
    """
    path = Path(path)
    data = path.read_bytes()
    header, start = _read_header(path, data)
    dtype, num_points = _layout(path, header)
    available = len(data) - start
    if num_points * dtype.itemsize > available:
        needed = num_points * dtype.itemsize
        raise ValueError(f"read_radar: {path}: {num_points} returns need {needed} bytes, got {available}: cut off")
    rows = np.frombuffer(data, dtype=dtype, count=num_points, offset=start)
    points = np.stack([rows[name].astype(np.float32) for name in RADAR_FIELDS], axis=1)  # (P, 18)
    if len(points) and np.isnan(points[0]).any():
        return np.zeros((0, len(RADAR_FIELDS)), dtype=np.float32)
    points = keep_finite(points, "read_radar", path, non_finite)
    return points if radar_filter is None else points[radar_filter.keeps(points)]


def write_radar(path: str | Path, points: np.ndarray) -> None:
    """Writes a radar scan as nuScenes does.

    Args:
        path: the file; its name should end in `.pcd`, which the devkit asks for.
        points: (P, 18) columns `RADAR_FIELDS`; no return is written as one return with NaN in x.

    Raises:
        ValueError: `points` is not (P, 18), not finite, or an integer field has a fraction or does not fit its type.
    """
    content = _encoded("write_radar", points)
    with atomic_writer(path) as file:
        file.write(content)


def radar_bytes(points: np.ndarray) -> bytes:
    """The file of a radar scan.

    Args:
        points: (P, 18) columns `RADAR_FIELDS`; no return becomes one return with NaN in x.

    Returns:
        What `write_radar` writes.

    Raises:
        ValueError: `points` is not (P, 18), not finite, or an integer field has a fraction or does not fit its type.
    """
    return _encoded("radar_bytes", points)


def _encoded(function: str, points: np.ndarray) -> bytes:
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != len(RADAR_FIELDS):
        raise ValueError(f"{function}: points must be (P, {len(RADAR_FIELDS)}), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{function}: points must be finite, got NaN or infinity")
    rows = np.zeros(max(len(points), 1), dtype=_DTYPE)
    if not len(points):
        rows["x"] = np.nan
    for column, name in zip(points.T, RADAR_FIELDS, strict=True):
        if not len(points):
            break
        kind = _DTYPE[name]
        if kind.kind == "i":
            limits = np.iinfo(kind)
            if (column % 1).any() or column.min() < limits.min or column.max() > limits.max:
                raise ValueError(f"{function}: {name} must be whole numbers in {limits.min}..{limits.max}")
        rows[name] = column
    return _header_text(len(rows)) + rows.tobytes() + _PADDING


def _header_text(num_points: int) -> bytes:
    kinds = [_DTYPE[name] for name in RADAR_FIELDS]
    values = {
        "VERSION": "0.7",
        "FIELDS": " ".join(RADAR_FIELDS),
        "SIZE": " ".join(str(kind.itemsize) for kind in kinds),
        "TYPE": " ".join(kind.kind.upper() for kind in kinds),
        "COUNT": " ".join("1" for _ in kinds),
        "WIDTH": str(num_points),
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": str(num_points),
        "DATA": "binary",
    }
    lines = ["# .PCD v0.7 - Point Cloud Data file format", *(f"{key} {value}" for key, value in values.items())]
    return ("\n".join(lines) + "\n").encode()


def _read_header(path: Path, data: bytes) -> tuple[dict[str, list[str]], int]:
    """Words of each header line by its first word, and where the data begin."""
    marker = data.find(b"\nDATA", 0, _MAX_HEADER_BYTES)
    end = data.find(b"\n", marker + 1, _MAX_HEADER_BYTES)
    if not data.startswith(b"#") or marker < 0 or end < 0:
        raise ValueError(f"read_radar: {path}: must begin with a PCD header that ends in a DATA line")
    header: dict[str, list[str]] = {}
    for line in data[:end].decode("ascii", errors="replace").splitlines():
        key, *words = line.split() or ["#"]
        header[key] = words
    missing = [key for key in _HEADER_KEYS if key not in header]
    if missing:
        raise ValueError(f"read_radar: {path}: header lacks {', '.join(missing)}")
    if header["DATA"] != ["binary"]:
        raise ValueError(f"read_radar: {path}: DATA must be binary, got {' '.join(header['DATA'])!r}")
    return header, end + 1


def _layout(path: Path, header: dict[str, list[str]]) -> tuple[np.dtype, int]:
    """Type of one return, and how many there are."""
    names, sizes, kinds, counts = (header[key] for key in ("FIELDS", "SIZE", "TYPE", "COUNT"))
    if not len(names) == len(sizes) == len(kinds) == len(counts) or len(set(names)) < len(names):
        raise ValueError(f"read_radar: {path}: FIELDS, SIZE, TYPE and COUNT must have one entry per field")
    missing = [name for name in RADAR_FIELDS if name not in names]
    if missing:
        raise ValueError(f"read_radar: {path}: FIELDS lacks {', '.join(missing)}")
    if set(counts) != {"1"}:
        raise ValueError(f"read_radar: {path}: COUNT must be 1 for every field, got {' '.join(counts)}")
    formats = [_NUMBERS.get(kind + size) for kind, size in zip(kinds, sizes, strict=True)]
    if None in formats:
        raise ValueError(f"read_radar: {path}: TYPE and SIZE must name number types, got {kinds} {sizes}")
    dtype = np.dtype({"names": names, "formats": formats})
    shape = [" ".join(header[key]) for key in ("WIDTH", "HEIGHT", "POINTS")]
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in shape):
        raise ValueError(f"read_radar: {path}: WIDTH, HEIGHT and POINTS must be counts, got {shape}")
    width, height, num_points = map(int, shape)
    if height != 1 or width != num_points:
        raise ValueError(f"read_radar: {path}: must be one row of POINTS = WIDTH returns, got {shape}")
    return dtype, num_points

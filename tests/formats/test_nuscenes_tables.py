"""Tables of JSON rows, read and written."""

import json
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np
import pytest
from nuscenes import NuScenes

from perception.formats.nuscenes_rows import OPTIONAL_TABLES, ROW_TYPES, CalibratedSensorRow, CategoryRow
from perception.formats.nuscenes_tables import Tables, iter_table, read_tables, write_tables
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes


@pytest.fixture(scope="module")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_nuscenes(tmp_path_factory.mktemp("set"))


@pytest.fixture
def samples() -> list[dict]:
    return [
        {"token": f"t{number}", "timestamp": number, "scene_token": "s", "prev": "", "next": ""} for number in range(50)
    ]


def write_json(folder: Path, table: str, rows: object) -> None:
    (folder / f"{table}.json").write_text(json.dumps(rows))


def test_every_table_has_a_row_type() -> None:
    assert [field.name for field in fields(Tables)] == list(ROW_TYPES)
    assert len(ROW_TYPES) - len(OPTIONAL_TABLES) == 13


def test_real_tables_come_through_a_round_trip(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "nuscenes" / "v1.0-mini"
    write_tables(tmp_path, read_tables(source))
    for table in ROW_TYPES:
        if table not in OPTIONAL_TABLES:
            assert json.loads((tmp_path / f"{table}.json").read_text()) == json.loads(
                (source / f"{table}.json").read_text()
            ), table


def test_written_tables_load_with_the_devkit(dataroot: Path) -> None:
    devkit = NuScenes(VERSION, str(dataroot), verbose=False)
    tables = read_tables(dataroot / VERSION)
    assert [row["name"] for row in devkit.scene] == [row.name for row in tables.scene]
    row, theirs = tables.sample_annotation[3], devkit.sample_annotation[3]
    assert list(row.translation) == theirs["translation"]
    assert theirs["category_name"] == "human.pedestrian.adult"


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("indent", [None, 0])
def test_chunks_hold_every_row_once(tmp_path: Path, samples: list[dict], chunk_bytes: int, indent: int | None) -> None:
    (tmp_path / "sample.json").write_text(json.dumps(samples, indent=indent))
    chunks = list(iter_table(tmp_path, "sample", chunk_bytes))
    assert [row.token for chunk in chunks for row in chunk.rows] == [row["token"] for row in samples]
    assert len(chunks) > 1 or chunk_bytes > 10_000
    assert chunks[-1].bytes_done == chunks[-1].bytes_total


def test_braces_in_strings_and_nested_objects_are_no_row_breaks(tmp_path: Path, samples: list[dict]) -> None:
    for row in samples[::7]:
        row["token"] += "}, {"
        row["nested"] = [{"a": 1}, {"b": [{}, {}]}]
    write_json(tmp_path, "sample", samples)
    for chunk_bytes in (1, 90, 250):
        rows = [row for chunk in iter_table(tmp_path, "sample", chunk_bytes) for row in chunk.rows]
        assert [row.token for row in rows] == [row["token"] for row in samples]


def test_nan_is_read_and_written(tmp_path: Path) -> None:
    pose = {"token": "p", "timestamp": 1, "rotation": [1, 0, 0, 0], "translation": [float("nan"), 1, float("inf")]}
    write_json(tmp_path, "ego_pose", [pose])
    (chunk,) = iter_table(tmp_path, "ego_pose")
    np.testing.assert_array_equal(chunk.rows[0].translation, [np.nan, 1, np.inf])
    write_tables(tmp_path / "again", Tables(ego_pose=chunk.rows))
    (again,) = iter_table(tmp_path / "again", "ego_pose")
    np.testing.assert_array_equal(again.rows[0].translation, [np.nan, 1, np.inf])


def test_optional_keys_are_left_out_where_they_say_nothing() -> None:
    assert msgspec.to_builtins(CategoryRow(token="t", name="animal")) == {"token": "t", "name": "animal"}
    fisheye = CalibratedSensorRow(
        token="t",
        sensor_token="s",
        translation=(0.0, 0.0, 0.0),
        rotation=(1.0, 0.0, 0.0, 0.0),
        camera_intrinsic=(),
        camera_model="kannala_brandt",
        camera_distortion=(0.1, 0.0, 0.0, 0.0),
    )
    assert msgspec.to_builtins(fisheye)["camera_distortion"] == (0.1, 0.0, 0.0, 0.0)


def test_empty_tables_and_optional_ones(tmp_path: Path) -> None:
    write_tables(tmp_path, Tables())
    assert read_tables(tmp_path) == Tables()
    assert not (tmp_path / "lidarseg.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamp": "noon"}, r"sample.json: row 31 \(token 't31'\): field `timestamp`: Expected `int`, got `str`"),
        ({"scene_token": None}, r"row 31 \(token 't31'\): field `scene_token`: Expected `str`, got `null`"),
        ({"token": 5}, r"row 31 \(token 5\): field `token`"),
        ({"timestamp": 2**63}, r"row 31 \(token 't31'\): field `timestamp`: Expected `int` <= 9223372036854775807"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [300, 1 << 20])
def test_a_wrong_field_is_named(
    tmp_path: Path, samples: list[dict], change: dict, message: str, chunk_bytes: int
) -> None:
    samples[31] |= change
    write_json(tmp_path, "sample", samples)
    with pytest.raises(ValueError, match=message):
        list(iter_table(tmp_path, "sample", chunk_bytes))


def test_a_missing_field_is_named(tmp_path: Path, samples: list[dict]) -> None:
    del samples[4]["scene_token"]
    write_json(tmp_path, "sample", samples)
    with pytest.raises(ValueError, match=r"row 4 \(token 't4'\): .*missing required field `scene_token`"):
        list(iter_table(tmp_path, "sample"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "sample.json: file is empty"),
        (b'[{"token": "t0", "timest', "sample.json: not JSON"),
        (b'{"token": "t0"}', "sample.json: Expected `array`, got `object`"),
        (b"[[1]]", r"row 0 \(token None\): Expected `object`, got `array`"),
        (b"\xff\xfe[]", "sample.json: not JSON"),
        (b"[" * 100_000, "Expected `object`, got `array`"),
        (b'[{"token": "t0", "timestamp": "noon"}, {"tok', r"row 0 \(token None\): field `timestamp`"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "sample.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(iter_table(tmp_path, "sample"))


def test_a_file_cut_off_in_a_later_chunk_is_named(tmp_path: Path, samples: list[dict]) -> None:
    (tmp_path / "sample.json").write_text(json.dumps(samples)[:-30])
    with pytest.raises(ValueError, match=r"sample.json: not JSON"):
        list(iter_table(tmp_path, "sample", 300))


def test_missing_and_unknown_tables(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"category.json: required table is missing"):
        read_tables(tmp_path)
    with pytest.raises(ValueError, match=r"iter_table: table must be one of category, .*got 'cars'"):
        list(iter_table(tmp_path, "cars"))

"""The index on disk: whole or refused."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.index_store import SCHEMAS
from tests.synthetic_nuscenes import VERSION, write_synthetic_nuscenes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_nuscenes(tmp_path_factory.mktemp("set"), {"scene-0061": 2}, cameras=False)


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    build_index(source, VERSION, tmp_path / "index")
    return tmp_path / "index"


def test_a_folder_holds_the_tables_and_the_manifest_alone(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"index.json", *(f"{name}.arrow" for name in SCHEMAS)}
    assert [path.name for path in folder.parent.iterdir()] == ["index"]
    Index.open(folder).verify()


def test_an_index_is_replaced_and_nothing_else_is(source: Path, folder: Path, tmp_path: Path) -> None:
    old = Index.open(folder)
    build_index(source, VERSION, folder)
    assert Index.open(folder).record(1).token == old.record(1).token  # the old one stays readable where it is open
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileExistsError, match=r"write_index: .*photos: exists and is not an index"):
        build_index(source, VERSION, tmp_path / "photos")


def test_a_failed_build_leaves_the_old_index(source: Path, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / VERSION
    broken.mkdir(parents=True)
    for file in (source / VERSION).iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "ego_pose.json").write_text("[{")
    with pytest.raises(ValueError, match=r"ego_pose.json: not JSON"):
        build_index(tmp_path / "broken", VERSION, folder)
    assert len(Index.open(folder)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "index"}


def test_missing_folders(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"open_index: .*index.json: missing; make an index with tools/create"):
        Index.open(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"build_index: .*v1.0-test: there is no such version folder"):
        build_index(source, "v1.0-test", tmp_path / "index")


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_missing_or_cut_file_is_named(folder: Path, table: str) -> None:
    file = folder / f"{table}.arrow"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=rf"open_index: .*{table}.arrow: must have {len(content)} bytes"):
        Index.open(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"open_index: .*{table}.arrow: missing"):
        Index.open(folder)


@pytest.mark.parametrize("part", [slice(-30, None), slice(-6, None)])
def test_a_file_that_is_not_arrow_is_named(folder: Path, part: slice) -> None:
    file = folder / "sensors.arrow"
    content = bytearray(file.read_bytes())
    content[part] = bytes(len(content[part]))
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"sensors.arrow: not a readable Arrow file"):
        Index.open(folder)


def test_a_flipped_bit_is_found_by_verify(folder: Path) -> None:
    file = folder / "annotations.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"verify_index: .*annotations.arrow: sha256 differs"):
        Index.open(folder).verify()


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_damage_inside_a_file_is_never_followed(folder: Path) -> None:
    """Every number of the tables in turn, among them the lengths of texts, which Arrow would read without a look."""
    rng = np.random.default_rng(0)
    token, num_opened = Index.open(folder).record(0).token, 0
    for name in ("scenes", "samples", "sensors", "calibrations", "annotations"):
        file = folder / f"{name}.arrow"
        content = file.read_bytes()
        for start in rng.permutation(len(content) // 8)[:120] * 8:
            file.write_bytes(content[:start] + rng.bytes(8) + content[start + 8 :])
            with contextlib.suppress(ValueError):
                index = Index.open(folder)
                for i in range(len(index)):
                    index.record(i), index.sweeps(i, "LIDAR_TOP", 2), index.extra_sensors(i)
                with contextlib.suppress(KeyError):
                    index.by_token("0")
                num_opened += 1
        file.write_bytes(content)
    assert 0 < num_opened < 600  # some damage is refused, and some lies in numbers that only `verify` tells from others
    assert Index.open(folder).record(0).token == token


def test_a_wrong_text_is_named(folder: Path) -> None:
    token = Index.open(folder).record(0).sensors["LIDAR_TOP"].token.encode()
    file = folder / "sensors.arrow"
    file.write_bytes(file.read_bytes().replace(token, b"\xff" * 32))
    with pytest.raises(ValueError, match=r"record: .*index: damaged at position 0, make it again with .*UTF8"):
        Index.open(folder).record(0)


def test_a_link_to_the_index_is_followed(source: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "scenes.arrow").unlink()
    build_index(source, VERSION, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(Index.open(folder)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"index", "link"}


def test_the_old_index_is_back_where_the_new_one_cannot_take_its_place(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        build_index(source, VERSION, folder)
    assert len(Index.open(folder)) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_tables_that_changed_places_are_named(folder: Path) -> None:
    manifest = json.loads((folder / "index.json").read_text())
    manifest["files"]["samples"] = manifest["files"]["scenes"]
    (folder / "index.json").write_text(json.dumps(manifest))
    (folder / "samples.arrow").write_bytes((folder / "scenes.arrow").read_bytes())
    with pytest.raises(ValueError, match=r"samples.arrow: must hold 1 rows of schema 3 in one batch, .*columns"):
        Index.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, r"schema_version must be 3, got 0; make the index again"),
        ({"format": "other"}, r"format must be 'perception-index', this is no index"),
        ({"files": {}}, r"files must name every table, lacks scenes, samples, sensors, calibrations, annotations"),
        ({"files": {"scenes": {"rows": 1, "bytes": 5}}}, r"missing required field `sha256` - at `\$.files"),
        ({"splits": {"mine": [5]}}, r"Expected `str`, got `int` - at `\$.splits"),
        ({"classes": None}, r"Expected `array`, got `null` - at `\$.classes`"),
    ],
)
def test_other_manifests_are_refused(folder: Path, change: dict, message: str) -> None:
    manifest = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ValueError, match=rf"open_index: .*index.json: .*{message}"):
        Index.open(folder)
    (folder / "index.json").write_text("[")
    with pytest.raises(ValueError, match=r"index.json: not JSON"):
        Index.open(folder)


def test_the_tool_makes_an_index(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "tools/create_data.py", "nuscenes", "--dataroot", str(source), "--version", VERSION]
    command += ["--out-dir", str(tmp_path / "index")]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "2 samples of 1 scenes, v1.0-mini" in done.stdout
    assert "sample_annotation: 100%" in done.stderr
    assert len(Index.open(tmp_path / "index")) == 2
    command[command.index(VERSION)] = "v9"
    failed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("create_data: build_index: ")

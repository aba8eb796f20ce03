"""CAN-bus files: the way back, what the devkit makes of them, and what a reader must refuse."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.formats.can_bus import MESSAGES, CanBus, read_can_bus, write_can_bus

SCENE = "scene-0061"


def can_bus(count: int = 5) -> CanBus:
    rng, messages = np.random.default_rng(0), {}
    for name, fields in MESSAGES.items():
        columns = {field: rng.normal(size=(count, size) if size > 1 else count) for field, size in fields.items()}
        messages[name] = {"utime": 1_533_000_000_000_000 + 10_000 * np.arange(count), **columns}
    messages["vehicle_monitor"]["brake"] = np.arange(count)
    return CanBus(messages, rng.normal(size=(7, 2)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "can_bus").mkdir()
    write_can_bus(tmp_path / "can_bus", SCENE, can_bus())
    return tmp_path / "can_bus"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_files_read_back(count: int, tmp_path: Path) -> None:
    written = can_bus(count)
    write_can_bus(tmp_path, SCENE, written)
    read = read_can_bus(tmp_path, SCENE)
    np.testing.assert_array_equal(read.route, written.route)
    assert read.messages.keys() == written.messages.keys()
    for name, columns in written.messages.items():
        assert read.messages[name].keys() == columns.keys()
        for field, values in columns.items():
            np.testing.assert_array_equal(read.messages[name][field], values)
            assert read.messages[name][field].shape == values.shape


def test_the_folder_holds_one_file_per_message_and_no_other(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {f"{SCENE}_{name}.json" for name in (*MESSAGES, "meta", "route")}


def test_rows_have_the_fields_of_nuscenes_alone(folder: Path) -> None:
    """Converters put all keys of a pose but two into one vector of 16 numbers, in the order of the names."""
    pose = json.loads((folder / f"{SCENE}_pose.json").read_text())[0]
    assert list(pose) == ["accel", "orientation", "pos", "rotation_rate", "utime", "vel"]
    assert sum(len(value) for key, value in pose.items() if key != "utime") == 16
    monitor = json.loads((folder / f"{SCENE}_vehicle_monitor.json").read_text())[3]
    assert monitor["brake"] == 3
    assert isinstance(monitor["brake"], int)


def test_the_devkit_reads_the_files(folder: Path) -> None:
    api = pytest.importorskip("nuscenes.can_bus.can_bus_api", reason="the devkit reads the files")
    reader, written = api.NuScenesCanBus(dataroot=str(folder.parent)), can_bus()
    assert set(reader.can_messages) == set(MESSAGES)
    for name, fields in MESSAGES.items():
        rows = reader.get_messages(SCENE, name)
        assert len(rows) == 5
        for field in fields:
            np.testing.assert_array_equal([row[field] for row in rows], written.messages[name][field])
    meta = reader.get_messages(SCENE, "meta")
    assert meta["pose"]["message_count"] == 5
    assert meta["pose"]["message_freq"] == pytest.approx(100)
    assert meta["pose"]["timespan"] == pytest.approx(0.04)
    speed = written.messages["pose"]["vel"]
    statistics = meta["pose"]["var_stats"]["vel"]
    np.testing.assert_allclose(statistics["mean"], speed.mean(axis=0))
    np.testing.assert_allclose(statistics["diff_max"], np.diff(speed, axis=0).max(axis=0))
    route, pose = reader.get_pose_and_route(SCENE)
    assert route.shape == (7, 2)
    assert pose.shape == (5, 2)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / f"{SCENE}_zoesensors.json").unlink()
    with pytest.raises(FileNotFoundError, match="scene-0061_zoesensors"):
        read_can_bus(folder, SCENE)


def damage(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / f"{SCENE}_{name}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def changed(number: int, field: str, value: object) -> Callable[[Any], Any]:
    def change(rows: Any) -> Any:
        rows[number][field] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pose", lambda rows: {"rows": rows}, "pose.json: must be a list, got dict"),
        ("pose", lambda rows: [*rows, 3], "message 5 must be an object, got int"),
        ("pose", changed(1, "vel", [1.0, 2.0]), r"message 1: vel must be 3 finite number\(s\)"),
        ("pose", changed(1, "vel", [1.0, 2.0, float("nan")]), "message 1: vel must be 3 finite"),
        ("pose", changed(2, "utime", 3), "message 2: utime must not decrease, got 3"),
        ("pose", changed(2, "utime", 1.5e15), "message 2: utime must be whole microseconds"),
        ("pose", changed(0, "utime", True), "message 0: utime must be whole microseconds"),
        ("steeranglefeedback", changed(4, "value", "left"), "message 4: value must be 1 finite"),
        ("steeranglefeedback", changed(4, "value", 10**400), "message 4: value must be 1 finite"),
        ("zoesensors", lambda rows: [{"utime": 1}], "message 0 lacks brake_sensor, steering_sensor, throttle_sensor"),
        ("route", lambda rows: [[1.0, 2.0], [3.0]], "route: point 1 must be 2 finite"),
    ],
)
def test_a_damaged_file_is_refused(folder: Path, name: str, change: Callable[[Any], Any], message: str) -> None:
    damage(folder, name, change)
    with pytest.raises(ValueError, match=message):
        read_can_bus(folder, SCENE)


def test_what_is_no_json_is_refused(folder: Path) -> None:
    path = folder / f"{SCENE}_pose.json"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="must be JSON"):
        read_can_bus(folder, SCENE)
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match="must be JSON"):
        read_can_bus(folder, SCENE)


def test_messages_that_do_not_fit_are_refused() -> None:
    whole = can_bus()
    with pytest.raises(ValueError, match="messages must hold vehicle_monitor"):
        replace(whole, messages={name: whole.messages[name] for name in ("ms_imu", "pose", "steeranglefeedback")})
    pose = dict(whole.messages["pose"])
    for field, value, message in (
        ("vel", np.zeros((5, 2)), r"pose: vel must be \(5, 3\) finite, got \(5, 2\)"),
        ("utime", np.arange(5)[::-1], "pose: utime must be whole numbers that do not decrease"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(whole, messages={**whole.messages, "pose": {**pose, field: value}})
    with pytest.raises(ValueError, match=r"route must be \(K, 2\) finite"):
        replace(whole, route=np.zeros((3, 3)))

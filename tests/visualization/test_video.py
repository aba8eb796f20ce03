from pathlib import Path

import av
import numpy as np
import pytest

from perception.visualization.png import write_png
from perception.visualization.video import VideoWriter


def picture(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_every_picture_is_in_the_video(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "drive.mp4"
    with VideoWriter(path, frames_per_s=2) as video:
        for value in (20, 120, 220):
            video.add(picture(value))
        assert not path.exists()
    frames = decode(path)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert [frame.mean() for frame in frames] == pytest.approx([20, 120, 220], abs=4)
    assert [entry.name for entry in path.parent.iterdir()] == ["drive.mp4"]
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == 2


def test_odd_sizes_are_filled_up(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "odd.mp4") as video:
        video.add(picture(100, 33, 51))
    assert decode(tmp_path / "odd.mp4")[0].shape == (34, 52, 3)


def test_a_video_without_pictures_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"empty\.mp4 must have at least one picture, got none"),
        VideoWriter(tmp_path / "empty.mp4"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_look_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter("run:1 ü/drive%d.mp4") as video:
        video.add(picture(1))
    assert [path.name for path in (tmp_path / "run:1 ü").iterdir()] == ["drive%d.mp4"]


def test_pictures_beyond_the_encoder_are_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"VideoWriter: .*a.mp4 of \(2, 20000, 3\) cannot be encoded"),
        VideoWriter(tmp_path / "a.mp4") as video,
    ):
        video.add(np.zeros((2, 20_000, 3), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_an_error_on_the_way_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(path) as video:
        video.add(picture(1))
        raise RuntimeError("stop")
    assert path.read_bytes() == b"older" and len(list(tmp_path.iterdir())) == 1


def test_rejects(tmp_path: Path) -> None:
    for rate in (0, -1, float("inf"), float("nan"), 1e-9):
        with pytest.raises(ValueError, match=rf"frames_per_s must be in 0.01..1000, got {rate}"):
            VideoWriter(tmp_path / "a.mp4", frames_per_s=rate)
    with (
        pytest.raises(ValueError, match=r"picture must be \(48, 64, 3\) as the first, got \(48, 62, 3\)"),
        VideoWriter(tmp_path / "a.mp4") as video,
    ):
        video.add(picture(1))
        video.add(picture(1, width=62))
    with (
        pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8, got \(2, 2, 3\) float64"),
        VideoWriter(tmp_path / "a.mp4") as video,
    ):
        video.add(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r"write_png: picture must be \(H, W, 3\) uint8, got \(2, 2\) uint8"):
        write_png(tmp_path / "a.png", np.zeros((2, 2), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_png_holds_the_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "deep" / "a.png", pixels)
    with av.open(str(tmp_path / "deep" / "a.png")) as container:
        (frame,) = container.decode(video=0)
    np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), pixels)

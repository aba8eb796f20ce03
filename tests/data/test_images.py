"""Pictures against Pillow's full decoding, and the files that must be refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from perception.data.images import fit_image, load_image

NUSCENES_SIZE_PX = (900, 1600)


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 without fine detail, about which filters would differ."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 90 + 1, width // 90 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(picture: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def test_the_usual_nuscenes_fit() -> None:
    fit = fit_image(NUSCENES_SIZE_PX, (256, 704))
    assert (fit.reduction, fit.scaled_size_px, fit.top_px, fit.left_px) == (2, (396, 704), 140, 0)
    # Scale 0.44 between pixel centres: (u + 0.5) * 0.44 - 0.5.
    expected = [[0.44, 0, -0.28], [0, 0.44, -140.28], [0, 0, 1]]
    np.testing.assert_allclose(fit.image2aug, expected, atol=1e-12)


@given(st.tuples(*[st.integers(1, 2000)] * 2), st.tuples(*[st.integers(1, 1000)] * 2))
def test_a_fit_covers_the_picture_and_keeps_the_aspect(recorded: tuple[int, int], wanted: tuple[int, int]) -> None:
    fit = fit_image(recorded, wanted)
    assert all(scaled >= size for scaled, size in zip(fit.scaled_size_px, wanted, strict=True))
    assert 0 <= fit.top_px == fit.scaled_size_px[0] - wanted[0]
    assert 0 <= fit.left_px <= fit.scaled_size_px[1] - wanted[1]
    scale = max(size / full for size, full in zip(wanted, recorded, strict=True))
    for scaled, full in zip(fit.scaled_size_px, recorded, strict=True):
        assert abs(scaled - scale * full) <= 0.5 + 1e-9
        assert fit.reduction == 1 or (full % fit.reduction == 0 and full // fit.reduction >= scaled)
    corners = fit.image2aug @ np.array([[-0.5, recorded[1] - 0.5], [-0.5, recorded[0] - 0.5], [1, 1]])
    np.testing.assert_allclose(corners[:2, 0], [-0.5 - fit.left_px, -0.5 - fit.top_px], atol=1e-9)
    np.testing.assert_allclose(np.diff(corners[:2])[:, 0], fit.scaled_size_px[::-1], atol=1e-9)


def test_a_wide_picture_is_cropped_equally_at_both_sides() -> None:
    fit = fit_image((90, 200), (45, 60))
    assert (fit.scaled_size_px, fit.left_px, fit.top_px) == ((45, 100), 20, 0)


def test_a_fit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fit_image: .* must be positive, got \(900, 0\)"):
        fit_image((900, 0), (256, 704))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size_px", [(256, 704), (225, 400), (450, 800), (112, 200), (900, 1600)])
def test_loaded_pictures_equal_pillows(tmp_path: Path, kind: str, size_px: tuple[int, int]) -> None:
    (tmp_path / "picture").write_bytes(encode(smooth_picture(*NUSCENES_SIZE_PX), kind))
    loaded, image2aug = load_image(tmp_path / "picture", size_px, NUSCENES_SIZE_PX)
    assert loaded.shape == (*size_px, 3)
    with Image.open(tmp_path / "picture") as full:
        scaled = full.resize(fit_image(NUSCENES_SIZE_PX, size_px).scaled_size_px[::-1], Image.Resampling.BILINEAR)
    difference = np.abs(loaded.astype(int) - np.asarray(scaled).astype(int)[-size_px[0] :])
    assert difference.mean() < 0.5
    assert difference.max() <= 12
    np.testing.assert_allclose(image2aug[0, 0], size_px[1] / 1600)


@pytest.mark.parametrize("wanted", [(256, 704), (450, 800), (225, 400), (600, 1000)])
def test_pixels_lie_where_image2aug_says(tmp_path: Path, wanted: tuple[int, int]) -> None:
    """The centre of a bright spot, found by its weights, in the recorded and in the loaded picture."""
    v, u = np.mgrid[: NUSCENES_SIZE_PX[0], : NUSCENES_SIZE_PX[1]]
    spot_px = np.array([1003.3, 702.7])
    spot = 250 * np.exp(-((u - spot_px[0]) ** 2 + (v - spot_px[1]) ** 2) / (2 * 12.0**2))
    (tmp_path / "spot.jpg").write_bytes(encode(np.repeat(spot[..., None], 3, 2).astype(np.uint8), quality=98))
    loaded, image2aug = load_image(tmp_path / "spot.jpg", wanted)
    weights = np.clip(loaded.mean(-1) - 10, 0, None)
    rows, columns = np.indices(weights.shape)
    found = [(weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()]
    np.testing.assert_allclose(found, (image2aug @ [*spot_px, 1])[:2], atol=0.02)


def test_orientation_in_the_file_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture = smooth_picture(90, 160)
    (tmp_path / "turned.jpg").write_bytes(encode(picture, exif=exif))
    loaded, _ = load_image(tmp_path / "turned.jpg", (90, 160), (90, 160))
    assert np.abs(loaded.astype(int) - picture).mean() < 3


def test_bytes_after_the_end_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "longer.jpg").write_bytes(encode(smooth_picture(90, 160)) + bytes(500))
    assert load_image(tmp_path / "longer.jpg", (90, 160))[0].shape == (90, 160, 3)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
def test_flat_pictures_are_not_taken_for_zeroed_ones(tmp_path: Path, value: int, options: dict) -> None:
    (tmp_path / "flat.jpg").write_bytes(encode(np.full((900, 1600, 3), value, np.uint8), **options))
    assert np.abs(load_image(tmp_path / "flat.jpg", (256, 704))[0].astype(int) - value).max() <= 1


JPEG = encode(np.random.default_rng(1).integers(0, 255, (90, 160, 3), dtype=np.uint8))
PNG = encode(smooth_picture(90, 160), "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "file is empty"),
        (b"a letter", "not a readable JPEG or PNG picture"),
        (JPEG[:10], "not a readable JPEG or PNG picture"),
        (JPEG[: len(JPEG) // 2], "ends early or is damaged"),
        (JPEG[:-2], "ends early or is damaged"),
        (JPEG[:8000] + bytes(200) + JPEG[8200:], "overwritten with zeros from byte 8000 on"),
        (JPEG[:8000] + bytes(len(JPEG) - 8000), "JPEG data"),
        (encode(np.full((90, 160), 256, np.uint16), "PNG"), "PNG must have 8 bits per channel, got more"),
        (PNG[: len(PNG) // 2], "PNG data ends early or is damaged"),
        (encode(smooth_picture(90, 160), "BMP"), "not a readable JPEG or PNG picture"),
        (encode(smooth_picture(90, 161)), "must be 160 x 90 pixels as calibrated, got 161 x 90"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"load_image: .*bad\.jpg: .*{reason}"):
        load_image(path, (45, 80), (90, 160))
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "none.jpg", (45, 80))

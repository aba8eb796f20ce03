"""Random changes of a sample; each says in `image2aug` or `ego2aug` what it did to the geometry."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import torch
from torch import Tensor

from perception.geometry.transforms import yaw_matrix
from perception.structures import CameraImages, Sample

Range = tuple[float, float]


class ImageAugmentation:
    """Resizes, crops, mirrors and turns every picture on its own, and composes that into `image2aug`.

    The size in pixels stays. A picture made larger is cropped at a random column and at the top, one made smaller is
    placed at a random column and at the bottom, black around; then it is mirrored and turned about its centre.

    Args:
        resize_range: factor, drawn evenly.
        rotation_range_rad: turn in the picture from +u towards +v, drawn evenly.
        flip: whether to mirror left and right half of the time.

    Raises:
        ValueError: a range does not rise, or a factor is not positive.
    """

    def __init__(
        self, *, resize_range: Range = (1.0, 1.0), rotation_range_rad: Range = (0.0, 0.0), flip: bool = False
    ) -> None:
        self.resize_range = _check_range("ImageAugmentation", "resize_range", resize_range, positive=True)
        self.rotation_range_rad = _check_range("ImageAugmentation", "rotation_range_rad", rotation_range_rad)
        self.flip = flip

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Changes all pictures of a sample.

        Args:
            sample: stays as it is.
            generator: source of all randomness.

        Returns:
            The sample with changed pictures; all else is shared with the argument.
        """
        cameras = {group: self._change(images, generator) for group, images in sample.cameras.items()}
        return replace(sample, cameras=cameras)

    def _change(self, cameras: CameraImages, generator: torch.Generator) -> CameraImages:
        images, image2aug = cameras.images.clone(), cameras.image2aug.clone()
        for row, present in enumerate(cameras.present.tolist()):
            # Drawn for absent pictures too: what happens to one camera does not depend on the others.
            change = self._draw(cameras.image_size_px, generator)
            if present:
                images[row] = warp_image(cameras.images[row], change)
                image2aug[row] = change @ cameras.image2aug[row]
        return replace(cameras, images=images, image2aug=image2aug)

    def _draw(self, image_size_px: tuple[int, int], generator: torch.Generator) -> Tensor:
        """(3, 3) float64 from old pixels to new."""
        height, width = image_size_px
        scale = _uniform(self.resize_range, generator)
        left_px = _uniform((0.0, 1.0), generator) * width * (scale - 1)
        top_px = height * (scale - 1)
        mirror = self.flip and _uniform((0.0, 1.0), generator) < 0.5
        angle_rad = _uniform(self.rotation_range_rad, generator)
        # Around the picture's centre, so that mirror and turn need no shift of their own.
        to_center = _affine(1.0, 0.0, -(width - 1) / 2, -(height - 1) / 2)
        resize_crop = _affine(scale, 0.0, scale / 2 - 0.5 - left_px, scale / 2 - 0.5 - top_px)
        flip = torch.diag(torch.tensor([-1.0 if mirror else 1.0, 1.0, 1.0], dtype=torch.float64))
        return _affine(1.0, angle_rad, (width - 1) / 2, (height - 1) / 2) @ flip @ to_center @ resize_crop


class BevAugmentation:
    """Turns, scales, mirrors and shifts the bird's-eye-view frame: sets `ego2aug`, composed with what is there.

    Points, boxes and calibration stay in the ego frame; models compose `ego2aug` where they use them.

    Args:
        rotation_range_rad: turn about +z, drawn evenly.
        scale_range: factor for all three axes, drawn evenly.
        flip_x: whether to swap front and rear (x -> -x) half of the time.
        flip_y: whether to swap left and right (y -> -y) half of the time.
        translation_std_m: standard deviation of the shift along x, y and z.

    Raises:
        ValueError: a range does not rise, a factor is not positive, or a deviation is negative.
    """

    def __init__(
        self,
        *,
        rotation_range_rad: Range = (0.0, 0.0),
        scale_range: Range = (1.0, 1.0),
        flip_x: bool = False,
        flip_y: bool = False,
        translation_std_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        self.rotation_range_rad = _check_range("BevAugmentation", "rotation_range_rad", rotation_range_rad)
        self.scale_range = _check_range("BevAugmentation", "scale_range", scale_range, positive=True)
        self.flip_x = flip_x
        self.flip_y = flip_y
        self.translation_std_m = translation_std_m
        if len(translation_std_m) != 3 or min(translation_std_m) < 0:
            raise ValueError(f"BevAugmentation: translation_std_m must be three numbers >= 0, got {translation_std_m}")

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Changes the frame that models see.

        Args:
            sample: stays as it is.
            generator: source of all randomness.

        Returns:
            The sample with another `ego2aug`; all else is shared with the argument.
        """
        return replace(sample, ego2aug=self._draw(generator) @ sample.ego2aug)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """(4, 4) float64: mirror, then turn, then scale, then shift."""
        angle_rad = torch.tensor(_uniform(self.rotation_range_rad, generator), dtype=torch.float64)
        scale = _uniform(self.scale_range, generator)
        mirror_x, mirror_y = (torch.rand(2, generator=generator) < 0.5).tolist()
        shift_m = torch.randn(3, generator=generator, dtype=torch.float64)
        signs = (-1.0 if self.flip_x and mirror_x else 1.0, -1.0 if self.flip_y and mirror_y else 1.0, 1.0, 1.0)
        linear = yaw_matrix(angle_rad) @ torch.diag(torch.tensor(signs, dtype=torch.float64))
        linear[:3, :3] *= scale
        linear[:3, 3] = shift_m * torch.tensor(self.translation_std_m, dtype=torch.float64)
        return linear


def warp_image(image: Tensor, change: Tensor) -> Tensor:
    """Moves the content of a picture, bilinearly; black where nothing lands.

    Args:
        image: (3, H, W) uint8.
        change: (3, 3) affine, from pixels of `image` to pixels of the result.

    Returns:
        (3, H, W) uint8.
    """
    pixels = image.permute(1, 2, 0).contiguous().numpy()  # (3, H, W) -> (H, W, 3)
    size = (pixels.shape[1], pixels.shape[0])
    moved = cv2.warpAffine(pixels, change[:2].numpy(), size, flags=cv2.INTER_LINEAR)
    return torch.from_numpy(moved).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _affine(scale: float, angle_rad: float, shift_u_px: float, shift_v_px: float) -> Tensor:
    cosine, sine = scale * math.cos(angle_rad), scale * math.sin(angle_rad)
    rows = [[cosine, -sine, shift_u_px], [sine, cosine, shift_v_px], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)


def _uniform(bounds: Range, generator: torch.Generator) -> float:
    low, high = bounds
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _check_range(owner: str, name: str, bounds: Range, positive: bool = False) -> Range:
    if len(bounds) != 2 or not bounds[0] <= bounds[1] or (positive and bounds[0] <= 0):
        kind = "two rising positive numbers" if positive else "two rising numbers"
        raise ValueError(f"{owner}: {name} must be {kind}, got {bounds}")
    return (float(bounds[0]), float(bounds[1]))

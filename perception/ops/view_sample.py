"""Backward projection: points of the BEV or of voxels take the image features at the pixels where cameras see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from perception.geometry.cameras import CameraModel, project, transform_pixels
from perception.geometry.transforms import transform_points
from perception.ops import _library
from perception.ops._checks import FLOATING, FULL_PRECISION, check_count, check_same_device, check_tensor, describe

_MAX_LEVELS = 16
_BOOL = (torch.bool,)


@dataclass(frozen=True)
class ViewSamplePlan:
    """Where points lie in the pictures; `view_sample_plan` makes it, for as many frames as share the calibration.

    Args:
        pixels_px: (B, N, K, 2) float32 u v on the picture, (0, 0) the centre of the top left pixel; 0 where not valid.
        valid: (B, N, K) bool, whether the camera sees the point.
        counts: (B, K) int64, how many cameras see it.
        image_size_px: rows and columns (H, W) of the picture.
        shape: how the K points are laid out, such as (Y, X) or (Z, Y, X).
    """

    pixels_px: Tensor
    valid: Tensor
    counts: Tensor
    image_size_px: tuple[int, int]
    shape: tuple[int, ...]

    @property
    def seen(self) -> Tensor:
        """Which points any camera sees, (B, *shape) bool."""
        return (self.counts > 0).unflatten(1, self.shape)

    def to(self, device: torch.device | str) -> "ViewSamplePlan":
        """Moves the plan to another device.

        Args:
            device: where the features will be.

        Returns:
            The same plan there.
        """
        pixels, valid, counts = (tensor.to(device) for tensor in (self.pixels_px, self.valid, self.counts))
        return ViewSamplePlan(pixels, valid, counts, self.image_size_px, self.shape)


def view_sample_plan(
    points: Tensor,
    points2camera: Tensor,
    *,
    camera_model: CameraModel,
    intrinsics: Tensor,
    image_size_px: tuple[int, int],
    distortion: Tensor | None = None,
    image2aug: Tensor | None = None,
    present: Tensor | None = None,
) -> ViewSamplePlan:
    """Projects points into all cameras. A camera sees a point whose pixel lies within the picture's edges.

    Args:
        points: (..., 3) floating, metres, in the frame that `points2camera` starts from, such as `Grid.centers()`; the
            same for all samples, on any device.
        points2camera: (B, N, 4, 4), to each camera's frame; an augmentation of the BEV is composed by the caller.
        camera_model: "pinhole" or "kannala_brandt", of all N cameras.
        intrinsics: (B, N, 3, 3) pixels of the picture as recorded.
        image_size_px: rows and columns of the picture as the model sees it, after `image2aug`.
        distortion: (B, N, 4) for "kannala_brandt".
        image2aug: (B, N, 3, 3), from pixels as recorded to those the model sees; none if not given.
        present: (B, N) bool; a camera that is absent sees nothing. All are present if not given.

    Returns:
        The plan, on the device of `points2camera`; K is the number of points. It carries no gradient.

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit, an unknown camera model, or a fisheye whose distortion is
            missing or not finite.
    """
    check_tensor("view_sample_plan: points2camera", points2camera, "B N 4 4", FULL_PRECISION)
    samples, cameras = points2camera.shape[:2]
    _check_points(points)
    _check_cameras(f"{samples} {cameras}", camera_model, intrinsics, distortion)
    for name, tensor, layout, dtypes in (
        ("image2aug", image2aug, f"{samples} {cameras} 3 3", FULL_PRECISION),
        ("present", present, f"{samples} {cameras}", _BOOL),
    ):
        if tensor is not None:
            check_tensor(f"view_sample_plan: {name}", tensor, layout, dtypes)
    optional = {"distortion": distortion, "image2aug": image2aug, "present": present}
    given = {name: tensor for name, tensor in optional.items() if tensor is not None}
    check_same_device("view_sample_plan", points2camera=points2camera, intrinsics=intrinsics, **given)
    if distortion is not None and not distortion.isfinite().all():
        raise ValueError("view_sample_plan: distortion must be finite, got NaN or infinity")
    for size in image_size_px:
        check_count("view_sample_plan: image_size_px", size, 1)
    with torch.no_grad():
        flat = points.reshape(-1, 3).to(points2camera)  # (..., 3) -> (K, 3)
        in_camera = transform_points(points2camera, flat.expand(samples, cameras, -1, 3))  # (B, N, K, 3)
        per_camera = None if distortion is None else distortion[:, :, None]  # (B, N, 4) -> (B, N, 1, 4)
        pixels, valid = project(in_camera, camera_model, intrinsics[:, :, None], per_camera)
        if image2aug is not None:
            pixels = transform_pixels(image2aug[:, :, None], pixels)
        if present is not None:
            valid = valid & present[:, :, None]
        pixels = pixels.float()
        rows, columns = image_size_px
        valid = valid & ((pixels >= -0.5) & (pixels <= pixels.new_tensor((columns, rows)) - 0.5)).all(-1)
        pixels = torch.where(valid[..., None], pixels, 0)
    return ViewSamplePlan(pixels, valid, valid.sum(1), (rows, columns), tuple(points.shape[:-1]))


def view_sample(levels: Sequence[Tensor], plan: ViewSamplePlan) -> Tensor:
    """Gives each point the mean of the features at its pixels, over the cameras that see it and all levels.

    Features are interpolated between the centres of four cells; beyond the outermost centres they continue as they are.
    Inside, channels are the last axis: features that are `torch.channels_last` in memory are read as they are, others
    are copied once. Half-precision features are added up in float32; under autocast the result is float32. On the CPU
    the same bits on every run; on CUDA the gradient is not, unless `torch.use_deterministic_algorithms` asks for it,
    which then takes the reference. Differentiable once, in the features.

    Args:
        levels: one (B, N, C, H, W) floating per level, each covering the whole picture; 1 to 16, of one dtype.
        plan: for these B and N, on the same device.

    Returns:
        (B, C, *plan.shape), channels last in memory, in the dtype of the features; 0 where no camera sees the point
        (`plan.seen`).

    Raises:
        TypeError: an argument that must be a tensor is none.
        ValueError: shapes, dtypes or devices that do not fit, or no levels.

    Source:
        Harley et al., "Simple-BEV", ICRA 2023, section 3.1 (bilinear sampling, mean over the cameras that see a voxel).
    """
    _check(levels, plan)
    device = levels[0].device
    unordered = device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
    if unordered or not _library.has_kernels(device):
        return view_sample_reference(levels, plan)
    channels_last = [level.permute(0, 1, 3, 4, 2) for level in levels]  # (B, N, C, H, W) -> (B, N, H, W, C)
    sampled = torch.ops.perception.view_sample(
        channels_last, plan.pixels_px, plan.valid, plan.counts, plan.image_size_px
    )  # (B, K, C)
    return sampled.transpose(1, 2).unflatten(2, plan.shape)


def view_sample_reference(levels: Sequence[Tensor], plan: ViewSamplePlan) -> Tensor:
    """Does what `view_sample` does, in plain torch: the specification, and the fallback without kernels.

    Args:
        levels: as in `view_sample`.
        plan: as in `view_sample`.

    Returns:
        As `view_sample`.
    """
    dtype = levels[0].dtype
    wide = torch.promote_types(dtype, torch.float32)
    samples, cameras, channels = levels[0].shape[:3]
    size = plan.pixels_px.new_tensor(plan.image_size_px[::-1]).to(wide)
    grid = ((2 * plan.pixels_px.to(wide) + 1) / size - 1).flatten(0, 1)[:, :, None]  # (B * N, K, 1, 2)
    total = levels[0].new_zeros(samples, channels, grid.shape[1], dtype=wide)  # (B, C, K)
    empty = total.numel() == 0 or cameras == 0
    if empty:  # grid_sample wants no empty inputs
        total = total + 0 * sum(level.to(wide).sum() for level in levels)
    for level in () if empty else levels:
        maps = level.flatten(0, 1).to(wide)  # (B * N, C, H, W)
        sampled = grid_sample(maps, grid, padding_mode="border", align_corners=False)[..., 0]  # (B * N, C, K)
        sampled = sampled.unflatten(0, (samples, cameras))
        total = total + torch.where(plan.valid[:, :, None], sampled, 0).sum(1)
    mean = total / (plan.counts.clamp(min=1) * len(levels))[:, None]
    mean = mean.transpose(1, 2).contiguous().transpose(1, 2)  # channels last in memory
    return mean.unflatten(2, plan.shape).to(_library.output_dtype(dtype, mean.device))


def _check_points(points: Tensor) -> None:
    if not isinstance(points, Tensor):
        raise TypeError(f"view_sample_plan: points must be a tensor, got {type(points).__name__}")
    if points.shape[-1:] != (3,) or points.dtype not in FULL_PRECISION:
        raise ValueError(f"view_sample_plan: points must be (..., 3) float32 or float64, got {describe(points)}")


def _check_cameras(cameras: str, camera_model: CameraModel, intrinsics: Tensor, distortion: Tensor | None) -> None:
    check_tensor("view_sample_plan: intrinsics", intrinsics, f"{cameras} 3 3", FULL_PRECISION)
    models = get_args(CameraModel)
    if camera_model not in models:
        wanted = " or ".join(repr(model) for model in models)
        raise ValueError(f"view_sample_plan: camera_model must be {wanted}, got {camera_model!r}")
    if distortion is None and camera_model == "kannala_brandt":
        raise ValueError("view_sample_plan: distortion must be given for kannala_brandt, got None")
    if distortion is not None:
        check_tensor("view_sample_plan: distortion", distortion, f"{cameras} 4", FULL_PRECISION)


def _check(levels: Sequence[Tensor], plan: ViewSamplePlan) -> None:
    if not 1 <= len(levels) <= _MAX_LEVELS:
        raise ValueError(f"view_sample: levels must be 1 to {_MAX_LEVELS} tensors, got {len(levels)}")
    samples, cameras, _ = plan.valid.shape
    check_tensor("view_sample: levels[0]", levels[0], f"{samples} {cameras} C H W", FLOATING)
    channels = levels[0].shape[2]
    for number, level in enumerate(levels):
        name = f"view_sample: levels[{number}]"
        check_tensor(name, level, f"{samples} {cameras} {channels} H W", (levels[0].dtype,))
        check_tensor(name, level, "B N C 1+ 1+", FLOATING)
    named_levels = {f"levels[{number}]": level for number, level in enumerate(levels)}
    check_same_device("view_sample", **named_levels, plan=plan.pixels_px)


def _fake(levels: Sequence[Tensor], pixels: Tensor, valid: Tensor, counts: Tensor, image_size: Sequence[int]) -> Tensor:
    return levels[0].new_empty(*counts.shape, levels[0].shape[4])


def _fake_backward(
    gradient: Tensor,
    pixels: Tensor,
    valid: Tensor,
    counts: Tensor,
    shapes: Sequence[int],
    image_size: Sequence[int],
) -> list[Tensor]:
    pairs = zip(shapes[::2], shapes[1::2], strict=True)
    return [gradient.new_empty(*valid.shape[:2], *pair, gradient.shape[2]) for pair in pairs]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    levels, pixels, valid, counts, ctx.image_size = inputs
    ctx.shapes = [size for level in levels for size in level.shape[2:4]]
    ctx.save_for_backward(pixels, valid, counts)


def _backward(ctx: Any, gradient: Tensor) -> tuple[list[Tensor] | None, ...]:
    op = torch.ops.perception.view_sample_backward
    return op(gradient, *ctx.saved_tensors, ctx.shapes, ctx.image_size), None, None, None, None


_library.register("view_sample", fake=_fake, backward=_backward, setup_context=_setup_context, autocast=True)
_library.register("view_sample_backward", fake=_fake_backward)

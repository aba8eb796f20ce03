"""Pictures -> multi-level image features: a backbone from `transformers` and a feature pyramid."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perception.models.necks.fpn import FeaturePyramid
from perception.models.necks.lss_fpn import LssFeaturePyramid
from perception.structures import CameraImages, CameraViews

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

_PROBE_SIZE_PX = 64

# Norms after the stages of Swin and ConvNeXt backbones: classifiers do not have them, so they start fresh.
_BACKBONE_ONLY = "hidden_states_norms."


class ImageEncoder(nn.Module):
    """Normalises the pictures of present cameras and runs backbone and feature pyramid on them.

    Args:
        model_type: name of a `transformers` backbone that is built from plain values, such as "resnet" or "swin".
        config: arguments of that model's configuration class, such as `depths` or `hidden_sizes`.
        out_features: backbone stages that feed the pyramid, finest first, such as ("stage3", "stage4").
        out_channels: channels of every level of the pyramid.
        num_levels: how many levels to give, finest first.
        pyramid: "fpn" adds coarse features to finer ones; "lss_fpn" concatenates and mixes them, which costs more.
        weights: folder written by `save_pretrained` (safetensors) whose weights fill the backbone; None starts from
            random weights. Nothing is ever downloaded.
        mean: per channel R G B, on the scale of uint8 pictures.
        std: the same.

    Raises:
        ImportError: `transformers` is not installed.
        ValueError: unknown backbone, stage or configuration key, or weights that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        model_type: str,
        config: dict[str, Any],
        out_features: Sequence[str],
        out_channels: int,
        num_levels: int = 1,
        pyramid: Literal["fpn", "lss_fpn"] = "fpn",
        weights: Path | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = _build_backbone(model_type, config, tuple(out_features), weights)
        pyramid_class = {"fpn": FeaturePyramid, "lss_fpn": LssFeaturePyramid}[pyramid]
        self.pyramid = pyramid_class(
            in_channels=[int(channels) for channels in self.backbone.channels],
            out_channels=out_channels,
            num_levels=num_levels,
        )
        self.out_channels = out_channels
        self.strides = _measure_strides(self.backbone)[:num_levels]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, cameras: CameraImages) -> CameraViews:
        """Encodes the pictures.

        Args:
            cameras: batched, images (B, N, 3, H, W) uint8; at least one camera is present.

        Returns:
            Levels (B, N, C, h, w), zeros for absent cameras, whose content is never read.

        Raises:
            ValueError: no camera is present, or a stride does not divide the image size.
        """
        present = cameras.present  # (B, N)
        if not bool(present.any()):
            raise ValueError("ImageEncoder: cameras must hold a present camera, got none")
        pictures = (cameras.images[present].to(self.mean.dtype) - self.mean) / self.std  # (B, N, ...) -> (K, 3, H, W)
        self.feature_sizes(cameras.image_size_px)
        pictures = pictures.contiguous(memory_format=torch.channels_last)  # convolutions are faster this way
        levels = self.pyramid(list(self.backbone(pictures).feature_maps))
        return CameraViews(
            levels=tuple(_spread(level, present) for level in levels), strides=self.strides, cameras=cameras
        )

    def feature_sizes(self, image_size_px: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Tells the size of each level.

        Args:
            image_size_px: height and width of the pictures.

        Returns:
            Rows and columns (h, w) of each level, finest first.

        Raises:
            ValueError: a stride does not divide the size.
        """
        height, width = image_size_px
        if any(height % stride or width % stride for stride in self.strides):
            raise ValueError(
                f"ImageEncoder: images must have a size that the strides {self.strides} divide, got {image_size_px} px"
            )
        return tuple((height // stride, width // stride) for stride in self.strides)


def _spread(level: Tensor, present: Tensor) -> Tensor:
    if level.shape[0] == present.numel():
        return level.unflatten(0, present.shape)  # (K, C, h, w) -> (B, N, C, h, w)
    spread = level.new_zeros(*present.shape, *level.shape[1:])
    return spread.index_put((present,), level)


@torch.no_grad()
def _measure_strides(backbone: nn.Module) -> tuple[int, ...]:
    """Pixels per feature cell of each stage, seen on a small picture: backbones do not tell."""
    picture = torch.zeros(1, 3, _PROBE_SIZE_PX, _PROBE_SIZE_PX)
    stages = backbone.eval()(picture).feature_maps
    backbone.train()
    return tuple(_PROBE_SIZE_PX // stage.shape[-1] for stage in stages)


def _build_backbone(
    model_type: str, values: Mapping[str, Any], out_features: tuple[str, ...], weights: Path | None
) -> Any:
    try:
        import transformers
        from transformers import AutoBackbone
        from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES as BACKBONES
    except ImportError as error:
        raise ImportError("ImageEncoder needs `transformers`: pip install 'bev-perception-stack[train]'") from error

    known = sorted(name for name in BACKBONES if not name.startswith("timm"))  # timm would download
    if model_type not in known:
        raise ValueError(f"ImageEncoder: model_type must be one of {', '.join(known)}, got {model_type!r}")
    config_class = transformers.CONFIG_MAPPING[model_type]
    accepted = [
        name
        for name, parameter in inspect.signature(config_class.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and not name.startswith("_")
    ]
    unknown = sorted(set(values) - set(accepted))
    if unknown:
        raise ValueError(
            f"ImageEncoder: config must hold arguments of {config_class.__name__}: {', '.join(accepted)}; got {unknown}"
        )
    config: Any = config_class(**{**values, "out_features": list(out_features)})
    return AutoBackbone.from_config(config) if weights is None else _load_backbone(config, Path(weights))


def _load_backbone(config: Any, weights: Path) -> Any:
    """Reads a local folder only; `AutoBackbone.from_pretrained` would ask the model hub even for a folder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    if not (weights / "config.json").is_file():
        raise ValueError(f"ImageEncoder: weights must be a folder with config.json and safetensors, got {weights}")
    backbone_class: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    try:
        backbone, report = backbone_class.from_pretrained(
            weights, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"ImageEncoder: weights in {weights} do not fit the backbone: {error}") from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_BACKBONE_ONLY))
    if missing:
        raise ValueError(f"ImageEncoder: weights in {weights} lack {len(missing)} tensors, such as {missing[0]}")
    return backbone.train()  # as a new module is

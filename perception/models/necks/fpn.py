"""Feature pyramid over the stages of an image backbone."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class FeaturePyramid(nn.Module):
    """Adds coarse features to finer ones, top down, with one channel count.

    Args:
        in_channels: channels of the stages, finest first.
        out_channels: channels of every level.
        num_levels: how many levels to give, finest first.

    Raises:
        ValueError: fewer stages than levels.

    Source:
        Lin et al. 2017, "Feature Pyramid Networks for Object Detection", section 3.
    """

    def __init__(self, *, in_channels: Sequence[int], out_channels: int, num_levels: int = 1) -> None:
        super().__init__()
        if not 1 <= num_levels <= len(in_channels):
            raise ValueError(f"FeaturePyramid: num_levels must be in [1, {len(in_channels)}], got {num_levels}")
        self.out_channels = out_channels
        self.laterals = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(num_levels))

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Runs the pyramid.

        Args:
            stages: (K, C_i, H_i, W_i), finest first.

        Returns:
            `num_levels` maps (K, out_channels, H_i, W_i), finest first.
        """
        levels = [lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            coarse = functional.interpolate(levels[fine + 1], size=levels[fine].shape[-2:], mode="nearest")
            levels[fine] = levels[fine] + coarse
        return [output(level) for output, level in zip(self.outputs, levels, strict=False)]

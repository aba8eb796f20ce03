"""Content-aware dilated convolution: each place chooses how far around itself it looks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ContentAwareDilation(nn.Module):
    """Sums 3x3 convolutions of several dilations, weighted at each place by what lies there and on the whole map.

    What one sensor shows beside the place where another one shows it can so be found, however far it is off there.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result.
        dilations: steps between the taps of each convolution, in cells.

    Raises:
        ValueError: no dilation, or one below 1.

    Source:
        The camera and ultrasonic network of Das et al. 2024, "Fisheye Camera and Ultrasonic Sensor Fusion For
        Near-Field Obstacle Perception in Bird's-Eye-View" (content-aware dilated convolution).
    """

    def __init__(self, *, in_channels: int, out_channels: int, dilations: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"ContentAwareDilation: dilations must be at least one, each above 0, got {dilations}")
        self.out_channels = out_channels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=step, dilation=step, bias=False) for step in dilations
        )
        self.locally = nn.Conv2d(in_channels, len(dilations), 3, padding=1)
        self.globally = nn.Linear(in_channels, len(dilations), bias=False)
        self.finish = nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

    def forward(self, bev: Tensor) -> Tensor:
        """Runs the convolutions.

        Args:
            bev: (B, in_channels, Y, X).

        Returns:
            (B, out_channels, Y, X).
        """
        gates = (self.locally(bev) + self.globally(bev.mean((2, 3)))[:, :, None, None]).softmax(1)  # (B, K, Y, X)
        weighted = [gates[:, k, None] * convolve(bev) for k, convolve in enumerate(self.convolutions)]
        return self.finish(torch.stack(weighted).sum(0))

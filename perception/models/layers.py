"""Small layers that several parts share."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.structures import BevMap


def conv_block(in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Builds convolution, batch normalisation and ReLU.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel: odd kernel size; the picture is padded to keep its size.
        stride: stride of the convolution.

    Returns:
        The block.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation over rows (N, C) that takes any number of rows; below two the running statistics serve."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises the rows.

        Args:
            input: (N, C), N may be 0.

        Returns:
            (N, C).
        """
        if input.shape[0] > 1:
            return super().forward(input)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def known_samples(level: BevMap) -> Tensor:
    """Finds the samples of which a level knows anything.

    What works on the level leaves the others out: their maps are alike in every cell, and batch statistics of such maps
    would pass for those of what sensors see.

    Args:
        level: maps of B samples.

    Returns:
        (S,) int64 rising, the samples whose map is valid anywhere.
    """
    return level.validity.flatten(1).any(1).nonzero()[:, 0]


def gather_samples(maps: Tensor, index: Tensor) -> Tensor:
    """Takes the maps of some samples, without a copy where these are all.

    Args:
        maps: (B, ...).
        index: (S,) int64 rising, the chosen samples.

    Returns:
        (S, ...).
    """
    return maps if len(index) == len(maps) else maps[index]


def scatter_samples(rows: Tensor, index: Tensor, batch_size: int) -> Tensor:
    """Puts the rows of some samples back among all samples.

    Args:
        rows: (S, ...), one per chosen sample.
        index: (S,) int64 rising, which sample each row belongs to.
        batch_size: B.

    Returns:
        (B, ...), zeros for the other samples.
    """
    if rows.shape[0] == batch_size:
        return rows
    if rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last):  # copies between layouts are slow
        return scatter_samples(rows.movedim(1, 3), index, batch_size).movedim(3, 1)
    return rows.new_zeros(batch_size, *rows.shape[1:]).index_copy_(0, index, rows)


def zero_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Gives a zero that depends on every parameter, so that an unused one gets a zero gradient instead of none.

    Args:
        parameters: at least one parameter.

    Returns:
        A scalar zero.
    """
    # One element of each is enough for a full gradient, and cannot overflow as a sum in half precision could.
    first = [parameter.flatten()[:1].float() for parameter in parameters if parameter.requires_grad]
    return (torch.cat(first) * 0).sum() if first else torch.zeros(())

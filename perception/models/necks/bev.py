"""The neck between fuser and heads: one 2-D backbone per level."""

from torch import Tensor, nn

from perception.models.layers import gather_samples, known_samples, scatter_samples
from perception.models.necks.second import SecondBackbone
from perception.models.parts import Neck
from perception.structures import BevMap, FusedFeatures


class BevNeck(Neck):
    """Runs a backbone on each level that it names; other levels are left out.

    A sample of which a level knows nothing has zeros there.

    Args:
        levels: level name -> backbone, whose result has the resolution of the level (stride 1).

    Raises:
        ValueError: no level, or a backbone whose stride is not 1.
    """

    def __init__(self, *, levels: dict[str, SecondBackbone]) -> None:
        super().__init__()
        if not levels:
            raise ValueError("BevNeck: levels must name at least one level, got none")
        for name, backbone in levels.items():
            if backbone.stride != 1:
                raise ValueError(f"BevNeck: the backbone of level {name!r} must have stride 1, got {backbone.stride}")
        self.levels = nn.ModuleDict(levels)
        self.in_channels = {name: backbone.in_channels for name, backbone in levels.items()}
        self.out_channels = {name: backbone.out_channels for name, backbone in levels.items()}
        self._strides = {name: backbone.total_stride for name, backbone in levels.items()}

    def forward(self, fused: FusedFeatures) -> FusedFeatures:
        """Refines the maps.

        Args:
            fused: what the fuser gave.

        Returns:
            The named levels with new features, validity and auxiliary outputs unchanged.

        Raises:
            ValueError: the rows or columns of a level are no multiple of its backbone's stride.
        """
        bev = {}
        for name, backbone in self.levels.items():
            level, stride = fused.bev[name], self._strides[name]
            if level.grid.num_y % stride or level.grid.num_x % stride:
                raise ValueError(
                    f"BevNeck: level {name!r} must have rows and columns in multiples of {stride}, "
                    f"got {level.grid.num_y} and {level.grid.num_x}"
                )
            features = _of_known(backbone, level, self.out_channels[name])
            bev[name] = BevMap(features=features, validity=level.validity, grid=level.grid)
        return FusedFeatures(bev=bev, aux=fused.aux)


def _of_known(backbone: nn.Module, level: BevMap, out_channels: int) -> Tensor:
    """(B, C, Y, X) what the backbone makes of the samples that the level knows anything of, zeros of the others."""
    maps, known = level.features, known_samples(level)
    if len(known) == 0:
        return maps.new_zeros(len(maps), out_channels, *maps.shape[-2:])
    return scatter_samples(backbone(gather_samples(maps, known)), known, len(maps))

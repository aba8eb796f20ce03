"""scatter_reduce against torch's own scatter and index_add."""

import torch

from benchmarks.ops._cloud import spinning_lidar
from benchmarks.ops._measure import Row, compare, num_bytes
from perception.geometry.grid import Grid
from perception.ops.scatter_reduce import scatter_reduce, scatter_reduce_reference
from perception.ops.voxelize import voxelize_dynamic


def run() -> list[Row]:
    """Measures points into pillars of 0.2 m, as a pillar encoder does."""
    points = spinning_lidar(240_000)
    grid = Grid.square(51.2, 0.2)
    coords, index = voxelize_dynamic(points, torch.zeros(len(points), dtype=torch.int64), grid)
    features = torch.randn(len(points), 64, generator=torch.Generator().manual_seed(0))
    num_pillars = len(coords)
    kept = (index >= 0).nonzero()[:, 0]
    kept_index, per_element = index[kept], index[kept][:, None].expand(-1, 64)
    zeros = torch.zeros(num_pillars, 64)

    def _scatter(reduce: str) -> torch.Tensor:
        return zeros.scatter_reduce(0, per_element, features[kept], reduce, include_self=False)

    peers = {
        "sum": ("index_add", lambda: zeros.index_add(0, kept_index, features[kept])),
        "mean": ("torch.scatter_reduce", lambda: _scatter("mean")),
        "max": ("torch.scatter_reduce", lambda: _scatter("amax")),
    }
    least_bytes = num_bytes(features, index, zeros)
    rows = []
    for reduce, (peer, function) in peers.items():
        rows += compare(
            "scatter_reduce",
            f"{reduce} of {len(points)} points x 64 in {num_pillars} pillars",
            lambda reduce=reduce: scatter_reduce(features, index, num_pillars, reduce),
            {
                "reference": lambda reduce=reduce: scatter_reduce_reference(features, index, num_pillars, reduce),
                peer: function,
            },
            least_bytes,
        )
    return rows

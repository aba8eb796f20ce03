"""A scene of a set in nuScenes' format as a stream of samples."""

from __future__ import annotations

from collections.abc import Iterator

from perception.data.index import Index
from perception.data.loading import SampleLoader
from perception.structures import Sample


class NuScenesDrive:
    """The samples of one scene, oldest first, each loaded when its turn comes.

    Args:
        loader: loads the sensors that are wanted; annotations need not exist.
        scene: name of the scene.

    Raises:
        ValueError: the set has no such scene, or the scene has no samples.
    """

    def __init__(self, loader: SampleLoader, scene: str) -> None:
        index: Index = loader.index
        self.loader = loader
        self.scene = scene
        positions = index.samples_of([scene]).tolist()
        if not positions:
            raise ValueError(f"NuScenesDrive: scene must have samples, {scene} has none")
        self.positions = sorted(positions, key=lambda position: index.record(position).timestamp_us)

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.loader.load, self.positions)

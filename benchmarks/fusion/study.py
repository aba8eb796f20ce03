"""What all steps of the study share: the detector, the samples' annotations, the cached maps."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from perception.data.dataset import SampleDataset
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loader import build_loader
from perception.data.loading import SampleLoader
from perception.drives.setup import sensor_settings
from perception.models.detector import Detector, DetectorOutput
from perception.models.parts import Branch
from perception.runtime.checkpoint import load_weights
from perception.runtime.config import build_detector, load_config
from perception.structures import Batch, Sample, SensorFeatures
from perception.training.feature_cache import FeatureCache

CONFIGS = Path(__file__).parents[2] / "configs"
VERSION = "v1.0-trainval"
FEATURES = "features"
_BATCH = 4


@dataclass(frozen=True)
class Study:
    """Paths of a study.

    Attributes:
        dataroot: of sim-v2.
        work: folder of everything that is made.
        config: training config of the branches.
        weights: their weights.
    """

    dataroot: Path
    work: Path
    config: Path
    weights: Path

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The config's plain values."""
        return load_config(self.config)

    @cached_property
    def index(self) -> Index:
        """Of the set; made where there is none."""
        folder = self.work / "index"
        if not folder.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            build_index(self.dataroot, VERSION, folder)
        return Index.open(folder)

    def detector(self, fuser: str | None = None, warm: bool = False) -> Detector:
        """The detector with the weights of the branches.

        Args:
            fuser: name of a config in `configs/fusers`; None takes that of the branches' run.
            warm: whether the fuser starts from the branches' run.

        Returns:
            The detector; neck and heads start from the branches' run too, the fuser untrained unless it is `warm`.
        """
        arguments = self.tree["model"]["init_args"]["detector"]
        if fuser is not None:
            chosen = load_config(CONFIGS / "fusers" / f"{fuser}.yaml")
            arguments = {**arguments, "init_args": {**arguments["init_args"], "fuser": chosen}}
        detector = build_detector(arguments)
        parts = ("branches", "neck", *(f"heads.{name}" for name in detector.heads))  # weights may know more tasks
        for part in (*parts, "fuser") if warm else parts:
            load_weights(detector, self.weights, part)
        return detector

    @cached_property
    def source(self) -> str:
        """What tells these weights from others."""
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()

    def cache(self, name: str = FEATURES, splits: Sequence[str] = ("train", "val")) -> FeatureCache:
        """The maps of all samples of some splits; those that are missing are computed.

        Args:
            name: of the folder in `work`.
            splits: names of splits, in the order of the rows.
        """
        positions = [position for split in splits for position in self.positions(split)]
        detector = self.detector().eval()
        cache = FeatureCache.create(
            self.work / name,
            tokens=self.index.tokens_of(np.array(positions)),
            channels={name: cast(Branch, branch).out_channels for name, branch in detector.branches.items()},
            grids=detector.grids,
            source=self.source,
        )
        if cache.missing:
            suite = sensor_settings(self.tree)
            loader = SampleLoader(
                index=self.index,
                dataroot=self.dataroot,
                class_names=detector.class_names,
                truths=None,
                cameras=suite.cameras,
                lidar=suite.lidar,
                **vars(suite.ranging),
            )
            missing = SampleDataset(loader, [positions[row] for row in cache.missing])
            batches = build_loader(missing, batch_size=_BATCH, num_workers=1)
            for batch in tqdm(batches, desc="features", unit="batch"):
                cache.write(cache.rows(batch.tokens), branch_features(detector, batch))
        return cache

    def positions(self, split: str) -> list[int]:
        """Positions of a split's samples in the index."""
        return self.index.samples_of(split).tolist()

    def annotations(self, split: str, class_names: Sequence[str]) -> list[Sample]:
        """Samples of a split without sensors: boxes and near fields."""
        loader = SampleLoader(index=self.index, dataroot=self.dataroot, class_names=class_names)
        return [loader.load(position) for position in self.positions(split)]


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where a study lies.

    Args:
        parser: the parser to add to.
    """
    parser.add_argument("--dataroot", type=Path, required=True, help="of sim-v2")
    parser.add_argument("--work", type=Path, required=True, help="folder of maps, runs and scores")
    parser.add_argument("--config", type=Path, default=CONFIGS / "sim_v2" / "every_sensor.yaml")
    parser.add_argument(
        "--weights", type=Path, required=True, help="of branches that fit that config, with neck and heads"
    )


def study_of(options: argparse.Namespace) -> Study:
    """The study that the options name; see `add_study_arguments`."""
    return Study(options.dataroot, options.work, options.config, options.weights)


@torch.no_grad()
def branch_features(detector: Detector, batch: Batch) -> dict[str, SensorFeatures]:
    """The maps of all branches."""
    return {name: branch(batch, detector.grids) for name, branch in detector.branches.items()}


def run_from_features(detector: Detector, features: dict[str, SensorFeatures]) -> DetectorOutput:
    """What the detector computes after its branches."""
    fused = detector.neck(detector.fuser(features))
    aux = {f"fused/{key}": value for key, value in fused.aux.items()}
    return DetectorOutput(heads={name: head(fused) for name, head in detector.heads.items()}, aux=aux)

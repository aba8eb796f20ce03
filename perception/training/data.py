"""Data of a training run: a set in nuScenes' format, its index, and loaders over some of its scenes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from perception.data.dataset import SampleDataset, Transform
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loader import build_loader
from perception.data.loading import CameraLoading, LidarLoading, SampleLoader
from perception.data.problems import OnError
from perception.formats.classes import DETECTION_CLASSES
from perception.structures import Sample

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How batches are made.

    Args:
        batch_size: samples per batch and device.
        num_workers: processes that load; 0 loads in the training process.
        seed: of the order and of all augmentation.
        repeats: how often an epoch visits each training sample.
        on_error: "raise" stops at a damaged file; "skip" leaves the sensor out and counts it.
    """

    batch_size: int = 1
    num_workers: int = 0
    seed: int = 0
    repeats: int = 1
    on_error: OnError = "raise"


class NuScenesDataModule(LightningDataModule):
    """Loads a set in nuScenes' format for training.

    Args:
        dataroot: folder of the set.
        version: its version, such as `v1.0-trainval`.
        index: folder of its index, made there if it does not exist; None makes one in the run's folder.
        train: split or scene names to train on.
        val: split or scene names to validate on; None does not validate.
        class_names: classes that labels count from 0; the detector must have the same.
        cameras: pictures to load; None loads none.
        lidar: points to load; None loads none.
        transforms: augmentation of the training samples, applied one after the other.
        loader: how batches are made.

    Raises:
        ValueError: neither cameras nor lidar is asked for.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        version: str = "v1.0-mini",
        index: str | None = None,
        train: str | list[str] = "mini_train",
        val: str | list[str] | None = None,
        class_names: Sequence[str] = DETECTION_CLASSES,
        cameras: CameraLoading | None = None,
        lidar: LidarLoading | None = None,
        transforms: Sequence[Transform] = (),
        loader: LoaderSettings = LoaderSettings(),
    ) -> None:
        super().__init__()
        if cameras is None and lidar is None:
            raise ValueError("NuScenesDataModule: cameras or lidar must be asked for, got neither")
        self.dataroot = dataroot
        self.version = version
        self.index_folder = index
        self.scenes = {"train": train, "val": val}
        self.class_names = tuple(class_names)
        self.sensors = (cameras, lidar)
        self.transforms = tuple(transforms)
        self.settings = loader
        self._datasets: dict[str, SampleDataset] = {}

    def prepare_data(self) -> None:
        """Makes the index where there is none."""
        folder = self._folder()
        if not folder.exists():
            _LOG.info("making the index of %s %s in %s", self.dataroot, self.version, folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            build_index(self.dataroot, self.version, folder)

    def setup(self, stage: str) -> None:
        """Opens the index and finds the samples.

        Args:
            stage: what the trainer is about to do.

        Raises:
            ValueError: the index is of another version; a split or scene is unknown.
        """
        index = Index.open(self._folder())
        if index.version != self.version:
            raise ValueError(
                f"NuScenesDataModule: index must be of version {self.version}, {self._folder()} is of {index.version}"
            )
        cameras, lidar = self.sensors
        for name, scenes in self.scenes.items():
            if scenes is None:
                continue
            loader = SampleLoader(
                index=index,
                dataroot=self.dataroot,
                class_names=self.class_names,
                cameras=cameras,
                lidar=lidar,
                on_error=self.settings.on_error,
            )
            indices = index.samples_of(scenes).tolist()
            if name == "train":
                indices = indices * self.settings.repeats
            transforms = self.transforms if name == "train" else ()
            self._datasets[name] = SampleDataset(loader, indices, transforms, self.settings.seed)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Gives the training batches.

        Returns:
            A loader in random order.
        """
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Gives the validation batches.

        Returns:
            A loader in the order of the index; none where there is nothing to validate on.
        """
        return self._loader("val") if self.scenes["val"] is not None else []

    def teardown(self, stage: str) -> None:
        """Tells what could not be read.

        Args:
            stage: what the trainer did.
        """
        for name, dataset in self._datasets.items():
            for kind, count in dataset.skipped.items():
                _LOG.warning("%s: %s was skipped %d times", name, kind, count)

    def _loader(self, name: str) -> DataLoader[Sample]:
        trainer, training = self.trainer, name == "train"
        return build_loader(
            self._datasets[name],
            batch_size=self.settings.batch_size,
            num_workers=self.settings.num_workers,
            shuffle=training,
            even=training,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def _folder(self) -> Path:
        if self.index_folder is not None:
            return Path(self.index_folder)
        run_folder = Path(self.trainer.default_root_dir) if self.trainer else Path()
        return run_folder / f"index-{self.version}"

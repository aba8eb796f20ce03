"""Data of a training run: a set in nuScenes' format, its index, and loaders over some of its scenes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from perception.data.dataset import SampleDataset, Transform
from perception.data.gt_paste import GroundTruthPaste
from perception.data.gt_paste_objects import ObjectDatabase, build_object_database, describe_source
from perception.data.index import Index
from perception.data.index_build import build_index
from perception.data.loader import build_loader
from perception.data.loading import CameraLoading, LidarLoading, RangingLoading, SampleLoader
from perception.data.problems import OnError
from perception.data.samplers import ClassBalancedSampler, DriveSampler, EpochSampler, present_classes
from perception.data.sensor_settings import SensorSuite, camera_groups
from perception.data.truths import ANNOTATIONS, TruthLoading
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
        balance_classes: whether an epoch draws training samples so that every class is the reason for equally many
            visits (see `ClassBalancedSampler`).
        follow_drives: whether each row of a batch is the moment after the same row of the batch before, as a detector
            with a history needs it (see `DriveSampler`); not together with `balance_classes`.
        on_error: "raise" stops at a damaged file; "skip" leaves the sensor out and counts it.
        class_names: classes that labels count from 0; the detector must have the same.
        truths: what to load of what is known to be there.
    """

    batch_size: int = 1
    num_workers: int = 0
    seed: int = 0
    repeats: int = 1
    balance_classes: bool = False
    follow_drives: bool = False
    on_error: OnError = "raise"
    class_names: Sequence[str] = DETECTION_CLASSES
    truths: TruthLoading = ANNOTATIONS


class NuScenesDataModule(LightningDataModule):
    """Loads a set in nuScenes' format for training.

    A run that goes on from a checkpoint gets the samples that it has not seen yet in its epoch, in the same order and
    with the same augmentation as without the interruption.

    Objects for `GroundTruthPaste` are cut out of the training samples before the first run, into the transform's
    `database` or else a folder of the run.

    Args:
        dataroot: folder of the set.
        version: its version, such as `v1.0-trainval`.
        index: folder of its index, made there if it does not exist; None makes one in the run's folder.
        train: split or scene names to train on.
        val: split or scene names to validate on; None does not validate.
        cameras: pictures to load, one group or several; None loads none.
        lidar: points to load; None loads none.
        ranging: what to load of radars and ultrasonic sensors; None loads none.
        transforms: augmentation of the training samples, applied one after the other.
        loader: how batches are made.

    Raises:
        ValueError: no sensor is asked for, two groups of cameras have one name, or drives are to be followed and
            classes balanced.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        version: str = "v1.0-mini",
        index: str | None = None,
        train: str | list[str] = "mini_train",
        val: str | list[str] | None = None,
        cameras: CameraLoading | Sequence[CameraLoading] | None = None,
        lidar: LidarLoading | None = None,
        ranging: RangingLoading | None = None,
        transforms: Sequence[Transform] = (),
        loader: LoaderSettings = LoaderSettings(),
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # the folder of a run is shared by its machines
        self.sensors = SensorSuite(
            cameras=camera_groups(cameras), lidar=lidar, ranging=RangingLoading() if ranging is None else ranging
        )
        if not self.sensors.names:
            raise ValueError("NuScenesDataModule: cameras, lidar or ranging must be asked for, got none")
        if loader.follow_drives and loader.balance_classes:
            raise ValueError("NuScenesDataModule: loader must have follow_drives or balance_classes, got both")
        self.dataroot = dataroot
        self.version = version
        self.index_folder = index
        self.scenes = {"train": train, "val": val}
        self.class_names = tuple(loader.class_names)
        self.transforms = tuple(transforms)
        self.settings = loader
        self._datasets: dict[str, SampleDataset] = {}
        self._place: tuple[int, int] | None = None  # epoch and batches done in it, where a run goes on
        if self.sensors.names != ("lidar",) and any(
            isinstance(transform, GroundTruthPaste) for transform in transforms
        ):
            _LOG.warning("GroundTruthPaste leaves samples with other sensors as they are; here it does next to nothing")

    @property
    def batch_size(self) -> int:
        """Samples per batch and device."""
        return self.settings.batch_size

    @property
    def follows_drives(self) -> bool:
        """Whether each row of a batch is the moment after the same row of the batch before."""
        return self.settings.follow_drives

    @property
    def truths(self) -> TruthLoading:
        """Which truths are loaded."""
        return self.settings.truths

    @property
    def knows_near_field(self) -> bool:
        """Whether some drive that is trained on has a truth of the near field; known after `setup`."""
        dataset = self._datasets["train"]
        numbers = set(dataset.loader.index.scenes_of(dataset.indices.numpy()).tolist())
        scenes = [dataset.loader.index.scenes[number] for number in numbers]
        return any((Path(self.dataroot) / "near_field" / scene).is_dir() for scene in scenes)

    def prepare_data(self) -> None:
        """Makes the index and the objects to paste where there are none."""
        folder = self._folder("index")
        if not folder.exists():
            _LOG.info("making the index of %s %s in %s", self.dataroot, self.version, folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            build_index(self.dataroot, self.version, folder)
        pastes = [transform for transform in self.transforms if isinstance(transform, GroundTruthPaste)]
        missing = {objects for paste in pastes if not (objects := self._folder("objects", paste.database)).exists()}
        for objects in sorted(missing):
            loader, positions = self._paste_source(Index.open(folder))
            _LOG.info("cutting the objects of %d samples out, into %s", len(positions), objects)
            build_object_database(loader, positions, objects, self.settings.num_workers)

    def setup(self, stage: str) -> None:
        """Opens the index and finds the samples.

        Args:
            stage: what the trainer is about to do.

        Raises:
            ValueError: the index is of another version; a split or scene is unknown; the objects to paste are of
                other samples.
        """
        index = Index.open(self._folder("index"))
        if index.version != self.version:
            raise ValueError(
                f"NuScenesDataModule: index must be of version {self.version}, {self._folder('index')} is of "
                f"{index.version}"
            )
        for name, scenes in self.scenes.items():
            if scenes is None:
                continue
            indices = index.samples_of(scenes).tolist()
            if name == "train":
                indices = indices * self.settings.repeats
            transforms = [self._ready(transform, index) for transform in self.transforms] if name == "train" else []
            detector = getattr(getattr(self.trainer, "lightning_module", None), "detector", None)
            self._datasets[name] = SampleDataset(
                self._sample_loader(index, self.sensors, self.settings.truths),
                indices,
                transforms,
                self.settings.seed,
                None if detector is None or name != "train" else detector.sensors,
            )

    def state_dict(self) -> dict[str, Any]:
        """Gives the place in the run.

        Returns:
            Batches of this process so far, and what they depend on.
        """
        trainer = self.trainer
        assert trainer is not None, "a trainer asks for the state"
        place = {
            "num_batches": trainer.fit_loop.epoch_loop.total_batch_idx + 1,
            "batches_per_epoch": int(trainer.num_training_batches),
        }
        return place | self._order()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a place in a run.

        Args:
            state_dict: as `state_dict` gave it.

        Raises:
            ValueError: the order of the samples would be another than in the run so far.
        """
        for name, value in self._order().items():
            if state_dict.get(name, 0) != value:
                raise ValueError(
                    f"NuScenesDataModule: a run must go on with the {name} it began with, {state_dict.get(name, 0)}, "
                    f"got {value}"
                )
        self._place = divmod(state_dict["num_batches"], state_dict["batches_per_epoch"])
        # Lightning looks for a state in the loader; this one goes on all the same.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

    def describe(self) -> dict[str, Any]:
        """Says what is trained and validated on.

        Returns:
            Plain values by name.
        """
        described: dict[str, Any] = {"dataroot": self.dataroot, "version": self.version}
        for name, dataset in self._datasets.items():
            source = describe_source(dataset.loader, dataset.indices.tolist())
            described[name] = f"{self.scenes[name]}: {source['num_samples']} samples, sha256 of their tokens"
            described[name] += f" {source['samples_sha256']}"
        return described

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
        dataset = self._datasets[name]
        sampler = self._sampler(dataset, training)
        if training and self._place is not None:
            epoch, num_batches = self._place
            self._place = None
            sampler.resume(epoch, num_batches * self.settings.batch_size)
        return build_loader(
            dataset,
            batch_size=self.settings.batch_size,
            sampler=sampler,
            num_workers=self.settings.num_workers,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def _sampler(self, dataset: SampleDataset, training: bool) -> EpochSampler:
        trainer, index = self.trainer, dataset.loader.index
        share: dict[str, Any] = {
            "seed": self.settings.seed,
            "rank": trainer.global_rank if trainer else 0,
            "world_size": trainer.world_size if trainer else 1,
            "even": training,
        }
        if training and self.settings.balance_classes:
            return ClassBalancedSampler(
                classes=present_classes(index, dataset.indices.tolist(), self.class_names), **share
            )
        if self.settings.follow_drives:
            drives = index.scenes_of(dataset.indices.numpy())
            return DriveSampler(drives=drives, batch_size=self.settings.batch_size, shuffle=training, **share)
        return EpochSampler(num_samples=len(dataset), shuffle=training, **share)

    def _sample_loader(self, index: Index, sensors: SensorSuite, truths: TruthLoading) -> SampleLoader:
        return SampleLoader(
            index=index,
            dataroot=self.dataroot,
            class_names=self.class_names,
            cameras=sensors.cameras,
            lidar=sensors.lidar,
            radar=sensors.ranging.radar,
            radar4d=sensors.ranging.radar4d,
            ultrasonic=sensors.ranging.ultrasonic,
            truths=truths,
            on_error=self.settings.on_error,
        )

    def _paste_source(self, index: Index) -> tuple[SampleLoader, list[int]]:
        """The training samples with points alone."""
        positions: list[int] = index.samples_of(self.scenes["train"]).tolist()  # type: ignore[arg-type]
        return self._sample_loader(index, self.sensors.only(["lidar"]), ANNOTATIONS), positions

    def _ready(self, transform: Transform, index: Index) -> Transform:
        """The transform, with the objects of the training samples if it pastes some."""
        if not isinstance(transform, GroundTruthPaste):
            return transform
        objects = ObjectDatabase(self._folder("objects", transform.database))
        wanted: Mapping[str, Any] = describe_source(*self._paste_source(index))
        changed = [name for name, value in wanted.items() if objects.description.get(name) != value]
        if changed:
            raise ValueError(
                f"NuScenesDataModule: {objects.folder} must hold the objects of these training samples, got another "
                f"{', '.join(changed)}; remove it to have it made again"
            )
        return transform.with_objects(objects)

    def _order(self) -> dict[str, int]:
        """What the order of the samples of a process depends on, beside the set."""
        trainer = self.trainer
        return {
            "num_samples": len(self._datasets["train"]),
            "batch_size": self.settings.batch_size,
            "world_size": trainer.world_size if trainer else 1,
            "seed": self.settings.seed,
            "balance_classes": int(self.settings.balance_classes),
            "follow_drives": int(self.settings.follow_drives),
        }

    def _folder(self, kind: str, given: str | None = None) -> Path:
        """Where the index or the objects lie: where the user says, or in the run's folder."""
        chosen = self.index_folder if kind == "index" else given
        if chosen is not None:
            return Path(chosen)
        run_folder = Path(self.trainer.default_root_dir) if self.trainer else Path()
        return run_folder / f"{kind}-{self.version}"

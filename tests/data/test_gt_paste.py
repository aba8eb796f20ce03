"""Ground-truth paste: what is put in, what is left out, and that it depends on the generator alone."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perception.data.dataset import SampleDataset
from perception.data.gt_paste import GroundTruthPaste, free_boxes
from perception.data.gt_paste_objects import ObjectDatabase, build_object_database, cut_out_objects
from perception.data.loading import CameraLoading, LidarLoading, SampleLoader
from perception.data.samplers import seeded_generator
from perception.formats.classes import DETECTION_CLASSES
from perception.ops.box_iou_rotated import box_iou_rotated
from perception.ops.points_in_boxes import count_points_in_boxes, points_in_boxes
from perception.structures import Boxes3D, PointCloud, Sample
from tests.data.conftest import IndexedSet

CAR, PEDESTRIAN = DETECTION_CLASSES.index("car"), DETECTION_CLASSES.index("pedestrian")


def loader_of(indexed: IndexedSet, **arguments: object) -> SampleLoader:
    values = {"lidar": LidarLoading(num_sweeps=1)} | arguments
    return SampleLoader(index=indexed.index, dataroot=indexed.dataroot, class_names=DETECTION_CLASSES, **values)


@pytest.fixture(scope="module")
def objects(synthetic: IndexedSet, tmp_path_factory: pytest.TempPathFactory) -> ObjectDatabase:
    """The objects of scene-0103."""
    folder = tmp_path_factory.mktemp("paste") / "objects"
    build_object_database(loader_of(synthetic), [2, 3, 4, 3], folder)
    return ObjectDatabase(folder)


def empty_sample(points: Tensor | None = None, boxes: Tensor | None = None) -> Sample:
    """A street with so many points and cars."""
    boxes = torch.zeros(0, 9) if boxes is None else boxes
    return Sample(
        token="street",
        scene="made up",
        timestamp_us=0,
        ego2global=torch.eye(4, dtype=torch.float64),
        lidar=PointCloud(
            points=torch.zeros(0, 5) if points is None else points,
            fields=("intensity", "time_lag_s"),
            sensor2ego=torch.eye(4, dtype=torch.float64),
        ),
        boxes=Boxes3D(
            boxes=boxes,
            labels=torch.full((len(boxes),), CAR),
            num_lidar_points=torch.full((len(boxes),), 9),
            tokens=tuple(f"own{row}" for row in range(len(boxes))),
        ),
    )


def test_the_database_holds_every_object_with_its_points(synthetic: IndexedSet, objects: ObjectDatabase) -> None:
    samples = [loader_of(synthetic).load(position) for position in (2, 3, 4)]
    counts = [count_points_in_boxes(sample.lidar.points, sample.boxes.boxes) for sample in samples]
    assert len(objects) == sum(int((count > 0).sum()) for count in counts)
    everything = objects.take(range(len(objects)))
    tokens = [
        token
        for sample, count in zip(samples, counts, strict=True)
        for token, held in zip(sample.boxes.tokens, count.tolist(), strict=True)
        if held
    ]
    assert list(everything.boxes.tokens) == tokens
    assert torch.equal(everything.num_points, torch.cat([count[count > 0] for count in counts]))
    owners = torch.arange(len(objects)).repeat_interleave(everything.num_points)
    for row in range(len(objects)):
        held = points_in_boxes(everything.points[owners == row], everything.boxes.boxes[row : row + 1])
        assert bool((held == 0).all())
    one = objects.take([3])
    assert torch.equal(one.points, everything.points[owners == 3])
    assert one.boxes.tokens == everything.boxes.tokens[3:4]
    assert len(objects.take([]).points) == 0


@pytest.mark.slow
def test_workers_build_the_same_and_open_it_by_name(
    synthetic: IndexedSet, objects: ObjectDatabase, tmp_path: Path
) -> None:
    build_object_database(loader_of(synthetic), [2, 3, 4], tmp_path / "objects", num_workers=1)
    for path in objects.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "objects" / path.name).read_bytes()
    sent = pickle.dumps(objects)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).take([1]).points, objects.take([1]).points)


def test_a_sample_is_filled_up_to_the_counts(synthetic: IndexedSet, objects: ObjectDatabase) -> None:
    counts = {"car": 2, "pedestrian": 1, "bus": 3}
    paste = GroundTruthPaste(counts=counts, min_points=1).with_objects(objects)
    scene = torch.rand(20000, 5) * torch.tensor([60.0, 60, 3, 1, 1]) - torch.tensor([30.0, 30, 0, 0, 0])
    street = empty_sample(points=scene)
    filled = paste(street, seeded_generator(1))
    assert len(street.boxes) == 0  # the argument stays
    labels = filled.boxes.labels.tolist()
    assert 1 <= labels.count(CAR) <= 2
    assert labels.count(PEDESTRIAN) == 1
    assert set(labels) == {CAR, PEDESTRIAN}  # there is no bus to paste
    rows = {token: row for row, token in enumerate(objects.take(range(len(objects))).boxes.tokens)}
    pasted = objects.take([rows[token] for token in filled.boxes.tokens])
    assert torch.equal(filled.boxes.boxes, pasted.boxes.boxes)
    held = points_in_boxes(filled.lidar.points, filled.boxes.boxes) >= 0
    assert torch.equal(filled.lidar.points[held], pasted.points)  # its own points there are gone, the object's are in
    outside = points_in_boxes(street.lidar.points, filled.boxes.boxes) < 0
    assert torch.equal(filled.lidar.points[~held], street.lidar.points[outside])
    assert int((~outside).sum()) > 0
    overlaps = box_iou_rotated(filled.boxes.boxes, filled.boxes.boxes)
    assert not bool((overlaps - torch.diag(overlaps.diag()) > 0).any())


def test_present_objects_count_and_keep_their_place(objects: ObjectDatabase) -> None:
    paste = GroundTruthPaste(counts={"car": 1}, min_points=1).with_objects(objects)
    crowded = empty_sample(boxes=torch.tensor([[40.0, 40, 0, 4, 2, 2, 0, 0, 0]]))
    assert paste(crowded, seeded_generator(0)) is crowded
    # One box that covers the whole street leaves no room.
    paste = GroundTruthPaste(counts={"car": 9, "pedestrian": 9}, min_points=1).with_objects(objects)
    blocked = empty_sample(boxes=torch.tensor([[0.0, 0, 0, 200, 200, 2, 0, 0, 0]]))
    assert paste(blocked, seeded_generator(0)) is blocked


def test_candidates_are_taken_in_order_unless_they_collide() -> None:
    def box(x: float, y: float, yaw: float = 0.0) -> list[float]:
        return [x, y, 0, 4, 2, 2, yaw, 0, 0]

    present = torch.tensor([box(0, 0)])
    # Overlaps what is there; free; overlaps the second; overlaps the first alone, which is left out; a turned
    # neighbour whose bounding box, but not footprint, overlaps the second.
    candidates = torch.tensor([box(3, 0), box(10, 0), box(13, 0.5), box(6.5, 0), box(13, 3, 0.8)])
    assert free_boxes(candidates, present).tolist() == [False, True, False, False, True]
    assert free_boxes(torch.zeros(0, 9), present).tolist() == []
    assert free_boxes(candidates[1:2], torch.zeros(0, 9)).tolist() == [True]


def test_objects_with_few_points_are_not_pasted(objects: ObjectDatabase) -> None:
    most = int(objects.num_lidar_points.max())
    counts = dict.fromkeys(DETECTION_CLASSES, 5)
    few = GroundTruthPaste(counts=counts, min_points=most).with_objects(objects)
    filled = few(empty_sample(), seeded_generator(0))
    assert set(filled.boxes.num_lidar_points.tolist()) == {most}
    none = GroundTruthPaste(counts=counts, min_points=most + 1).with_objects(objects)
    street = empty_sample()
    assert none(street, seeded_generator(0)) is street


def test_it_depends_on_the_generator_and_stops_at_its_epoch(synthetic: IndexedSet, objects: ObjectDatabase) -> None:
    paste = GroundTruthPaste(counts=dict.fromkeys(DETECTION_CLASSES, 9), min_points=1, until_epoch=2)
    dataset = SampleDataset(loader_of(synthetic), [0, 1], [paste.with_objects(objects)], seed=3)
    plain = SampleDataset(loader_of(synthetic), [0, 1])
    first, again, other = dataset[(0, 0)], dataset[(0, 0)], dataset[(1, 0)]
    assert first.boxes.tokens == again.boxes.tokens != other.boxes.tokens
    assert torch.equal(first.lidar.points, again.lidar.points)
    assert len(first.boxes) > len(plain[0].boxes)
    assert dataset[(2, 0)].boxes.tokens == plain[0].boxes.tokens


def test_samples_with_pictures_or_without_points_stay(synthetic: IndexedSet, objects: ObjectDatabase) -> None:
    paste = GroundTruthPaste(counts={"car": 9}, min_points=1).with_objects(objects)
    for arguments in (
        {"cameras": CameraLoading(image_size_px=(9, 16))},
        {"lidar": None, "cameras": CameraLoading(image_size_px=(9, 16))},
        {"truths": None},
    ):
        sample = loader_of(synthetic, **arguments).load(0)
        assert paste(sample, seeded_generator(0)) is sample
    assert cut_out_objects(sample) is None


def test_what_does_not_fit_is_refused(synthetic: IndexedSet, objects: ObjectDatabase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"counts and min_points must be >= 0, got \{'car': -1\}"):
        GroundTruthPaste(counts={"car": -1})
    with pytest.raises(ValueError, match=r"counts must name classes of .*, got \['tram'\]"):
        GroundTruthPaste(counts={"tram": 1}).with_objects(objects)
    paste = GroundTruthPaste(counts={"car": 1})
    with pytest.raises(RuntimeError, match="objects must be given"):
        paste(empty_sample(), seeded_generator(0))
    street = empty_sample()
    strange = PointCloud(points=torch.zeros(1, 4), fields=("intensity",), sensor2ego=street.lidar.sensor2ego)
    with pytest.raises(ValueError, match=r"objects must have the fields \('intensity',\) of sample street"):
        paste.with_objects(objects)(Sample(**{**vars(street), "lidar": strange}), seeded_generator(0))
    with pytest.raises(FileExistsError, match="folder must not exist"):
        build_object_database(loader_of(synthetic), [0], objects.folder)
    with pytest.raises(ValueError, match="must load LiDAR points, got cameras alone"):
        build_object_database(loader_of(synthetic, lidar=None), [0], tmp_path / "new")
    with pytest.raises(ValueError, match="1 samples must hold an object with points"):
        build_object_database(loader_of(synthetic, truths=None), [0], tmp_path / "new")


def test_a_damaged_database_is_refused(synthetic: IndexedSet, tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    build_object_database(loader_of(synthetic), [0], folder)
    points = folder / "points.f32"
    content = points.read_bytes()
    points.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"points.f32 must hold \d+ points of 5 numbers, got \d+ bytes"):
        ObjectDatabase(folder)
    points.write_bytes(content)
    description = json.loads((folder / "objects.json").read_text())
    (folder / "objects.json").write_text(json.dumps({**description, "tokens": ["one"]}))
    with pytest.raises(ValueError, match="equally many boxes, labels, counts and tokens"):
        ObjectDatabase(folder)
    (folder / "objects.json").write_text(json.dumps({**description, "format": 9}))
    with pytest.raises(ValueError, match="format must be 1, got 9"):
        ObjectDatabase(folder)
    with pytest.raises(ValueError, match="must be a whole object database"):
        ObjectDatabase(tmp_path / "none")

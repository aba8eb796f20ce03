"""History: maps moved by the true motion, drives that begin anew, what is remembered, a detector with a state."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.geometry.transforms import rigid, transform_points, yaw_matrix
from perception.models.detector import Detector
from perception.models.flips import flip_matrix
from perception.models.temporal.history import BevHistory, BevMemory, _Past, _warp_seen
from perception.models.temporal.warp import warp_maps
from perception.structures import Batch, BevMap, FusedFeatures
from perception.structures.state import DetectorState
from tests.models.scenes import augmentation, make_batch, make_cameras, make_detector, make_lidar, two_boxes

SMALL = Grid((-8.0, 8.0), (-6.4, 6.4), (-5.0, 3.0), (0.8, 0.8, 8.0))  # 16 rows of 20 cells
NOTHING = torch.eye(4, dtype=torch.float64)


def pose(x: float, y: float, yaw_rad: float) -> Tensor:
    """(4, 4) `ego2global` far from the origin of the map."""
    place = torch.tensor([1000.0 + x, 600.0 + y, 0.0], dtype=torch.float64)
    return rigid(yaw_matrix(torch.tensor(yaw_rad, dtype=torch.float64))[:3, :3], place)


def moments(
    poses: list[Tensor], seconds: float, scenes: list[str] | None = None, ego2aug: Tensor | None = None
) -> Batch:
    batch = make_batch(None, None, [None] * len(poses), ego2aug)
    return dataclasses.replace(
        batch,
        scenes=tuple(scenes or ["a"] * len(poses)),
        timestamps_us=torch.full((len(poses),), 1_500_000_000_000_000 + round(seconds * 1e6)),
        ego2global=torch.stack(poses),
    )


def fused_of(features: Tensor, grid: Grid = SMALL) -> FusedFeatures:
    validity = torch.ones_like(features[:, :1], dtype=torch.bool)
    return FusedFeatures(bev={"main": BevMap(features=features, validity=validity, grid=grid)})


def painted(batch: Batch) -> Tensor:
    """(B, 2, Y, X) a linear function of the place in the world, which interpolation keeps exactly."""
    aug2global = batch.ego2global @ torch.linalg.inv(batch.ego2aug)
    centers = torch.nn.functional.pad(SMALL.centers_xy(), (0, 1)).flatten(0, 1)
    places = torch.stack([transform_points(move, centers) for move in aug2global])  # (B, Y * X, 3)
    x, y = places[..., 0] - 1000, places[..., 1] - 600
    return torch.stack((0.3 * x - 0.2 * y + 1, 0.1 * x + 0.4 * y), dim=1).unflatten(2, (16, 20)).float()


def history(num_moments: int = 2, channels: int = 2) -> BevHistory:
    return BevHistory(channels={"main": channels}, num_moments=num_moments).eval()


@pytest.mark.parametrize("then", [None, augmentation(0.3, 1.1, True)])
@pytest.mark.parametrize("now", [None, augmentation(-1.0, 0.9, False)])
def test_maps_are_moved_by_the_true_motion_whatever_the_augmentation(then: Tensor | None, now: Tensor | None) -> None:
    earlier = moments([pose(0, 0, 0.2), pose(5, 1, -2.0)], 0.0, ego2aug=then)
    later = moments([pose(1.7, -0.6, 0.5), pose(4.0, 1.5, -2.2)], 0.5, ego2aug=now)
    _, memory = history()(fused_of(painted(earlier)), earlier)
    aug2global = later.ego2global @ torch.linalg.inv(later.ego2aug)
    now2then = torch.linalg.inv(memory.aug2global[:, 0]) @ aug2global
    warped, inside = warp_maps(memory.features["main"][:, 0], now2then, SMALL)
    assert inside.float().mean() > 0.4
    shrunk, _ = warp_maps(torch.ones(2, 1, 16, 20), now2then, SMALL)
    interior = shrunk > 0.999  # at the border, the map fades into nothing
    torch.testing.assert_close(warped.where(interior, 0.0), painted(later).where(interior, 0.0), rtol=1e-4, atol=1e-4)


def test_a_standing_thing_stays_at_its_place_in_the_world() -> None:
    # 4 m ahead and 2 m left; the vehicle drives 1.6 m and turns to the left: then it is 2.4 m ahead of where it stood.
    bright = torch.zeros(1, 1, 16, 20)
    bright[0, 0, 10, 15] = 1.0  # its centre lies at x 4.4, y 2.0
    now2then = yaw_matrix(torch.tensor([math.pi / 2], dtype=torch.float64))
    now2then[0, :2, 3] = torch.tensor([1.6, 0.0])
    warped, _ = warp_maps(bright, now2then, SMALL)
    # Relative to the vehicle (2.8, 2.0) along the old axes, which is 2.0 ahead and 2.8 to the right along the new.
    assert warped[0, 0].argmax().item() == 4 * 20 + 12
    nearest, inside = warp_maps(bright, now2then, SMALL, nearest=True)
    assert nearest.sum() == 1
    assert not inside.all()


def test_without_a_past_nothing_changes() -> None:
    batch = moments([pose(0, 0, 0), pose(1, 0, 0)], 0.0)
    fused = fused_of(torch.randn(2, 2, 16, 20))
    result, memory = history()(fused, batch)
    assert torch.equal(result.bev["main"].features, fused.bev["main"].features)
    assert memory.kept.tolist() == [[True], [True]]
    assert torch.equal(memory.features["main"][:, 0], fused.bev["main"].features)


def step(part: BevHistory, features: Tensor, batch: Batch, state: BevMemory | None) -> tuple[Tensor, BevMemory]:
    fused, memory = part(fused_of(features), batch, state)
    return fused.bev["main"].features, memory


def test_a_drive_that_begins_anew_forgets() -> None:
    part, maps = history(), torch.randn(4, 2, 16, 20)
    poses = [pose(0, 0, 0)] * 4
    _, memory = step(part, maps, moments(poses, 0.0, ["a", "b", "c", "d"]), None)
    scenes = ["a", "other", "c", "d"]
    later = moments(poses, 0.5, scenes)
    forgotten = memory.reset(torch.tensor([False, False, True, False]))
    assert memory.kept.all()
    result, _ = step(part, maps, later, forgotten)
    changed = [not torch.equal(a, b) for a, b in zip(result, maps, strict=True)]
    assert changed == [True, False, False, True]
    for seconds in (0.0, -1.0, 2.5):  # the same moment, back in time, too long ago
        result, _ = step(part, maps, moments(poses, seconds, ["a", "b", "c", "d"]), memory)
        assert torch.equal(result, maps)


def test_a_jump_back_forgets_what_lay_before_it_as_well() -> None:
    part, maps = history(num_moments=2), torch.randn(1, 2, 16, 20)
    memory = None
    for seconds in (0.0, 1.0):
        _, memory = step(part, maps, moments([pose(0, 0, 0)], seconds, ["a"]), memory)
    assert memory.kept.tolist() == [[True, True]]
    result, memory = step(part, maps, moments([pose(0, 0, 0)], 0.5, ["a"]), memory)
    assert torch.equal(result, maps) and memory.kept.tolist() == [[True, False]]


def test_neighbours_do_not_matter() -> None:
    part, maps = history(), torch.randn(3, 2, 16, 20)
    poses, scenes = [pose(0, 0, 0), pose(3, 1, 1), pose(2, 2, 2)], ["a", "b", "c"]
    _, memory = step(part, maps, moments(poses, 0.0, scenes), None)
    together, _ = step(
        part, maps.flip(0), moments(poses, 0.5, scenes), memory.reset(torch.tensor([False, True, False]))
    )
    for row in range(3):
        _, own = step(part, maps[row : row + 1], moments([poses[row]], 0.0, [scenes[row]]), None)
        own = None if row == 1 else own
        alone, _ = step(part, maps.flip(0)[row : row + 1], moments([poses[row]], 0.5, [scenes[row]]), own)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_last_moments_are_remembered_newest_first_as_they_were_seen() -> None:
    part, memory, seen = history(num_moments=3), None, []
    for number in range(5):
        seen.append(torch.randn(1, 2, 16, 20))
        _, memory = step(part, seen[-1], moments([pose(number, 0, 0)], 0.5 * number), memory)
    assert torch.equal(memory.features["main"][0], torch.cat(seen[:1:-1]))
    assert (memory.timestamps_us.diff(dim=1) == -500_000).all()
    assert memory.kept.all()


def test_what_lies_in_forgotten_rows_is_not_read() -> None:
    part, maps = history().train(), torch.randn(2, 2, 16, 20)
    poses = [pose(0, 0, 0)] * 2
    _, memory = step(part, maps, moments(poses, 0.0), None)
    memory = memory.reset(torch.tensor([False, True]))
    memory.features["main"][1] = torch.nan
    memory.aug2global[1] = torch.nan
    result, _ = step(part, maps, moments(poses, 0.5), memory)
    assert result.isfinite().all()
    result.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in part.parameters())
    assert all(buffer.isfinite().all() for buffer in part.buffers())


def test_cells_that_were_not_seen_then_take_nothing() -> None:
    part, maps = history(), torch.randn(1, 2, 16, 20)
    _, memory = step(part, maps, moments([pose(0, 0, 0)], 0.0), None)
    memory.validity["main"][..., :8] = False
    result, _ = part(fused_of(maps), moments([pose(0, 0, 0)], 0.5), memory)
    changed = (result.bev["main"].features != maps).any(1)[0]
    assert not changed[:, :8].any()
    assert changed[:, 8:].any()
    blind = dataclasses.replace(fused_of(maps).bev["main"], validity=torch.zeros(1, 1, 16, 20, dtype=torch.bool))
    result, newer = part(FusedFeatures(bev={"main": blind}), moments([pose(0, 0, 0)], 0.5), memory)
    assert torch.equal(result.bev["main"].validity, memory.validity["main"][:, 0])
    assert not newer.validity["main"][:, 0].any()  # only what was seen at the time


def test_cells_take_nothing_from_unseen_neighbours_and_do_not_fade_at_the_edge() -> None:
    maps = torch.ones(1, 2, 16, 20)
    validity = torch.ones(1, 1, 16, 20, dtype=torch.bool)
    validity[..., 8:] = False
    move = torch.eye(4, dtype=torch.float64)
    move[0, 3] = 0.3 * SMALL.cell_m[0]  # what is 1 and was seen comes to 0.3 from what is 100 and was not
    past = _Past(
        features=maps.masked_fill(~validity, 100.0), validity=validity, now2then=move[None],
        ages_s=torch.ones(1), kept=torch.ones(1, 1, dtype=torch.bool),
    )  # fmt: skip
    warped, seen = _warp_seen(past, SMALL)
    assert seen[0, 0, 0].tolist() == [True] * 8 + [False] * 12
    torch.testing.assert_close(warped[..., :8], maps[..., :8])
    past = dataclasses.replace(past, now2then=torch.linalg.inv(move)[None])
    warped, seen = _warp_seen(past, SMALL)
    assert seen[0, 0, 0].tolist() == [True] * 8 + [False] * 12  # the first reaches 0.3 of a cell beyond the map
    torch.testing.assert_close(warped[..., :8], maps[..., :8])


@pytest.mark.parametrize("broken", ["map", "pose"])
def test_a_moment_that_is_not_finite_is_not_remembered(broken: str) -> None:
    part, maps = history(), torch.randn(2, 2, 16, 20)
    poses = [pose(0, 0, 0), pose(1, 0, 0)]
    _, memory = step(part, maps, moments(poses, 0.0), None)
    spoilt, wrong = maps.clone(), moments(poses, 0.5)
    if broken == "map":
        spoilt[1, 0, 3, 4] = torch.nan
    else:
        wrong = dataclasses.replace(wrong, ego2global=wrong.ego2global.clone())
        wrong.ego2global[1, 0, 3] = torch.nan
    result, memory = step(part, spoilt, wrong, memory)
    assert result[0].isfinite().all()
    assert broken == "map" or torch.equal(result[1], maps[1])  # nobody knows how the past lies to it
    assert memory.kept[:, 0].tolist() == [True, False]
    result, _ = step(part, maps, moments(poses, 1.0), memory)
    assert result.isfinite().all()


def test_age_and_what_was_seen_then_matter() -> None:
    part, maps = history(), torch.randn(1, 2, 16, 20)
    maps[..., 4:8] = 0.0
    _, memory = step(part, maps, moments([pose(0, 0, 0)], 0.0), None)
    soon, _ = step(part, maps, moments([pose(0, 0, 0)], 0.5), memory)
    late, _ = step(part, maps, moments([pose(0, 0, 0)], 1.5), memory)
    assert not torch.allclose(soon, late)
    memory.validity["main"][..., 4:8] = False  # told to the comparison, which looks at the cells around
    less, _ = step(part, maps, moments([pose(0, 0, 0)], 0.5), memory)
    assert not torch.allclose(less[..., 3], soon[..., 3])
    assert torch.equal(less[..., 4:8], maps[..., 4:8])


def test_the_past_is_learnt_from() -> None:
    # What was bright a moment ago and cannot be seen now is still there, at its place in the world.
    part = BevHistory(channels={"main": 4}, num_moments=1)
    optimizer, errors = torch.optim.Adam(part.parameters(), 0.02), []
    for number in range(80):
        past = torch.rand(2, 4, 16, 20)
        motion = [pose(0.4 * (number % 5), 0, 0.1 * (number % 3)), pose(0, 0.3, 0)]
        _, memory = step(part, past, moments([pose(0, 0, 0)] * 2, 0.0), None)
        later = moments(motion, 0.5)
        result, _ = step(part, torch.zeros(2, 4, 16, 20), later, memory)
        now2then = torch.linalg.inv(memory.aug2global[:, 0]) @ later.ego2global
        expected, inside = warp_maps(past, now2then, SMALL)
        loss = ((result - expected) * inside).square().sum() / inside.sum() / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.15 * errors[0]


def test_states_that_do_not_fit_are_refused() -> None:
    part = history()
    batch = moments([pose(0, 0, 0)], 0.0)
    _, memory = part(fused_of(torch.randn(1, 2, 16, 20)), batch)
    two = moments([pose(0, 0, 0)] * 2, 0.5)
    with pytest.raises(ValueError, match=r"state must be of 2 drives and levels .'main'., got 1 and .'main'."):
        part(fused_of(torch.randn(2, 2, 16, 20)), two, memory)
    with pytest.raises(ValueError, match=r"state must be of the grids .*, got .*"):
        part(fused_of(torch.randn(1, 2, 16, 16), Grid.square(4.0, 0.5)), moments([pose(0, 0, 0)], 0.5), memory)
    with pytest.raises(TypeError, match="state must be a BevMemory, got str"):
        part(fused_of(torch.randn(1, 2, 16, 20)), batch, "memory")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels must name a level and num_moments be above 0"):
        BevHistory(channels={"main": 2}, num_moments=0)


def detector_with_history(channels: int = 16, **values: object) -> Detector:
    given = make_detector()
    return Detector(
        grids=given.grids,
        class_names=list(given.class_names),
        branches=dict(given.branches),
        fuser=given.fuser,
        neck=given.neck,
        heads=dict(given.heads),
        temporal=BevHistory(channels={"main": channels}),
        **values,  # type: ignore[arg-type]
    )


def keyframe(seconds: float) -> Batch:
    batch = make_batch(
        make_cameras([[True] * 3] * 2), make_lidar([300, 200]), [two_boxes(), two_boxes()], augmentation()
    )
    drive = moments([pose(seconds, 0, 0), pose(0, seconds, 1)], seconds, ["a", "b"])
    return dataclasses.replace(
        batch, scenes=drive.scenes, timestamps_us=drive.timestamps_us, ego2global=drive.ego2global
    )


def test_a_detector_hands_its_state_on() -> None:
    detector = detector_with_history()
    first = detector(keyframe(0.0))
    assert isinstance(first.state, DetectorState)
    later = keyframe(0.5)
    detector.eval()
    fresh, followed = detector(later), detector(later, state=first.state.to("cpu"))
    assert not torch.allclose(fresh.heads["boxes"].heatmap, followed.heads["boxes"].heatmap)
    reset = detector(later, state=first.state.reset(torch.tensor([True, True])))
    assert torch.equal(reset.heads["boxes"].heatmap, fresh.heads["boxes"].heatmap)
    detector.train()
    losses = detector.losses(detector(later, state=first.state), later)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    assert all(p.grad.any() for p in detector.temporal.parameters())
    alone = detector_with_history()
    losses = alone.losses(alone(later), later)  # without a past, its parameters get zeros
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in alone.parameters())
    assert make_detector()(later).state is None


def test_mirrored_looks_share_the_state_of_the_frame_as_it_is() -> None:
    plain = detector_with_history().eval()
    flipped = detector_with_history(test_flips=["y"]).eval()
    flipped.load_state_dict(plain.state_dict())
    state = plain(keyframe(0.0)).state
    mine, other = flipped(keyframe(0.5), state=state).state, plain(keyframe(0.5), state=state).state
    assert mine is not None
    assert other is not None
    assert torch.equal(mine.parts["temporal"].aug2global, other.parts["temporal"].aug2global)  # type: ignore[attr-defined]


def test_every_mirrored_look_has_the_history() -> None:
    plain = detector_with_history().eval()
    flipped = detector_with_history(test_flips=["y"]).eval()
    flipped.load_state_dict(plain.state_dict())
    state, later = plain(keyframe(0.0)).state, keyframe(0.5)
    mirrored = dataclasses.replace(later, ego2aug=flip_matrix("y") @ later.ego2aug)
    looks = {"": plain(later, state=state).heads["boxes"], "y": plain(mirrored, state=state).heads["boxes"]}
    merged = plain.heads["boxes"].merge_flips(looks)  # type: ignore[operator]
    assert torch.equal(flipped(later, state=state).heads["boxes"].heatmap, merged.heatmap)
    without = plain(mirrored).heads["boxes"]
    assert not torch.allclose(looks["y"].heatmap, without.heatmap)


def test_a_history_that_does_not_fit_the_fuser_is_refused() -> None:
    with pytest.raises(
        ValueError, match="BevHistory requires 8 channels on level 'main', but ConcatConvFuser gives 16"
    ):
        detector_with_history(channels=8)

"""The losses of occupancy: by hand, against plain references, with voxels that stand for several."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from perception.geometry.grid import Grid
from perception.models.heads.occupancy_output import OccupancyOutput
from perception.models.heads.occupancy_targets import BEYOND_MASK, UNKNOWN, OccupancyTargets
from perception.models.losses.occupancy import (
    OccupancyLoss,
    geometric_affinity,
    lovasz_softmax,
    semantic_affinity,
    weighted_cross_entropy,
)

GRID = Grid((0.0, 8.0), (0.0, 4.0), (0.0, 2.0), (1.0, 1.0, 1.0))
CLASSES, FREE = 4, 3
NAMES = ("cross_entropy", "lovasz", "semantic_affinity", "geometric_affinity")


def case(seed: int = 0, voxels: int = 60) -> tuple[Tensor, Tensor]:
    """(K, V) predicted shares and (V,) labels of which class 1 has none."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.randn(CLASSES, voxels, generator=generator).mul(2).softmax(0)
    return shares, torch.tensor([0, 2, 3])[torch.randint(0, 3, (voxels,), generator=generator)]


def jaccard_loss(mine: Tensor, wrong: Tensor) -> float:
    """One minus the intersection over union where some voxels are wrong."""
    said = mine ^ wrong
    return 1 - ((mine & said).sum() / (mine | said).sum()).item()


def test_cross_entropy_by_hand() -> None:
    logs = torch.tensor([[0.5, 0.25, 0.125], [0.5, 0.75, 0.875]]).log()
    labels = torch.tensor([0, 0, 1])
    plain = weighted_cross_entropy(logs, labels, torch.ones(3), torch.ones(2))
    assert plain.item() == pytest.approx(-(math.log(0.5) + math.log(0.25) + math.log(0.875)) / 3)
    weighted = weighted_cross_entropy(logs, labels, torch.tensor([1.0, 1, 4]), torch.tensor([2.0, 0.5]))
    assert weighted.item() == pytest.approx(-(2 * math.log(0.5) + 2 * math.log(0.25) + 2 * math.log(0.875)) / 6)


def test_lovasz_of_sure_answers_is_one_minus_the_intersection_over_union() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3])
    said = torch.tensor([0, 0, 1, 1, 1, 3, 3, 0])
    shares = torch.nn.functional.one_hot(said, CLASSES).T.float()
    expected = 1 - (2 / 4 + 2 / 3 + 2 / 3) / 3
    assert lovasz_softmax(shares, labels, torch.ones(8)).item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_lovasz_is_the_integral_over_thresholds_of_the_error(seed: int) -> None:
    # The extension of a set function: its value on the voxels whose error is above t, integrated over t from 0 to 1.
    shares, labels = case(seed)
    terms = []
    for number in (0, 2, 3):
        mine = labels == number
        errors = torch.where(mine, 1 - shares[number], shares[number])
        levels = torch.cat((torch.zeros(1), errors.sort().values))
        terms.append(
            sum((high - low).item() * jaccard_loss(mine, errors >= high) for low, high in itertools.pairwise(levels))
        )
    assert lovasz_softmax(shares, labels, torch.ones(60)).item() == pytest.approx(sum(terms) / 3, rel=1e-5)


def test_affinities_by_hand() -> None:
    shares = torch.tensor([[0.6, 0.2, 0.1], [0.1, 0.5, 0.1], [0.0, 0.0, 0.0], [0.3, 0.3, 0.8]])
    labels = torch.tensor([0, 0, 3])
    first = -math.log(0.8 / 0.9) - math.log(0.8 / 2) - math.log(0.9)
    last = -math.log(0.8 / 1.4) - math.log(0.8) - math.log(1.4 / 2)
    assert semantic_affinity(shares, labels, torch.ones(3)).item() == pytest.approx((first + last) / 2, rel=1e-5)
    occupied = -math.log(1.4 / 1.6) - math.log(1.4 / 2) - math.log(0.8)
    assert geometric_affinity(shares, labels, torch.ones(3)).item() == pytest.approx(occupied, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_affinities_equal_a_plain_reading_of_the_paper(seed: int) -> None:
    shares, labels = case(seed)

    def affinity(found: Tensor, mine: Tensor) -> Tensor:
        precision = (found * mine).sum() / found.sum()
        recall = (found * mine).sum() / mine.sum()
        specificity = ((1 - found) * ~mine).sum() / (~mine).sum()
        return -precision.log() - recall.log() - specificity.log()

    classes = [affinity(shares[number], labels == number) for number in (0, 2, 3)]
    torch.testing.assert_close(semantic_affinity(shares, labels, torch.ones(60)), torch.stack(classes).mean())
    torch.testing.assert_close(
        geometric_affinity(shares, labels, torch.ones(60)), affinity(1 - shares[FREE], labels != FREE)
    )


def test_a_voxel_that_stands_for_three_counts_as_three() -> None:
    shares, labels = case()
    weights = 1.0 + 2 * (torch.arange(60) % 2)
    times = weights.long()
    many, many_labels, ones = shares.repeat_interleave(times, 1), labels.repeat_interleave(times), torch.ones(120)
    for loss in (lovasz_softmax, semantic_affinity, geometric_affinity):
        torch.testing.assert_close(loss(shares, labels, weights), loss(many, many_labels, ones))
    every = torch.tensor([1.0, 2.0, 3.0, 0.5])
    torch.testing.assert_close(
        weighted_cross_entropy(shares.log(), labels, weights, every),
        weighted_cross_entropy(many.log(), many_labels, ones, every),
    )


@pytest.mark.parametrize("loss", [lovasz_softmax, semantic_affinity, geometric_affinity])
def test_gradients_are_right(loss: object) -> None:
    shares, labels = case(voxels=12)
    weights = 1.0 + torch.arange(12).double() % 3
    logits = shares.double().log().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: loss(value.softmax(0), labels, weights), (logits,))  # type: ignore[operator]


def made(seed: int = 0, free_share: float = 0.5) -> tuple[OccupancyOutput, OccupancyTargets]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, FREE, (2, *GRID.shape), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < free_share] = FREE
    logits = torch.randn(2, CLASSES, *GRID.shape, generator=generator).requires_grad_()
    return OccupancyOutput(logits=logits, grid=GRID), OccupancyTargets(labels=labels)


def test_the_losses_take_every_voxel_with_its_label() -> None:
    output, targets = made()
    losses = OccupancyLoss(class_counts=(10.0, 1000.0, 5.0, 0.0), lovasz=2.0)(output, targets)
    flat = output.logits.detach().movedim(1, 0).flatten(1)  # (K, V)
    labels, ones = targets.labels.flatten().long(), torch.ones(128)
    shares = flat.softmax(0)
    every = 1 / (torch.tensor([10.0, 1000.0, 5.0, 0.0]) + math.e).log()
    assert every[3] == pytest.approx(1)
    expected = (
        torch.nn.functional.cross_entropy(output.logits, targets.labels.long(), weight=every),
        2 * lovasz_softmax(shares, labels, ones),
        semantic_affinity(shares, labels, ones),
        geometric_affinity(shares, labels, ones),
    )
    assert tuple(losses) == NAMES
    torch.testing.assert_close(tuple(losses.values()), expected)


def test_voxels_that_do_not_count_change_nothing() -> None:
    output, targets = made()
    targets.labels[:, 0] = UNKNOWN
    before = OccupancyLoss()(output, targets)
    with torch.no_grad():
        output.logits[:, :, 0] = 1e4
    for name, value in OccupancyLoss()(output, targets).items():
        torch.testing.assert_close(value, before[name])
    torch.stack(list(before.values())).sum().backward()
    assert (output.logits.grad[:, :, 0] == 0).all() and output.logits.grad[:, :, 1].abs().min() > 0


@pytest.mark.parametrize("most", [None, 1000])
def test_voxels_beyond_the_mask_count_a_share(most: int | None) -> None:
    """As four times as many copies of what lies within the mask beside one of what lies beyond it."""
    output, targets = made()
    beyond = torch.zeros_like(targets.labels, dtype=torch.bool)
    beyond[..., ::3] = True
    marked = OccupancyTargets(labels=torch.where(beyond, targets.labels + BEYOND_MASK, targets.labels))
    found = OccupancyLoss(max_free_voxels=most, beyond_mask=0.25)(output, marked)
    shares = output.logits.detach().movedim(1, 0).flatten(1).softmax(0)  # (K, V)
    labels, repeats = targets.labels.flatten().long(), torch.where(beyond.flatten(), 1, 4)
    shares, labels = shares.repeat_interleave(repeats, 1), labels.repeat_interleave(repeats)
    ones = torch.ones(len(labels))
    losses = (lovasz_softmax, semantic_affinity, geometric_affinity)
    expected = (torch.nn.functional.nll_loss(shares.log().T, labels), *(loss(shares, labels, ones) for loss in losses))
    torch.testing.assert_close(tuple(found.values()), expected)
    without = OccupancyLoss(max_free_voxels=most, beyond_mask=0)(output, marked)
    unseen = OccupancyTargets(labels=torch.where(beyond, UNKNOWN, targets.labels))
    for name, value in OccupancyLoss(max_free_voxels=most)(output, unseen).items():
        assert torch.equal(without[name], value)


def test_thinned_free_voxels_beyond_the_mask_count_their_share_on_average() -> None:
    output, targets = made(free_share=0.9)
    beyond = torch.zeros_like(targets.labels, dtype=torch.bool)
    beyond[..., ::3] = True
    marked = OccupancyTargets(labels=torch.where(beyond, targets.labels + BEYOND_MASK, targets.labels))
    exact = OccupancyLoss(max_free_voxels=None)(output, marked)
    torch.manual_seed(0)
    thinned = OccupancyLoss(max_free_voxels=60)
    drawn = [thinned(output, marked) for _ in range(200)]
    for name, value in exact.items():
        values = torch.stack([one[name].detach() for one in drawn])
        torch.testing.assert_close(values.mean(), value.detach(), rtol=0.05, atol=0)


def test_without_any_truth_losses_are_zero_with_zero_gradients() -> None:
    output, targets = made()
    losses = OccupancyLoss(lovasz=0)(output, OccupancyTargets(labels=torch.full_like(targets.labels, UNKNOWN)))
    assert tuple(losses) == ("cross_entropy", "semantic_affinity", "geometric_affinity")
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total == 0 and (output.logits.grad == 0).all()


@pytest.mark.parametrize("label", [0, FREE])
def test_a_truth_of_one_class_gives_finite_losses(label: int) -> None:
    output, targets = made()
    losses = OccupancyLoss()(output, OccupancyTargets(labels=torch.full_like(targets.labels, label)))
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values()) and output.logits.grad.isfinite().all()


def test_extreme_logits_give_finite_losses() -> None:
    output, targets = made()
    sure = OccupancyOutput(logits=(output.logits.detach() * 1e4).requires_grad_(), grid=GRID)
    losses = OccupancyLoss()(sure, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values()) and sure.logits.grad.isfinite().all()


def test_mixed_precision_changes_the_logits_alone() -> None:
    output, targets = made()
    half = OccupancyOutput(logits=output.logits.detach().bfloat16(), grid=GRID)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = OccupancyLoss()(half, targets)
    expected = OccupancyLoss()(OccupancyOutput(logits=half.logits.float(), grid=GRID), targets)
    for name, value in expected.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], value)


def test_thinned_free_voxels_give_the_same_losses_on_average() -> None:
    output, targets = made(free_share=0.9)
    exact = OccupancyLoss(max_free_voxels=None)(output, targets)
    torch.manual_seed(0)
    thinned = OccupancyLoss(max_free_voxels=40)
    drawn = [thinned(output, targets) for _ in range(200)]
    for name, value in exact.items():
        values = torch.stack([one[name].detach() for one in drawn])
        assert values.std() > 0
        torch.testing.assert_close(values.mean(), value.detach(), rtol=0.05, atol=0)
    torch.manual_seed(0)
    assert torch.equal(thinned(output, targets)["lovasz"], drawn[0]["lovasz"])


def test_as_many_free_voxels_as_are_allowed_all_count() -> None:
    output, targets = made()
    number = int((targets.labels == FREE).sum())
    exact, allowed = (OccupancyLoss(max_free_voxels=most)(output, targets) for most in (None, number))
    for name, value in exact.items():
        assert torch.equal(allowed[name], value)


def test_settings_out_of_range_are_errors() -> None:
    for wrong in ({"lovasz": -1.0}, {"class_counts": (1.0, -1.0)}, {"beyond_mask": -0.1}):
        with pytest.raises(ValueError, match="weights, class_counts and beyond_mask must be at least 0"):
            OccupancyLoss(**wrong)
    with pytest.raises(ValueError, match="max_free_voxels must be at least 1, got 0"):
        OccupancyLoss(max_free_voxels=0)
    with pytest.raises(ValueError, match="class_counts must have 4 entries, got 2"):
        OccupancyLoss(class_counts=(1.0, 1.0))(*made())

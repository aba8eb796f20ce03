"""Object queries: matching and losses by hand, against brute force, and whatever order the boxes have."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perception.models.heads.query_output import QueryOutput
from perception.models.losses.query import QueryLoss
from perception.models.losses.query_matching import QueryMatching, focal_terms
from perception.structures import Boxes3D
from tests.models.query_scenes import GRID, NAMES, batch_with, box, output_of, regression_of, targets_of
from tests.models.scenes import make_boxes, two_boxes

CAR = 1  # among NAMES
EMPTY = make_boxes(torch.zeros(0, 9), [])


def focal(probability: float) -> tuple[float, float]:
    """Loss as a positive, and as a negative."""
    return (
        -0.25 * (1 - probability) ** 2 * math.log(probability),
        -0.75 * probability**2 * math.log(1 - probability),
    )


def test_focal_terms_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(0.2 / 0.8)], dtype=torch.float64)
    positive, negative = focal_terms(logits)
    expected = [focal(0.5), focal(0.2)]
    torch.testing.assert_close(torch.stack((positive, negative), dim=1), torch.tensor(expected, dtype=torch.float64))
    extreme = torch.tensor([-300.0, 300.0], requires_grad=True)
    assert torch.stack(focal_terms(extreme)).isfinite().all()
    torch.stack(focal_terms(extreme)).sum().backward()
    assert extreme.grad.isfinite().all()


def test_costs_by_hand() -> None:
    # The grid is 32 m long and 19.2 m wide. Box 0 is a car, box 1 a pedestrian far above.
    truth = torch.tensor([box(1.0, 1.0), box(5.0, -2.0, z=60.0)])
    queries = torch.tensor([box(3.0, 1.0), box(-3.0, 7.0, z=30.0)])
    scores = torch.tensor([[0.2, 0.9, 0.5], [0.3, 0.6, 0.5]], dtype=torch.float64)
    costs = QueryMatching(classes=2.0, center=3.0, overlap=5.0).costs(
        scores.logit(), regression_of(queries), GRID, truth, torch.tensor([CAR, 0])
    )

    def expected(score: float, dx: float, dy: float, overlap: float) -> float:
        positive, negative = focal(score)
        return 2 * (positive - negative) + 3 * (dx / 32 + dy / 19.2) - 5 * overlap

    by_hand = [
        [expected(0.9, 2, 0, 1 / 3), expected(0.2, 2, 3, 0)],  # half its length away: a third of the union is shared
        [expected(0.6, 4, 6, 0), expected(0.3, 8, 9, 0)],
    ]
    torch.testing.assert_close(costs, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def match(queries: list[list[float]], truth: list[list[float]], labels: list[int] | None = None) -> list[list[int]]:
    """Pairs of a query and a box, in one sample where all queries say the same of every class."""
    boxes = make_boxes(torch.tensor(truth).view(-1, 9), labels or [0] * len(truth))
    said = torch.tensor(queries)[None]
    output = output_of(said, torch.zeros(1, len(queries), 3), torch.zeros(1, len(queries), dtype=torch.long))
    targets = targets_of(batch_with([boxes]))
    pairs = QueryMatching().match(output, 0, targets.truth, targets.tokens)
    assert not pairs.sample.any()
    return torch.stack((pairs.query, pairs.box), dim=1).tolist()


def test_the_nearest_query_gives_way_where_all_together_are_better_off() -> None:
    # Nothing overlaps, so distances decide. Query 0 lies nearest to both boxes; query 1 is 4 m behind it.
    high = [box(0.0, 0.0, z=50.0), box(-4.0, 0.0, z=50.0), box(12.0, 8.0, z=50.0)]
    assert match(high, [box(1.0, 0.0), box(-1.5, 0.0)]) == [[0, 0], [1, 1]]  # 1 + 2.5, not 1.5 + 5
    assert match(high, [box(-1.5, 0.0), box(1.0, 0.0)]) == [[0, 1], [1, 0]]


def test_any_number_of_boxes() -> None:
    assert match([box(0, 0), box(5, 5)], []) == []
    assert match([box(0, 0), box(5, 5)], [box(5, 4.5)]) == [[1, 0]]
    assert match([box(0, 0)], [box(9, 9), box(0.5, 0), box(-9, 0)]) == [[0, 1]]


def test_equal_costs_are_settled_by_the_boxes_themselves() -> None:
    # Both queries are equally far from both boxes.
    queries = [box(0, -1, z=50.0), box(0, 1, z=50.0)]
    first, second = box(-3, 0), box(3, 0)
    straight, turned = match(queries, [first, second]), match(queries, [second, first])
    assert [[query, 1 - row] for query, row in turned] == straight


def random_case(seed: int, counts: tuple[int, ...], num_queries: int) -> tuple[QueryOutput, list[Boxes3D | None]]:
    generator = torch.Generator().manual_seed(seed)

    def rows(count: int) -> Tensor:
        values = torch.rand(count, 9, generator=generator)
        low, high = torch.tensor([-15, -9, 0, 1, 1, 1, -3, -9, -9.0]), torch.tensor([15, 9, 1, 5, 3, 2, 3, 9, 9.0])
        return (low + values * (high - low)).round(decimals=1)  # ties occur

    boxes = [make_boxes(rows(count), torch.randint(0, 3, (count,), generator=generator).tolist()) for count in counts]
    said = torch.stack([rows(num_queries) for _ in counts])
    logits = torch.randn(len(counts), num_queries, 3, generator=generator)
    channels = torch.zeros(len(counts), num_queries, dtype=torch.long)
    output = output_of(said, logits, channels)
    earlier = torch.randn(output.logits.shape, generator=generator)
    doubled = torch.cat((earlier, output.logits)), torch.cat((output.regression + 0.1, output.regression))
    return dataclasses.replace(output, logits=doubled[0], regression=doubled[1]), list(boxes)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_no_assignment_costs_less(seed: int, num_boxes: int, num_queries: int) -> None:
    output, boxes = random_case(seed, (num_boxes,), num_queries)
    targets, matching = targets_of(batch_with(boxes)), QueryMatching()
    pairs = matching.match(output, 1, targets.truth, targets.tokens)
    truth = targets.truth
    costs = matching.costs(output.logits[1, 0], output.regression[1, 0], GRID, truth.boxes, truth.channel)
    if num_queries < len(truth.boxes):
        costs = costs.T
    wide = range(costs.shape[0])
    best = min(
        sum(costs[row, column].item() for column, row in enumerate(rows))
        for rows in itertools.permutations(wide, costs.shape[1])
    )
    count = min(num_queries, len(truth.boxes))
    assert len(set(pairs.query.tolist())) == len(set(pairs.box.tolist())) == len(pairs.box) == count
    chosen = costs.T if num_queries < len(truth.boxes) else costs
    assert chosen[pairs.query, pairs.box].sum().item() == pytest.approx(best, abs=1e-9)


@given(st.integers(0, 10**6), st.tuples(st.integers(0, 6), st.integers(0, 6)), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_boxes_does_not_change_the_loss(seed: int, counts: tuple[int, int], random) -> None:
    output, boxes = random_case(seed, counts, 4)
    shuffled = []
    for one in boxes:
        order = list(range(len(one.labels)))
        random.shuffle(order)
        shuffled.append(make_boxes(one.boxes[order], one.labels[order].tolist()))
    first, second = (QueryLoss()(output, targets_of(batch_with(given))) for given in (boxes, shuffled))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_losses_by_hand() -> None:
    # A car and a pedestrian, of whom query 2 and 0 say the truth, off by 1 in every number; query 1 answers for none.
    batch = batch_with([two_boxes()])
    car, pedestrian = two_boxes().boxes.nan_to_num()
    said = torch.stack((pedestrian, torch.tensor(box(12.0, 5.0)), car))[None]
    logits = torch.full((1, 3, 3), math.log(0.2 / 0.8))
    output = output_of(said, logits, torch.zeros(1, 3, dtype=torch.long))
    regression = (output.regression + 1.0).requires_grad_()
    output = dataclasses.replace(output, regression=regression)
    loss = QueryLoss(offset=0.5, height=2.0, velocity=0.3, classes=3.0)
    losses = loss(output, targets_of(batch))
    positive, negative = focal(0.2)
    assert losses["classes"].item() == pytest.approx(3.0 * (2 * positive + 7 * negative) / 2, rel=1e-4)
    assert losses["offset"].item() == pytest.approx(0.5 * 4 / 2, rel=1e-4)
    assert losses["height"].item() == pytest.approx(2.0 * 2 / 2, rel=1e-4)
    assert losses["size"].item() == pytest.approx(0.25 * 6 / 2, rel=1e-4)
    assert losses["yaw"].item() == pytest.approx(0.25 * 4 / 2, rel=1e-4)
    assert losses["velocity"].item() == pytest.approx(0.3 * 2 / 2, rel=1e-4)  # the car's is unknown
    assert "auxiliary" not in losses
    assert "overlap" not in losses
    losses["velocity"].backward()
    assert regression.grad.isfinite().all()
    assert regression.grad[0, 0].nonzero().tolist() == [[0, 8], [0, 9]]


def test_the_guessed_overlap_learns_the_true_one() -> None:
    truth = make_boxes(torch.tensor([box(1.0, 1.0), box(-8.0, -2.0)]), [0, 0])
    said = torch.tensor([box(-8.0, -2.0), box(3.0, 1.0)])[None]  # the second shares a third of the union
    guess = torch.tensor([[[0.75, 0.0]]], requires_grad=True)
    output = output_of(said, torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long))
    losses = QueryLoss(overlap=2.0)(dataclasses.replace(output, overlap=guess), targets_of(batch_with([truth])))
    assert losses["overlap"].item() == pytest.approx(2.0 * (0.25 + 1 / 3) / 2, abs=1e-4)
    losses["overlap"].backward()
    torch.testing.assert_close(guess.grad, torch.tensor([[[-1.0, 1.0]]]))


def test_every_layer_has_losses() -> None:
    output, boxes = random_case(3, (4,), 5)
    targets = targets_of(batch_with(boxes))
    alone = [
        QueryLoss()(dataclasses.replace(output, logits=output.logits[[n]], regression=output.regression[[n]]), targets)
        for n in range(2)
    ]
    both = QueryLoss(auxiliary=0.5)(output, targets)
    earlier = sum(value for name, value in alone[0].items() if name != "heatmap")
    torch.testing.assert_close(both["auxiliary"], 0.5 * earlier)
    assert all(torch.equal(both[name], value) for name, value in alone[1].items())


def test_samples_without_annotations_do_not_count() -> None:
    output, boxes = random_case(5, (3, 2), 4)
    alone = dataclasses.replace(
        output, heatmap=output.heatmap[1:], logits=output.logits[:, 1:], regression=output.regression[:, 1:]
    )
    expected = QueryLoss()(alone, targets_of(batch_with(boxes[1:])))
    found = QueryLoss()(output, targets_of(batch_with([None, boxes[1]])))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    nothing = QueryLoss()(output, targets_of(batch_with([None, None])))
    assert all(value == 0 for value in nothing.values())


def test_no_boxes_teach_that_nothing_is_there() -> None:
    output, _ = random_case(5, (3,), 4)
    losses = QueryLoss()(output, targets_of(batch_with([EMPTY])))
    assert losses["heatmap"] > 0
    assert losses["classes"].item() == pytest.approx(focal_terms(output.logits[1])[1].sum().item(), rel=1e-5)
    assert all(losses[name] == 0 for name in ("offset", "height", "size", "yaw", "velocity"))


@pytest.mark.parametrize("where", ["logits", "regression"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_gives_no_numbers_is_named_with_its_sample(where: str, value: float) -> None:
    output, boxes = random_case(5, (3, 2), 4)
    spoilt = getattr(output, where).clone()
    spoilt[1, 1, 2] = value
    with pytest.raises(ValueError, match=r"costs of sample 'sample_1' must be finite, got 2 of 8 that are not"):
        QueryLoss()(dataclasses.replace(output, **{where: spoilt}), targets_of(batch_with(boxes)))


def test_broken_boxes_do_no_harm() -> None:
    broken = torch.tensor([box(1, 1), box(4, 4), box(2, -3), box(-3, 2)])
    broken[1, 2], broken[2, 6], broken[3, 3] = math.nan, math.nan, math.inf
    output, _ = random_case(5, (4,), 4)
    losses = QueryLoss()(output, targets_of(batch_with([make_boxes(broken, [0] * 4)])))
    assert all(value.isfinite() for value in losses.values())


def test_bad_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="weights must be at least 0"):
        QueryMatching(center=-1.0)
    assert NAMES[CAR] == "car"

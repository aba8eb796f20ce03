"""The query decoder by hand: where queries start, where each layer looks, what hears what, what its losses weigh."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from perception.geometry.grid import Grid
from perception.models.heads.query import QueryHead
from perception.models.heads.query_decoder import (
    DeformableAttention,
    FullAttention,
    Memory,
    QueryDecoder,
    QueryDecoderSettings,
    QueryLayer,
)
from perception.models.heads.query_output import QueryOutput, query_boxes
from perception.models.heads.query_proposals import QueryProposals
from perception.models.losses.query import QueryLoss
from perception.models.losses.query_matching import QueryMatching
from perception.structures import BevMap, FusedFeatures
from tests.models.query_scenes import GRID, NAMES, batch_with, box, made_up_features, make_head, output_of, targets_of
from tests.models.scenes import CLASSES, augmentation, make_boxes, two_boxes

ATTENTIONS = ("full", "deformable")
CHANNELS, NUM_WAVES = 32, 24  # of the transparent head: eight channels for content, the others for the place
COLUMN, ROW, KIND = 3, 4, 5  # channels of its map, behind the three classes
STEPS = ((2.0, -3.0), (-4.75, 4.25), (0.25, 0.5))  # x y in cells, what its layers say of the centre
CONTENT_AND_PLACE = torch.cat((torch.zeros(8, NUM_WAVES), torch.eye(NUM_WAVES)))


@torch.no_grad()
def set_linear(layer: nn.Module, weight: Tensor | float, bias: Tensor | float = 0.0) -> None:
    layer.weight.copy_(torch.as_tensor(weight).expand_as(layer.weight))
    layer.bias.copy_(torch.as_tensor(bias).expand_as(layer.bias))


@torch.no_grad()
def set_attention(attention: nn.MultiheadAttention, query_and_key: Tensor, value: Tensor) -> None:
    attention.in_proj_weight.copy_(torch.cat((query_and_key, query_and_key, value)))
    attention.in_proj_bias.zero_()
    set_linear(attention.out_proj, torch.eye(len(value)))


def plain(layer: QueryLayer) -> QueryLayer:
    """Leaves nothing of a layer but its sums: no normalisation, and a feed-forward network of zeros."""
    layer.after_among, layer.after_cross, layer.after_feed = nn.Identity(), nn.Identity(), nn.Identity()
    set_linear(layer.feed[2], 0.0)
    return layer


def look_at_the_place_itself(cross: FullAttention | DeformableAttention) -> None:
    """Makes an attention give the one cell at the place of the query."""
    if isinstance(cross, FullAttention):
        sharp = 20.0 * (torch.arange(CHANNELS) >= 8)  # by places alone
        set_attention(cross.attention, sharp.diag(), torch.eye(CHANNELS))
    else:
        set_linear(cross.offsets, 0.0)
        set_linear(cross.values, torch.eye(CHANNELS))
        set_linear(cross.join, torch.eye(CHANNELS))


def transparent_head(attention: str) -> QueryHead:
    """The logits of each layer are its queries; the heatmap is the first three channels of the map."""
    settings = QueryDecoderSettings(num_layers=3, num_heads=1, feed_channels=8, attention=attention, num_points=1)
    head = QueryHead(
        in_channels=CHANNELS, class_names=list(NAMES), channels=CHANNELS,
        proposals=QueryProposals(num_queries=1), decoder=settings,
    )  # fmt: skip
    head.shared, head.heatmap = nn.Identity(), nn.Conv2d(CHANNELS, 3, 1)
    set_linear(head.heatmap, torch.eye(3, CHANNELS)[:, :, None, None])
    nn.init.zeros_(head.kinds.weight)
    with torch.no_grad():
        head.kinds.weight[:, KIND] = torch.tensor([100.0, 200.0, 400.0])
    head.decoder.embedding = nn.Linear(NUM_WAVES, CHANNELS)
    set_linear(head.decoder.embedding, CONTENT_AND_PLACE)
    for layer, reader, step in zip(head.decoder.layers, head.readers, STEPS, strict=True):
        plain(layer)
        set_linear(layer.among.out_proj, 0.0)
        look_at_the_place_itself(layer.cross)
        reader.classes = nn.Identity()
        set_linear(reader.box[0][2], 0.0, torch.tensor(step))
    return head


def map_with_peaks() -> FusedFeatures:
    """A car at row 5, column 31 and, in another sample, a truck at row 17, column 9; every cell says where it is."""
    features = torch.zeros(2, CHANNELS, GRID.num_y, GRID.num_x)
    features[:, :3] = -2.0
    features[0, 1, 5, 31], features[1, 2, 17, 9] = 3.0, 1.0
    features[:, COLUMN] = torch.arange(float(GRID.num_x))
    features[:, ROW] = torch.arange(float(GRID.num_y))[:, None]
    valid = torch.ones(2, 1, GRID.num_y, GRID.num_x, dtype=torch.bool)
    return FusedFeatures(bev={"main": BevMap(features=features, validity=valid, grid=GRID)})


def transparent_output(attention: str) -> QueryOutput:
    with torch.no_grad():
        return transparent_head(attention)(map_with_peaks())


def test_queries_start_in_the_middle_of_the_cells_of_their_peaks() -> None:
    head = transparent_head("full")
    for reader in head.readers:
        set_linear(reader.box[0][2], 0.0)
    with torch.no_grad():
        output = head(map_with_peaks())
    assert output.channels.tolist() == [[1], [2]]
    assert output.regression[:, :, 0, :2].tolist() == [[[31.5, 5.5], [9.5, 17.5]]] * 3
    # The grid starts at x -16 m, y -9.6 m in cells of 0.8 m.
    centers = query_boxes(output.regression[0, :, 0], GRID)[:, :2]
    torch.testing.assert_close(centers, torch.tensor([[9.2, -5.2], [-8.4, 4.4]]))


def test_the_peak_score_is_the_probability_at_the_peak() -> None:
    scores = transparent_output("full").peak_scores
    torch.testing.assert_close(scores, torch.tensor([[3.0], [1.0]]).sigmoid())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_each_layer_steps_from_where_the_one_before_ended(attention: str) -> None:
    centers = transparent_output(attention).regression[:, :, 0, :2]
    assert centers[:, 0].tolist() == [[33.5, 2.5], [28.75, 6.75], [29.0, 7.25]]
    assert centers[:, 1].tolist() == [[11.5, 14.5], [6.75, 18.75], [7.0, 19.25]]


@pytest.mark.parametrize(("attention", "between"), [("full", 0.0), ("deformable", 0.25)])
def test_each_layer_looks_where_the_one_before_ended(attention: str, between: float) -> None:
    queries = transparent_output(attention).logits[:, :, 0, [COLUMN, ROW, KIND]]  # (L, B, 3)
    # A query is the cell of its peak and the embedding of its class; each layer adds the cell where it looks. The last
    # looks a quarter of a cell off the middle of one: full attention gives that cell, deformable interpolates.
    first = torch.tensor([[31.0, 5, 200], [9, 17, 400]])
    looks = torch.tensor([[[31.0, 5, 0], [9, 17, 0]], [[33, 2, 0], [11, 14, 0]], [[28, 6, 0], [6, 18, 0]]])
    looks[2, :, :2] += between
    torch.testing.assert_close(queries, first + looks.cumsum(0), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_layer_does_not_teach_the_centres_of_the_one_before(attention: str) -> None:
    head = make_head(attention)
    output = head(made_up_features())
    (output.regression[1].square().sum() + output.logits[1].square().sum()).backward()
    assert not any(parameter.grad.any() for parameter in head.readers[0].parameters())
    assert head.readers[1].box[0][2].weight.grad.any()
    assert head.decoder.layers[0].feed[2].weight.grad.any()  # the queries themselves are passed on with gradients


def test_queries_do_not_teach_the_heatmap_where_to_peak() -> None:
    head = make_head("full")
    output = head(made_up_features())
    (output.regression.square().sum() + output.logits.square().sum()).backward()
    assert not output.peak_scores.requires_grad
    assert all(parameter.grad is None for parameter in head.heatmap.parameters())
    assert head.shared[0].weight.grad.any()  # queries and heatmap read the same map


def test_cells_that_are_no_peaks_follow_in_their_order_however_close() -> None:
    heatmap = torch.tensor([0.0, 1e-6, 5.0]).view(1, 1, 1, 3)
    assert QueryProposals(num_queries=3).find(heatmap, ("car",)).cells.tolist() == [[2, 1, 0]]


def test_another_level_is_read_on_its_own_grid() -> None:
    head = QueryHead(in_channels=6, class_names=list(NAMES), channels=16, level="fine")
    assert head.in_channels == {"fine": 6}
    fine = made_up_features(1).bev["main"]
    coarse = Grid((-16.0, 16.0), (-9.6, 9.6), (-5.0, 3.0), (3.2, 3.2, 8.0))  # 6 x 10 cells
    other = BevMap(features=fine.features[..., :6, :10], validity=fine.validity[..., :6, :10], grid=coarse)
    output = head(FusedFeatures(bev={"main": other, "fine": fine}))
    assert output.grid is GRID
    assert output.heatmap.shape == (1, 3, 24, 40)


def layer_of_two_channels(attention: str = "full") -> QueryLayer:
    return QueryLayer(2, QueryDecoderSettings(num_heads=1, feed_channels=4, attention=attention, num_points=1))


SHARP = math.sqrt(2) * math.log(3)  # a product of query and key beside one of 0: over the root of 2, odds of 3 to 1
MEMORY = Memory(cells=torch.zeros(1, 1, 2), places=torch.zeros(1, 2), size=(1, 1))
NOWHERE = torch.zeros(1, 2, 2)


def test_queries_find_one_another_by_places_and_hear_contents() -> None:
    layer = plain(layer_of_two_channels())
    set_attention(layer.among, torch.eye(2), torch.eye(2))
    set_linear(layer.cross.attention.out_proj, 0.0)
    queries = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    placed = math.sqrt(SHARP) * torch.eye(2)[None]  # content and place together
    with torch.no_grad():
        heard = layer(queries, placed - queries, NOWHERE, MEMORY)
    # Three quarters of its own content and one of the other's, added to its own; the places are not added.
    torch.testing.assert_close(heard, torch.tensor([[[1 + 0.75, 0.5], [0.25, 2 + 1.5]]]))


def test_queries_find_cells_by_places_and_read_contents() -> None:
    layer = plain(layer_of_two_channels())
    heard = torch.tensor([0.5, -0.5])  # all hear this from one another, whatever they are
    set_linear(layer.among.out_proj, 0.0, heard)
    set_attention(layer.cross.attention, torch.eye(2), torch.eye(2))
    cells = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    placed = torch.tensor([[SHARP, 0.0], [0.0, 0.0]])  # content and place of the cells together
    memory = Memory(cells=cells, places=placed - cells[0], size=(1, 2))
    queries = torch.tensor([[[3.0, 1.0], [5.0, 5.0]]])
    embedded = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]) - (
        queries + heard
    )  # one looks for the first cell, one shuns it
    with torch.no_grad():
        read = layer(queries, embedded, NOWHERE, memory)
    torch.testing.assert_close(read, torch.tensor([[[3.5 + 0.75, 0.5 + 0.5], [5.5 + 0.25, 4.5 + 1.5]]]))


def test_deformable_attention_chooses_places_by_content_and_place() -> None:
    layer = plain(layer_of_two_channels("deformable"))
    set_linear(layer.among.out_proj, 0.0)
    set_linear(layer.cross.values, torch.eye(2))
    set_linear(layer.cross.join, torch.eye(2))
    set_linear(layer.cross.offsets, torch.eye(2))  # a query goes as far as it says
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(10.0), indexing="ij")
    cells = torch.stack((column, row), dim=2).flatten(0, 1)[None]
    memory = Memory(cells=cells, places=torch.zeros(60, 2), size=(6, 10))
    with torch.no_grad():
        read = layer(
            torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[2.0, -4.0]]]), torch.tensor([[[0.25, 0.75]]]), memory
        )
    # From 2.5 cells along x and 4.5 along y, 3 cells up and 1 down: the middle of column 5, row 3.
    torch.testing.assert_close(read, torch.tensor([[[1.0 + 5, 3.0 + 3]]]))


@pytest.mark.parametrize("name", ["after_among", "after_cross", "after_feed"])
def test_every_part_of_a_layer_is_added_and_then_normalised(name: str) -> None:
    layer = layer_of_two_channels()
    norm = getattr(layer, name)
    plain(layer)
    setattr(layer, name, norm)
    for part in (layer.among.out_proj, layer.cross.attention.out_proj):
        set_linear(part, 0.0)
    set_linear(norm, 2.0, torch.tensor([0.0, 10.0]))
    with torch.no_grad():
        refined = layer(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), MEMORY)
    # (1, 3) is (-1, 1) beside its mean and deviation.
    torch.testing.assert_close(refined, torch.tensor([[[-2.0, 12.0]]]), rtol=1e-4, atol=1e-4)


def test_places_are_waves_of_octaves_from_the_middle_of_the_map() -> None:
    decoder = QueryDecoder(8, QueryDecoderSettings(num_heads=1))
    decoder.embedding = nn.Identity()
    quarter, half = math.sin(math.pi / 4), 1.0
    sines = [quarter, half, 0.0, 0.0, 0.0, 0.0]  # of 45, 90, 180, 360, 720, 1440 degrees: x lies halfway to the edge
    cosines = [quarter, 0.0, -1.0, 1.0, 1.0, 1.0]
    middle = [0.0] * 6, [1.0] * 6
    expected = torch.tensor([sines + middle[0] + cosines + middle[1], middle[0] + sines + middle[1] + cosines])
    embedded = decoder.embed(torch.tensor([[0.75, 0.5], [0.5, 0.75]]))
    torch.testing.assert_close(embedded, expected, rtol=0, atol=1e-5)
    mirrored = decoder.embed(torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(mirrored[:6], -torch.tensor(sines), rtol=0, atol=1e-5)


def read_rings(settings: QueryDecoderSettings, weights: list[float]) -> tuple[DeformableAttention, Tensor]:
    """What heads of two channels read at column 20, row 10 of a map that says columns and rows, (H, 2)."""
    channels = 2 * settings.num_heads
    attention = DeformableAttention(channels, settings)
    set_linear(attention.values, torch.eye(channels))
    set_linear(attention.join, torch.eye(channels))
    with torch.no_grad():
        attention.weights.bias.copy_(torch.tensor(weights).log())
    row, column = torch.meshgrid(torch.arange(24.0), torch.arange(40.0), indexing="ij")
    bev = torch.stack((column, row)).repeat(settings.num_heads, 1, 1)[None]
    memory = QueryDecoder(channels, settings).memory(bev)
    with torch.no_grad():
        read = attention(torch.randn(1, 1, channels), torch.tensor([[[20.5 / 40, 10.5 / 24]]]), memory)
    return attention, read.view(-1, 2)


def test_deformable_attention_starts_on_rings_with_a_direction_per_head() -> None:
    settings = QueryDecoderSettings(num_heads=4, attention="deformable", num_points=2)
    attention, read = read_rings(settings, [1.0] * 8)
    ring = [[1.0, 0], [2, 0], [0, 1], [0, 2], [-1, 0], [-2, 0], [0, -1], [0, -2]]
    torch.testing.assert_close(attention.offsets.bias.view(8, 2), torch.tensor(ring), rtol=0, atol=1e-6)
    expected = torch.tensor([[21.5, 10], [20, 11.5], [18.5, 10], [20, 8.5]])
    torch.testing.assert_close(read, expected, rtol=0, atol=1e-4)


def test_weights_of_deformable_attention_share_one_among_the_places_of_a_head() -> None:
    settings = QueryDecoderSettings(num_heads=2, attention="deformable", num_points=3)
    _, read = read_rings(settings, [1.0, 1.0, 2.0, 6.0, 1.0, 1.0])
    # (1 + 2 + 2 * 3) / 4 cells forward; (6 * 1 + 2 + 3) / 8 cells back
    torch.testing.assert_close(read, torch.tensor([[22.25, 10], [18.625, 10]]), rtol=0, atol=1e-4)


def test_the_heatmap_counts_by_boxes_and_the_rest_by_matched_queries() -> None:
    # Four boxes, two of them in one cell, in two samples of one query each: two are matched. A third sample has no
    # annotations.
    first = make_boxes(torch.tensor([box(1.0, 1.0), box(-7.9, -1.9), box(-7.7, -1.7)]), [0, 2, 2])
    second = make_boxes(torch.tensor([box(5.0, 5.0)]), [0])
    said = torch.tensor([[box(1.0, 1.0)], [box(5.0, 5.0)], [box(0.0, 0.0)]])
    output = output_of(said, torch.zeros(3, 1, 3), torch.ones(3, 1, dtype=torch.long))
    output = dataclasses.replace(output, regression=output.regression + 1.0)
    heatmap = torch.zeros(3, 3, GRID.num_y, GRID.num_x)
    heatmap[0, 1, 4, 7] = heatmap[0, 0, 9, 9] = heatmap[1, 1, 20, 30] = 1.0
    heatmap[0, 1, 4, 8:12] = 0.5
    targets = dataclasses.replace(targets_of(batch_with([first, second, None])), heatmap=heatmap)
    assert len(targets.truth.boxes) == 4
    losses = QueryLoss(heatmap=2.0)(output, targets)
    # Logits of 0: a positive costs ln 2 / 4, so does a far negative, and one beside a centre a sixteenth of it.
    cost = math.log(2) / 4
    num_far = 2 * 3 * 24 * 40 - 3 - 4
    assert losses["heatmap"].item() == pytest.approx(2.0 * cost * (3 + num_far + 4 / 16) / 4, rel=1e-5)
    assert losses["offset"].item() == pytest.approx(0.25 * (2 + 2) / 2, rel=1e-5)
    # Focal loss at a half: ln 2 / 16 as a positive, 3 ln 2 / 16 as a negative; two classes of each query are negatives.
    assert losses["classes"].item() == pytest.approx(2 * math.log(2) * (1 + 2 * 3) / 16 / 2, rel=1e-5)


def test_boxes_off_the_grid_weigh_nothing() -> None:
    inside = torch.tensor([box(1.0, 1.0)])
    outside = torch.cat((inside, torch.tensor([box(40.0, 1.0)])))
    output = output_of(inside[None], torch.zeros(1, 1, 3), torch.ones(1, 1, dtype=torch.long))
    alone, together = (
        QueryLoss()(output, targets_of(batch_with([make_boxes(boxes, [0] * len(boxes))])))
        for boxes in (inside, outside)
    )
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def three_layers() -> QueryOutput:
    """Two queries: for a car at (1, 1) the first answers in layers 0 and 2, the second in 1; off by 1, 2, 4 cells."""
    far = box(-12.0, -8.0)
    said = [[box(1.8, 1.0), far], [far, box(2.6, 1.0)], [box(4.2, 1.0), far]]
    layers = [output_of(torch.tensor([one]), torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.long)) for one in said]
    regression = torch.cat([layer.regression for layer in layers])
    regression[1, 0, 1, 8:] = torch.tensor([3.0, -4.0])  # velocity, where there is none
    return dataclasses.replace(
        layers[0],
        logits=torch.cat([layer.logits for layer in layers]),
        regression=regression,
        overlap=torch.tensor([[[0.5, 9.0]], [[9.0, 0.25]], [[-1.0, 9.0]]]),
    )


def test_earlier_layers_are_summed_with_the_same_weights() -> None:
    targets = targets_of(batch_with([make_boxes(torch.tensor([box(1.0, 1.0)]), [0])]))
    loss = QueryLoss(classes=0.0, offset=0.5, velocity=0.3, overlap=6.0, auxiliary=2.0)
    losses = loss(three_layers(), targets)
    # Cars of 5 cells that lie 1, 2, 4 cells apart share 4/6, 3/7, 1/9: twice less 1 is 1/3, -1/7, -7/9.
    first, second, last = 0.5 - 1 / 3, 0.25 + 1 / 7, 1 - 7 / 9
    assert losses["offset"].item() == pytest.approx(0.5 * 4, abs=1e-4)
    assert losses["velocity"].item() == 0
    assert losses["overlap"].item() == pytest.approx(6 * last, abs=1e-4)
    expected = 2 * (0.5 * (1 + 2) + 0.3 * (3 + 4) + 6 * (first + second))
    assert losses["auxiliary"].item() == pytest.approx(expected, abs=1e-3)


def test_the_heatmap_counts_once_however_many_layers() -> None:
    targets = targets_of(batch_with([two_boxes()]))
    output = three_layers()
    alone = dataclasses.replace(
        output, logits=output.logits[2:], regression=output.regression[2:], overlap=output.overlap[2:]
    )
    three, one = QueryLoss(auxiliary=0.0)(output, targets), QueryLoss()(alone, targets)
    assert torch.equal(three["heatmap"], one["heatmap"])
    assert three["auxiliary"] == 0


def test_the_head_compares_with_the_targets_of_its_own_classes_in_the_augmented_frame() -> None:
    loss = QueryLoss(heatmap=3.0, offset=0.7)
    head, batch = make_head(loss=loss), batch_with([two_boxes(), None], augmentation())
    with torch.no_grad():
        output = head(made_up_features())
        found, expected = head.losses(output, batch, CLASSES), loss(output, targets_of(batch))
    assert set(found) == {"heatmap", "classes", "offset", "height", "size", "yaw", "velocity", "auxiliary"}
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_defaults_of_losses_and_matching_are_the_published_ones() -> None:
    loss = dataclasses.asdict(QueryLoss())
    matching = loss.pop("matching")
    boxes = {"offset": 0.25, "height": 0.25, "size": 0.25, "yaw": 0.25, "velocity": 0.2 * 0.25}
    assert loss == pytest.approx({"heatmap": 1.0, "classes": 1.0, **boxes, "overlap": 1.0, "auxiliary": 1.0})
    assert matching == {"classes": 0.15, "center": 0.25, "overlap": 0.25}
    assert QueryLoss().matching == QueryMatching()


def test_a_head_without_settings_has_the_published_sizes() -> None:
    head = QueryHead(in_channels=6, class_names=list(NAMES))
    with torch.no_grad():
        output = head(made_up_features(1))
    assert output.logits.shape == (1, 1, 200, 3)
    assert output.overlap is None
    (layer,) = head.decoder.layers
    assert isinstance(layer.cross, FullAttention)
    assert layer.among.num_heads == layer.cross.attention.num_heads == 8
    assert layer.feed[0].weight.shape == (256, 128)
    assert head.in_channels == {"main": 6}


def test_at_first_every_class_is_rare() -> None:
    head = make_head()
    biases = [head.heatmap[-1].bias, *(reader.classes[-1].bias for reader in head.readers)]
    assert len(biases) == 3
    for bias in biases:
        torch.testing.assert_close(bias.detach().sigmoid(), torch.full((3,), 0.1))

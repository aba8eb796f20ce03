"""Sparse voxels: the same as dense convolutions with masks, what moves with the points, empty clouds, refusals."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry.grid import Grid
from perception.geometry.transforms import yaw_matrix
from perception.models.encoders.sparse import SparseBackbone, SparseConvBlock, SparseResidualBlock, VoxelFeatures
from perception.models.encoders.voxels import VoxelEncoder
from perception.models.layers import RowNorm
from perception.ops import sparse_conv_plan
from tests.models.scenes import GRID, augmentation, make_lidar

FIELDS = {"intensity": 1 / 255, "time_lag_s": 1.0}


def make_encoder(residual: bool = True) -> VoxelEncoder:
    """Three stages, voxels of 0.2 x 0.2 x 0.4 m; 20 layers become 2."""
    backbone = SparseBackbone(
        in_channels=8, stage_channels=[4, 6, 8], stage_blocks=[1, 1, 1], out_channels=4, residual=residual
    )
    return VoxelEncoder(fields=FIELDS, backbone=backbone, num_layers=20)


def stay(count: int = 1) -> Tensor:
    return torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)


def random_voxels(shape: tuple[int, int, int], share: float, channels: int) -> VoxelFeatures:
    """Two samples with a share of their voxels occupied."""
    coords = (torch.rand(2, *shape) < share).nonzero()
    coords = coords[torch.randperm(len(coords))]
    return VoxelFeatures(features=torch.randn(len(coords), channels), coords=coords, shape=shape)


def to_dense(voxels: VoxelFeatures) -> tuple[Tensor, Tensor]:
    """(2, C, Z, Y, X) and which voxels are occupied (2, 1, Z, Y, X)."""
    dense = torch.zeros(2, *voxels.shape, voxels.features.shape[1], dtype=voxels.features.dtype)
    mask = torch.zeros(2, 1, *voxels.shape)
    sample, z, y, x = voxels.coords.unbind(1)
    dense[sample, z, y, x] = voxels.features
    mask[sample, 0, z, y, x] = 1
    return dense.permute(0, 4, 1, 2, 3), mask


class DenseOracle:
    """Runs a sparse backbone's weights as dense convolutions; what is not occupied is set to zero after each."""

    def block(self, block: SparseConvBlock, dense: Tensor, mask: Tensor, kernel: tuple, stride: tuple) -> tuple:
        padding = tuple(size // 2 for size in kernel) if kernel == (3, 3, 3) else (0, 0, 0)
        weight = block.weight.unflatten(0, kernel).permute(4, 3, 0, 1, 2)  # (K, C_in, C_out) -> conv3d's
        dense = functional.conv3d(dense, weight, stride=stride, padding=padding)
        if stride != (1, 1, 1):
            mask = functional.max_pool3d(mask, kernel, stride=stride, padding=padding)
        return block.activation(self.norm(block.norm, dense, mask)) * mask, mask

    def norm(self, norm: RowNorm, dense: Tensor, mask: Tensor) -> Tensor:
        rows = dense.permute(0, 2, 3, 4, 1)[mask[:, 0] > 0]  # (V, C)
        mean, var = (
            (rows.mean(0), rows.var(0, unbiased=False)) if norm.training else (norm.running_mean, norm.running_var)
        )
        scale = norm.weight / (var + norm.eps).sqrt()
        return (dense - mean.view(1, -1, 1, 1, 1)) * scale.view(1, -1, 1, 1, 1) + norm.bias.view(1, -1, 1, 1, 1)

    def __call__(self, backbone: SparseBackbone, dense: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        three, once, twice = (3, 3, 3), (1, 1, 1), (2, 2, 2)
        for stage in backbone.stages:
            dense, mask = self.block(stage.entry, dense, mask, three, twice if stage.halve else once)
            for block in stage.blocks:
                if isinstance(block, SparseResidualBlock):
                    inner, _ = self.block(block.first, dense, mask, three, once)
                    inner, _ = self.block(block.second, inner, mask, three, once)
                    dense = (dense + inner).relu()
                else:
                    dense, _ = self.block(block, dense, mask, three, once)
        return self.block(backbone.exit, dense, mask, (3, 1, 1), (2, 1, 1))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_backbone_is_a_masked_dense_network(residual: bool, training: bool, share: float) -> None:
    backbone = SparseBackbone(
        in_channels=3, stage_channels=[4, 5, 6], stage_blocks=[1, 2, 1], out_channels=7, residual=residual
    ).train(training)
    for buffer in backbone.buffers():
        if buffer.is_floating_point():
            buffer.copy_(0.5 + torch.rand_like(buffer))
    voxels = random_voxels((13, 10, 12), share, 3)
    expected, mask = DenseOracle()(backbone, *to_dense(voxels))
    result = backbone(voxels)
    assert result.shape == tuple(expected.shape[2:]) == (1, 3, 3)
    dense, occupied = to_dense(result)
    assert torch.equal(occupied, mask)
    torch.testing.assert_close(dense, expected, rtol=1e-3, atol=1e-4)


def test_gradients_are_those_of_the_dense_network() -> None:
    backbone = SparseBackbone(in_channels=2, stage_channels=[3, 4], stage_blocks=[1, 1], out_channels=3).double()
    voxels = random_voxels((6, 6, 8), 0.2, 2)
    voxels = dataclasses.replace(voxels, features=voxels.features.double().requires_grad_())
    probe = torch.randn(2, 3, 1, 3, 4, dtype=torch.float64)
    dense, mask = to_dense(dataclasses.replace(voxels, features=voxels.features.detach()))
    dense = dense.double().requires_grad_()
    oracle, _ = DenseOracle()(backbone, dense, mask.double())
    parameters = list(backbone.parameters())
    expected = torch.autograd.grad((oracle * probe).sum(), [dense, *parameters])
    result = backbone(voxels)
    sample, z, y, x = result.coords.unbind(1)
    mine = torch.autograd.grad((result.features * probe[sample, :, z, y, x]).sum(), [voxels.features, *parameters])
    sample, z, y, x = voxels.coords.unbind(1)
    torch.testing.assert_close(mine[0], expected[0][sample, :, z, y, x])
    for name, got, wanted in zip(dict(backbone.named_parameters()), mine[1:], expected[1:], strict=True):
        torch.testing.assert_close(got, wanted, msg=lambda text, name=name: f"{name}: {text}")


def test_the_convolutions_of_a_stage_share_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"submanifold_plan": 0, "strided_plan": 0}

    def counted(name: str):
        original = getattr(sparse_conv_plan, name)

        def count(*arguments, **options):
            calls[name] += 1
            return original(*arguments, **options)

        return count

    for name in calls:
        monkeypatch.setattr(f"perception.models.encoders.sparse.{name}", counted(name))
    make_encoder()(make_lidar([50]), stay(), {"main": GRID})
    assert calls == {"submanifold_plan": 3, "strided_plan": 3}


def test_voxels_are_described_by_the_mean_of_their_points() -> None:
    encoder = make_encoder()
    seen: list[VoxelFeatures] = []
    encoder.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    points = torch.tensor(
        [[0.1, 0.1, 0.25, 51.0, 0.1], [0.14, 0.12, 0.35, 102.0, 0.3], [50.0, 0, 0, 1, 1], [-3.0, 2.0, 1.2, 255.0, 0.0]]
    )
    encoder(dataclasses.replace(make_lidar([4]), points=points), stay(), {"main": GRID})
    (voxels,) = seen
    assert voxels.shape == (20, 128, 160)
    assert voxels.coords.tolist() == [[0, 13, 64, 80], [0, 15, 74, 65]]
    reach = (16.0, 12.8, 5.0)
    mean = (0.12, 0.11, 0.3)
    position = [value / most for value, most in zip(mean, reach, strict=True)]
    offset = [(0.12 - 0.1) / 0.2, (0.11 - 0.1) / 0.2, (0.3 - 0.4) / 0.4]
    assert voxels.features[0].tolist() == pytest.approx([*position, *offset, 0.3, 0.2], abs=1e-4)


def test_cells_with_points_are_valid_and_rows_are_y() -> None:
    points = dataclasses.replace(make_lidar([1]), points=torch.tensor([[10.1, 0.1, 0.0, 50.0, 0.0]]))
    level = make_encoder()(points, stay(), {"main": GRID})
    assert level.features.shape == (1, 8, 32, 40)
    assert level.validity.nonzero().tolist() == [[0, 0, 16, 32]]
    turned = yaw_matrix(torch.tensor([math.pi / 2], dtype=torch.float64))
    assert make_encoder()(points, turned, {"main": GRID}).validity.nonzero().tolist() == [[0, 0, 28, 19]]


def test_layers_are_stacked_as_channels() -> None:
    backbone = SparseBackbone(in_channels=8, stage_channels=[4, 4], stage_blocks=[0, 0], out_channels=3)
    encoder = VoxelEncoder(fields=FIELDS, backbone=backbone, num_layers=14).eval()
    assert encoder.out_channels == {"main": 9}  # 14 layers -> 7 -> 3
    points = torch.tensor([[1.0, 1.0, -4.9, 0, 0], [1.0, 1.0, 2.9, 0, 0]])
    low, high = (
        encoder(dataclasses.replace(make_lidar([1]), points=points[row : row + 1]), stay(), {"main": GRID}).features
        for row in (0, 1)
    )
    assert low[:, :3].any()
    assert not low[:, 3:].any()
    assert high[:, 6:].any()
    assert not high[:, :6].any()


def test_a_shift_by_whole_cells_shifts_the_map() -> None:
    encoder, points = make_encoder().eval(), make_lidar([300])
    with torch.no_grad():
        encoder.backbone.stages[0].entry.weight[:, :3] = 0  # all but the position, which does not shift
    inner = points.points * torch.tensor([0.5, 0.5, 1, 1, 1])
    still = encoder(dataclasses.replace(points, points=inner), stay(), {"main": GRID}).features
    moved = inner + torch.tensor([1.6, -2.4, 0, 0, 0])
    shifted = encoder(dataclasses.replace(points, points=moved), stay(), {"main": GRID}).features
    torch.testing.assert_close(shifted, still.roll((-3, 2), dims=(2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("counts", [[0], [0, 0], [0, 1], [1, 0, 200]])
def test_empty_clouds_are_normal(counts: list[int]) -> None:
    encoder = make_encoder().train()
    level = encoder(make_lidar(counts), stay(len(counts)), {"main": GRID})
    assert level.features.shape == (len(counts), 8, 32, 40)
    for features, validity, count in zip(level.features, level.validity, counts, strict=True):
        assert features.isfinite().all()
        assert bool(validity.any()) == (count > 0)
        assert count > 0 or not features.any()
    level.features.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert all(buffer.isfinite().all() for buffer in encoder.buffers())


def test_samples_leave_one_another_alone() -> None:
    encoder, points = make_encoder().eval(), make_lidar([80, 120])
    moves = torch.stack((torch.eye(4, dtype=torch.float64), augmentation()))
    together = encoder(points, moves, {"main": GRID})
    alone = dataclasses.replace(
        make_lidar([120]), points=points.points[80:], batch_index=torch.zeros(120, dtype=torch.long)
    )
    torch.testing.assert_close(together.features[1:], encoder(alone, moves[1:], {"main": GRID}).features)


@pytest.mark.parametrize("counts", [[300], [0, 300]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_parameter_gets_a_gradient_in_any_precision(counts: list[int], dtype: torch.dtype) -> None:
    encoder, points = make_encoder(), make_lidar(counts)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        features = encoder(points, stay(len(counts)), {"main": GRID}).features
        functional.conv2d(features, torch.ones(1, 8, 1, 1)).float().square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"stage_channels and stage_blocks must have one length above 0, got 2 and 1"):
        SparseBackbone(in_channels=8, stage_channels=[4, 4], stage_blocks=[1])
    backbone = SparseBackbone(in_channels=8)
    with pytest.raises(ValueError, match=r"backbone must read 7 channels \(6 and one per field\), got 8"):
        VoxelEncoder(fields={"intensity": 1.0}, backbone=backbone)
    with pytest.raises(ValueError, match="an odd number of layers, at least 3, after 4 stages, got 4 of 32"):
        VoxelEncoder(fields=FIELDS, backbone=backbone, num_layers=32)
    with pytest.raises(ValueError, match=r"points must have the fields .'time_lag_s'., got .'intensity'."):
        fewer = dataclasses.replace(make_lidar([3]), points=torch.rand(3, 4), fields=("intensity",))
        make_encoder()(fewer, stay(), {"main": GRID})


def test_published_sizes() -> None:
    # 0.075 m voxels over +-54 m and 8 m in 40 layers: two layers of 128 channels remain at 0.6 m.
    encoder = VoxelEncoder(fields=FIELDS, backbone=SparseBackbone(in_channels=8), num_layers=40)
    assert encoder.out_channels == {"main": 256}
    assert encoder.backbone.stride == 8
    level = encoder(make_lidar([100]), stay(), {"main": Grid.square(54.0, 0.6)})
    assert level.features.shape == (1, 256, 180, 180)

"""The image encoder: published weights from a local folder, sizes, absent cameras, refusals."""

from pathlib import Path

import pytest
import torch
import transformers
from torch.nn import functional

from perception.models.encoders.image import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder
from perception.models.necks.fpn import FeaturePyramid
from perception.models.necks.lss_fpn import LssFeaturePyramid
from tests.models.scenes import BACKBONES, image_encoder, make_cameras


@pytest.mark.parametrize("model_type", ["resnet", "swin"])
def test_saved_weights_give_the_same_features(model_type: str, tmp_path: Path) -> None:
    source = image_encoder(model_type)
    source.backbone.save_pretrained(tmp_path)
    loaded = image_encoder(model_type, weights=str(tmp_path))
    pictures = torch.rand(2, 3, 32, 64)
    before, after = (encoder.eval().backbone(pictures).feature_maps for encoder in (source, loaded))
    fresh = image_encoder(model_type).eval().backbone(pictures).feature_maps
    for mine, other, unlike in zip(before, after, fresh, strict=True):
        assert torch.equal(mine, other)
        assert not torch.allclose(mine, unlike)


def test_weights_of_a_whole_classifier_are_taken(tmp_path: Path) -> None:
    resnet = transformers.ResNetForImageClassification(transformers.ResNetConfig(**BACKBONES["resnet"]))
    resnet.save_pretrained(tmp_path / "resnet")
    swin = transformers.SwinForImageClassification(transformers.SwinConfig(**BACKBONES["swin"]))
    swin.save_pretrained(tmp_path / "swin")
    pairs = [
        (image_encoder("resnet", str(tmp_path / "resnet")).backbone.encoder, resnet.resnet.encoder),
        (image_encoder("swin", str(tmp_path / "swin")).backbone.swin.encoder, swin.swin.encoder),
    ]
    for loaded, source in pairs:
        assert loaded.training
        for (name, mine), wanted in zip(loaded.state_dict().items(), source.state_dict().values(), strict=True):
            assert torch.equal(mine, wanted), name


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights must be a folder with config.json and safetensors, got microsoft"):
        image_encoder(weights="microsoft/resnet-50")
    image_encoder("swin").backbone.save_pretrained(tmp_path / "swin")
    with pytest.raises(ValueError, match=r"weights in .*swin"):
        image_encoder("resnet", weights=str(tmp_path / "swin"))
    config = transformers.ResNetConfig(**(BACKBONES["resnet"] | {"hidden_sizes": [8, 8, 20, 16]}))
    transformers.ResNetBackbone(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"weights in .*wide"):
        image_encoder("resnet", weights=str(tmp_path / "wide"))


def test_a_pickled_checkpoint_is_not_read(tmp_path: Path) -> None:
    encoder = image_encoder()
    encoder.backbone.config.save_pretrained(tmp_path)
    torch.save(encoder.backbone.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="do not fit the backbone"):
        image_encoder(weights=str(tmp_path))


@pytest.mark.parametrize("model_type", ["resnet", "swin"])
def test_absent_cameras_are_zeros_and_present_ones_are_normalised(model_type: str) -> None:
    cameras = make_cameras([[True, False], [False, True]])
    encoder = image_encoder(model_type).eval()
    views = encoder(cameras)
    (level,) = views.levels
    assert level.shape == (2, 2, 12, 4, 8)
    assert views.strides == (8,)
    assert not level[0, 1].any()
    assert not level[1, 0].any()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    picture = (cameras.images[1, 1].float() - mean) / std
    by_hand = encoder.pyramid(list(encoder.backbone(picture[None]).feature_maps))[0]
    torch.testing.assert_close(level[1, 1], by_hand[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "timm_backbone"}, "model_type must be one of .*resnet.*, got 'timm_backbone'"),
        ({"model_type": "bert"}, "model_type must be one of"),
        ({"config": {"depth": [1]}}, r"config must hold arguments of ResNetConfig: .*depths.*; got .'depth'."),
        ({"out_features": ["stage9"]}, "stage9"),
        ({"num_levels": 3}, r"num_levels must be in \[1, 2\], got 3"),
    ],
)
def test_bad_arguments_are_refused(change: dict, message: str) -> None:
    small = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    arguments = {"model_type": "resnet", "config": small, "out_features": ["stage1", "stage2"], "out_channels": 4}
    with pytest.raises(ValueError, match=message):
        ImageEncoder(**(arguments | change))


def test_no_camera_and_odd_sizes_are_refused() -> None:
    encoder = image_encoder()
    with pytest.raises(ValueError, match="cameras must hold a present camera, got none"):
        encoder(make_cameras([[False]]))
    cameras = make_cameras([[True]])
    odd = type(cameras)(**{**vars(cameras), "images": cameras.images[..., :60]})
    with pytest.raises(ValueError, match=r"a size that the strides .8,. divide, got \(32, 60\) px"):
        encoder(odd)


def test_the_pyramid_adds_coarse_to_fine() -> None:
    pyramid = FeaturePyramid(in_channels=[1, 1], out_channels=1, num_levels=2)
    with torch.no_grad():
        for convolution in pyramid.laterals:
            convolution.weight.fill_(1.0)
            convolution.bias.zero_()
        for convolution in pyramid.outputs:
            convolution.weight.zero_()
            convolution.weight[0, 0, 1, 1] = 1.0
            convolution.bias.zero_()
    fine, coarse = torch.zeros(1, 1, 3, 4), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    result = pyramid([fine, coarse])
    assert torch.equal(result[1], coarse)
    assert result[0][0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4]]


def test_the_concatenating_pyramid_by_hand() -> None:
    pyramid = LssFeaturePyramid(in_channels=[1, 2, 3], out_channels=2, num_levels=2).eval()
    stages = [torch.randn(1, 1, 8, 12), torch.randn(1, 2, 4, 6), torch.randn(1, 3, 2, 3)]
    grown = functional.interpolate(stages[2], scale_factor=2, mode="bilinear")
    middle = pyramid.mixers[1](torch.cat((stages[1], grown), 1))
    fine = pyramid.mixers[0](torch.cat((stages[0], functional.interpolate(middle, scale_factor=2, mode="bilinear")), 1))
    result = pyramid(stages)
    torch.testing.assert_close(result[0], fine)
    torch.testing.assert_close(result[1], middle)
    assert [level.shape[1] for level in result] == [2, 2]
    with pytest.raises(ValueError, match=r"num_levels must be in \[1, 2\], got 3"):
        LssFeaturePyramid(in_channels=[1, 2, 3], out_channels=2, num_levels=3)


@pytest.mark.parametrize("model_type", ["resnet", "swin"])
@pytest.mark.parametrize("pyramid", ["fpn", "lss_fpn"])
def test_strides_are_known_before_a_picture_is_seen(model_type: str, pyramid: str) -> None:
    encoder = ImageEncoder(
        model_type=model_type,
        config=BACKBONES[model_type],
        out_features=["stage2", "stage3", "stage4"],
        out_channels=6,
        num_levels=2,
        pyramid=pyramid,  # type: ignore[arg-type]
    )
    assert encoder.strides == (8, 16)
    assert encoder.training
    assert all(module.training for module in encoder.modules())
    assert encoder.feature_sizes((256, 704)) == ((32, 88), (16, 44))
    views = encoder(make_cameras([[True]]))
    assert [tuple(level.shape[-2:]) for level in views.levels] == list(encoder.feature_sizes((32, 64)))


@pytest.mark.parametrize("model_type", ["resnet", "swin"])
def test_a_frozen_backbone_stays_and_the_rest_learns(model_type: str) -> None:
    encoder = image_encoder(model_type)
    encoder.backbone.requires_grad_(False).eval()
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    encoder(make_cameras([[True, False]])).levels[0].square().sum().backward()
    assert all(parameter.grad is None for parameter in encoder.backbone.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.pyramid.parameters())
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name

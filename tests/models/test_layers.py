"""The first answer is the layer that people who know the network would name."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from faithmap.cut import cut
from faithmap.models.layers import rank_layers
from faithmap.models.nets import EfficientNetLite, IResNet, MobileFaceNet, MobileNetV2, SqueezeNet
from tests.nets import Faces, Residual, VGGLike, ViTLike, gap_linear


def first(net: nn.Module, size: int = 32) -> str:
    return rank_layers(net, (size, size))[0].name


class Wrapped(nn.Module):
    """A network inside a network, as normalising wrappers are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x - 0.5) * 2)


def pooled_trunk() -> nn.Module:
    """VGG's manner: the trunk ends in a pooling layer, and a dropout hands on what it is given."""
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(True), nn.Dropout(), nn.MaxPool2d(2))
    return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))


def pooled_then_active() -> nn.Module:
    """A map that is written over after it was pooled."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(True), nn.Flatten(), nn.LazyLinear(3))


def dead_head() -> nn.Module:
    """A head of zeros, as torchvision starts its transformers."""
    net = gap_linear()
    nn.init.zeros_(net[7].weight)
    return net


TINY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "gap_linear": (gap_linear, "4"),
    "vgg": (VGGLike, "relu"),
    "residual": (Residual, "layer2"),
    "faces": (Faces, "last"),  # not the norm that its head begins with
    "vit": (ViTLike, "blocks.0"),  # not the last block: it is read at its class token alone
    "wrapped": (lambda: Wrapped(Residual()), "inner.layer2"),
    "compiled": (lambda: torch.compile(Residual(), backend="eager"), "layer2"),
    "pooled trunk": (pooled_trunk, "0.1"),
    "pooled then active": (pooled_then_active, "2"),
    "dead head": (dead_head, "4"),
}


@pytest.mark.parametrize("name", TINY)
def test_tiny_networks(name: str) -> None:
    """The last feature map before the head, and every name that is listed can be cut."""
    make, layer = TINY[name]
    net, x = make(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        net.eval()(x)
    ranked = rank_layers(net, (32, 32))
    assert ranked[0].name == layer
    assert len({one.name for one in ranked}) == len(ranked)
    for one in ranked:
        assert cut(net, one.name, x).split(x).A.shape == (2, *one.shape)


OURS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "efficientnet-lite": (lambda: EfficientNetLite(10), 64, "_relu_head"),
    "squeezenet": (lambda: SqueezeNet(10, width=0.25), 96, "features.12"),
    "mobilenet": (lambda: MobileNetV2(10), 64, "features.18"),
    "mobilefacenet": (lambda: MobileFaceNet(), 112, "conv2"),
    "iresnet": (lambda: IResNet((2, 2, 2, 2), (8, 8, 8, 8)), 112, "body.7"),
}


@pytest.mark.parametrize("name", OURS)
def test_the_published_definitions(name: str) -> None:
    """The layers that their descriptions name, at the end of which the trunk lies."""
    make, size, layer = OURS[name]
    torch.manual_seed(3)
    assert first(make(), size) == layer


def test_torchvisions_transformers_and_stages(torchvision_models: ModuleType) -> None:
    """Small ones of the families: patch tokens that the output depends on, norms, whole stages of one resolution."""
    tv = torchvision_models
    config = tv.convnext.CNBlockConfig
    vit = tv.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3)
    swin = tv.SwinTransformer([2, 2], 8, [1, 2], [2, 2], [4, 4], num_classes=3)
    convnext = tv.ConvNeXt([config(8, 8, 1), config(8, None, 2)], num_classes=3)
    dense = tv.DenseNet(4, (2, 2), 8, num_classes=3)
    resnet = tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3)
    for net, layer, size in (
        (vit, "encoder.layers.encoder_layer_1.ln_1", 32),
        (swin, "norm", 32),
        (convnext, "features.3", 32),
        (dense, "features.norm5", 32),
        (resnet, "layer4", 64),
    ):
        assert rank_layers(net, (size, size))[0].name == layer
        x = torch.rand(2, 3, size, size)
        parts = cut(net, layer, x)
        assert parts.kind == "graph", parts.reason
        torch.testing.assert_close(parts.split(x).tail(parts.split(x).A), net.eval()(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("resnet50", "layer4.2"),  # the stage's first block begins at the finer resolution
        ("vgg16", "features.29"),
        ("densenet121", "features.norm5"),
        ("convnext_tiny", "features.7"),
        ("vit_b_16", "encoder.layers.encoder_layer_11.ln_1"),
        ("swin_t", "norm"),
        ("efficientnet_b0", "features.8"),
        ("mobilenet_v3_small", "features.12"),
        ("alexnet", "features.11"),
        ("squeezenet1_1", "features.12"),
    ],
)
def test_torchvisions_networks(name: str, layer: str, torchvision_models: ModuleType) -> None:
    """At their published size, with random weights."""
    torch.manual_seed(3)
    assert first(getattr(torchvision_models, name)(), 224) == layer


def test_class_scores_at_each_place_come_last() -> None:
    """Maps whose means are the outputs are named as what they are, not as features."""
    torch.manual_seed(3)
    last = rank_layers(SqueezeNet(10, width=0.25), (96, 96))[-1]
    assert last.name == "classifier.2"
    assert "class scores" in last.why


def test_earlier_stages_follow_from_coarse_to_fine() -> None:
    """One layer for each resolution, up to the limit."""
    ranked = rank_layers(EfficientNetLite(10), (64, 64))
    sides = [layer.shape[1] for layer in ranked]
    assert sides == sorted(set(sides))
    assert [layer.name for layer in rank_layers(EfficientNetLite(10), (64, 64), limit=2)] == [
        r.name for r in ranked[:2]
    ]


def test_a_named_layer_stands_first() -> None:
    """Once."""
    names = [layer.name for layer in rank_layers(gap_linear(), (32, 32), always="2")]
    assert names[0] == "2"
    assert len(set(names)) == len(names)


class NoPlaces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(
    ("net", "size", "said"),
    [
        (NoPlaces(), 32, "NoPlaces has no layer with a spatial output"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2)), 32, "no layer of Sequential returns"),
        (VGGLike(), 40, "VGGLike does not run on one image of 3 x 40 x 40 .* name its size, or its target_layer"),
    ],
)
def test_networks_without_an_answer(net: nn.Module, size: int, said: str) -> None:
    """Say why."""
    with pytest.raises(ValueError, match=said):
        rank_layers(net, (size, size))


def test_the_network_stays_as_it_was() -> None:
    """Hooks, mode, gradients, buffers and random state."""
    net = Residual().train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            rank_layers(net, (32, 32))
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert not any(part._forward_hooks for part in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())

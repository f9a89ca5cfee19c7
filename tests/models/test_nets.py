"""The networks are the published ones: their weights load strictly, and they give the published answers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from faithmap.models.checkpoints import efficientnet_lite0_weights, load_into, read_state_dict
from faithmap.models.labels import imagenet_labels
from faithmap.models.nets import (
    ARCFACE_BLOCKS,
    ArcFaceNet,
    EfficientNetLite,
    IResNet,
    MobileFaceNet,
    MobileNetV2,
    SmallFaceNet,
    SqueezeNet,
    ir_18,
    ir_50,
    ir_101,
)


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite:
    net = EfficientNetLite()
    load_into(net, read_state_dict(efficientnet_lite0_weights()), source="the package")
    return net


@pytest.mark.parametrize(
    ("photo", "index", "label", "probability"),
    [("cat", 285, "Egyptian cat", 0.389), ("coffee", 967, "espresso", 0.943), ("rocket", 657, "missile", 0.223)],
)
def test_lite0_recognises_the_photos(
    lite0: EfficientNetLite, photo: str, index: int, label: str, probability: float
) -> None:
    with torch.no_grad():
        probabilities = lite0(_photo(photo, 224)).softmax(1)[0]  # (1000,)
    assert probabilities.argmax() == index
    assert imagenet_labels()[index] == label
    assert probabilities[index].item() == pytest.approx(probability, abs=0.005)  # what the weights' own package gives


def test_lite0_trunk_ends_where_it_says(lite0: EfficientNetLite) -> None:
    seen: list[Tensor] = []
    handle = lite0.get_submodule("_relu_head").register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        logits = lite0(_photo("cat", 224))
    handle.remove()
    assert seen[0].shape == (1, 1280, 7, 7)
    assert 0 <= seen[0].min() <= seen[0].max() <= 6
    torch.testing.assert_close(lite0._fc(seen[0].mean((2, 3))), logits)  # the tail is an average and a linear layer


@pytest.mark.parametrize("size", [32, 33, 37, 45, 64])
def test_lite_sides_are_rounded_up_at_every_size(size: int) -> None:
    """TensorFlow's "same" padding: a stride-2 layer of side n gives ceil(n / 2), whatever the kernel and the parity."""
    net = EfficientNetLite(size=size, blocks=[(1, 4, 1, 2, 3), (2, 4, 1, 2, 5)], stem=4, head=4, classes=2).eval()
    side = -(-size // 8)  # stem and two blocks
    assert net._blocks(net._conv_stem(net._pad_stem(torch.zeros(1, 3, size, size)))).shape == (1, 4, side, side)


def test_lite_pads_the_right_and_bottom_first() -> None:
    """With an even side and stride 2, output pixel 0 sees inputs 0, 1, 2: nothing is padded on the left or top."""
    net = EfficientNetLite(size=8, blocks=[(1, 1, 1, 1, 3)], stem=1, head=1, classes=1)
    x = torch.arange(192.0).reshape(1, 3, 8, 8)
    nn.init.ones_(net._conv_stem.weight)
    stem = net._conv_stem(net._pad_stem(x))
    torch.testing.assert_close(stem[0, 0, 0, 0], x[..., :3, :3].sum())
    torch.testing.assert_close(stem[0, 0, -1, -1], x[..., 6:, 6:].sum())


NETS: dict[str, Callable[[], nn.Module]] = {
    "arcface": lambda: ArcFaceNet((1, 2, 1, 1), (4, 4, 8, 8), size=32, embedding=3),
    "efficientnet-lite": lambda: EfficientNetLite(3, 32, [(1, 4, 1, 1, 3), (6, 4, 2, 2, 5)], stem=4, head=8),
    "iresnet": lambda: IResNet((1, 2), (4, 8), size=32, embedding=3),
    "mobilefacenet": lambda: MobileFaceNet(3, 32, [(2, 4, 2, 2), (4, 8, 1, 2)], stem=4, head=8),
    "mobilenet-v2": lambda: MobileNetV2(3, [(1, 4, 1, 1), (6, 4, 2, 2)], stem=4, head=8),
    "small-face-net": lambda: SmallFaceNet((4, 6, 8, 8), embedding=3),
    "squeezenet": lambda: SqueezeNet(3, width=1 / 16),
}


@pytest.mark.parametrize("name", NETS)
def test_nets_trace_to_a_graph_with_the_same_answer(name: str) -> None:
    net = NETS[name]().eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.fx.symbolic_trace(net)(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_nets_treat_samples_alone(name: str) -> None:
    net = NETS[name]().eval()
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(net(x), torch.cat([net(one) for one in x.chunk(3)]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_nets_use_every_weight(name: str) -> None:
    """A layer that forward forgets, or two that share their place, would leave a weight without gradient."""
    net = NETS[name]()
    net(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert [key for key, weight in net.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize(
    ("build", "units", "millions"),
    [(ir_18, 8, 24.02), (ir_50, 24, 43.59), (ir_101, 49, 65.15)],
    ids=["18", "50", "101"],
)
def test_iresnet_has_the_published_depth_and_size(build: Callable[[], IResNet], units: int, millions: float) -> None:
    with torch.device("meta"):
        net = build()
        assert net(torch.zeros(2, 3, 112, 112)).shape == (2, 512)
        assert net.body(net.input_layer(torch.zeros(2, 3, 112, 112))).shape == (2, 512, 7, 7)
    assert len(net.body) == units
    assert round(sum(weight.numel() for weight in net.parameters()) / 1e6, 2) == millions
    assert [type(unit.get_submodule("shortcut_layer")) for unit in net.body][:2] == [nn.MaxPool2d, nn.MaxPool2d]


@pytest.mark.parametrize(("depth", "millions"), [(18, 24.03), (34, 34.14), (50, 43.59), (100, 65.16)])
def test_arcface_has_the_published_depth_and_size(depth: int, millions: float) -> None:
    """A depth counts the convolutions of the branches, the stem and the linear layer."""
    with torch.device("meta"):
        net = ArcFaceNet(ARCFACE_BLOCKS[depth])
        assert net(torch.zeros(2, 3, 112, 112)).shape == (2, 512)
    assert 2 * sum(ARCFACE_BLOCKS[depth]) + 2 == depth
    assert round(sum(weight.numel() for weight in net.parameters()) / 1e6, 2) == millions


def test_arcface_is_its_formula_on_its_published_names() -> None:
    """Step by step, from a state dict's tensors by the names that insightface's files have."""
    net = ArcFaceNet((1, 2, 1, 1), (4, 4, 8, 8), size=32, embedding=3).eval()
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor))
    w, x = net.state_dict(), torch.randn(2, 3, 32, 32)

    def bn(x: Tensor, name: str) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    out = F.prelu(bn(conv(x, "conv1"), "bn1"), w["prelu.weight"])
    for block, stride in (("layer1.0", 2), ("layer2.0", 2), ("layer2.1", 1), ("layer3.0", 2), ("layer4.0", 2)):
        branch = F.prelu(
            bn(conv(bn(out, f"{block}.bn1"), f"{block}.conv1"), f"{block}.bn2"), w[f"{block}.prelu.weight"]
        )
        branch = bn(conv(branch, f"{block}.conv2", stride), f"{block}.bn3")
        if stride == 2:
            out = bn(conv(out, f"{block}.downsample.0", 2), f"{block}.downsample.1")
        out = out + branch
    out = F.linear(bn(out, "bn2").flatten(1), w["fc.weight"], w["fc.bias"])
    torch.testing.assert_close(net(x), bn(out, "features"), rtol=1e-4, atol=1e-4)


def test_iresnet_refuses_units_without_widths() -> None:
    with pytest.raises(ValueError, match=r"units \(2, 2\) and widths \(64, 128, 256, 512\)"):
        IResNet((2, 2))


@pytest.mark.parametrize(
    ("net", "name"), [(SqueezeNet, "squeezenet1_0"), (MobileNetV2, "mobilenet_v2")], ids=["squeezenet", "mobilenet"]
)
def test_logits_equal_torchvisions(net: type[nn.Module], name: str, data: Path, torchvision_models: ModuleType) -> None:
    ours, theirs = net(), getattr(torchvision_models, name)(weights=None)
    state = read_state_dict(data / "weights" / f"{name}.pth")
    load_into(ours, state, source=name)
    theirs.load_state_dict(state)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x), rtol=0, atol=1e-5)


def test_mobilefacenet_tells_people_apart(data: Path) -> None:
    net = MobileFaceNet()
    load_into(net, read_state_dict(data / "weights" / "mobilefacenet_112.pth"), source="mobilefacenet_112.pth")
    with (data / "lfw" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [row for flag in "10" for row in [row for row in rows if row["genuine"] == flag][:12]]
    crops = [data / "lfw" / "crops" / row[side] for side in ("gallery", "probe") for row in pairs]
    x = (torch.stack([_pixels(Image.open(crop)) for crop in crops]) - 127.5) / 128  # (48, 3, 112, 112)
    with torch.no_grad():
        gallery, probe = net(x).chunk(2)
    cosine = torch.cosine_similarity(gallery, probe)  # (24,)
    assert cosine[:12].mean() > cosine[12:].mean() + 0.3


def test_labels_are_a_thousand_different_names() -> None:
    labels = imagenet_labels()
    assert len(set(labels)) == len(labels) == 1000
    assert (labels[0], labels[-1]) == ("tench", "toilet tissue")
    assert all(label.strip() == label != "" for label in labels)


def _photo(name: str, size: int) -> Tensor:
    image = Image.open(str(files("faithmap").joinpath(f"assets/photos/{name}.jpg")))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return ((_pixels(square) - 127) / 128)[None]  # (1, 3, size, size)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()  # (3, H, W), 0..255

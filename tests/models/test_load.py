"""Names become models; what cannot be loaded is named with what would work."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import faithmap as fm
from faithmap.models import nets as definitions
from faithmap.models.load import _timm_inputs
from tests import nets


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite1", "did you mean efficientnet-lite0"),
        ("adaface:ir_19@x.ckpt", "did you mean ir_18"),
        ("adaface:ir_18", "write adaface:NAME@FILE"),
        ("adaface@x.ckpt", "needs a variant"),
        ("efficientnet-lite0@x.pth", "takes no file"),
        ("arcface:r19@x.pth", "did you mean r18"),
        ("magface:r100@x.pth", "did you mean iresnet100"),
        ("magface:iresnet100", "write magface:NAME@FILE"),
        ("timm", r"write timm:NAME\[@FILE\]"),
    ],
)
def test_names_that_do_not_fit_say_what_would(name: str, message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match=message):
        fm.load(name)


def test_a_checkpoint_that_is_not_there_is_named() -> None:
    """With its path."""
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        fm.load("mobilefacenet@nowhere.pth")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", 0])
def test_cuda_that_is_absent_is_an_error(device: str | int) -> None:
    """Not a silent fall-back to the CPU."""
    with pytest.raises(ValueError, match="no CUDA device: use device='cpu'"):
        fm.load(device=device)


def test_an_adaface_file_loads_with_its_channel_order_and_layer(tmp_path: Path) -> None:
    """BGR, and the last unit of the body as target layer, which is suggested first."""
    state = {f"model.{name}": value for name, value in definitions.ir_18().state_dict().items()}
    torch.save({"state_dict": state | {"head.kernel": torch.zeros(512, 10)}}, tmp_path / "ir18.ckpt")
    face = fm.load(f"adaface:ir_18@{tmp_path / 'ir18.ckpt'}", threshold=0.3)
    assert (face.channel_order, face.target_layer, face.suggest_layers()[0].name) == ("bgr", "body.7", "body.7")


def arcface_state(depth: int) -> dict[str, torch.Tensor]:
    """Weights under insightface's names, of the published depth but narrow."""
    return definitions.ArcFaceNet(definitions.ARCFACE_BLOCKS[depth], (2, 2, 2, 2), 16, 2).state_dict()


@pytest.mark.parametrize(
    ("name", "prefix", "container", "order", "pixels"),
    [
        ("arcface:r18", "", None, "rgb", (-1, 1)),
        ("arcface:r18", "module.", "model_state_dict", "rgb", (-1, 1)),
        ("magface:iresnet18", "features.module.", "state_dict", "bgr", (0, 1)),
    ],
)
def test_an_insightface_body_loads_with_its_inputs_and_layer(
    name: str, prefix: str, container: str | None, order: str, pixels: tuple[int, int], tmp_path: Path
) -> None:
    """The same embeddings as the network that was saved, from each layout, without what stood beside it."""
    net = definitions.ArcFaceNet(definitions.ARCFACE_BLOCKS[18]).eval()
    state: dict[str, Any] = {f"{prefix}{key}": value for key, value in net.state_dict().items()}
    if prefix == "features.module.":
        state |= {"fc.weight": torch.zeros(512, 10), "parallel_fc.weight": torch.zeros(512, 10)}  # the training's head
    torch.save(state if container is None else {container: state, "epoch": 24}, tmp_path / "net.pth")
    face = fm.load(f"{name}@{tmp_path / 'net.pth'}", threshold=0.3)
    assert isinstance(face, fm.FaceEmbedder)
    assert (face.name, face.channel_order, face.size, face.target_layer) == (name, order, (112, 112), "layer4.1")
    red = np.zeros((112, 112, 3), dtype=np.uint8)
    red[..., 0] = 255
    x = face.prepare(red)
    values = [pixels[1] if channel == "r" else pixels[0] for channel in order]
    assert x[0, :, 0, 0].tolist() == pytest.approx(values)
    with torch.no_grad():
        torch.testing.assert_close(face.embed(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("asked", "held", "says"),
    [
        ("arcface:r18", 34, "holds the weights of arcface:r34, not of arcface:r18: write arcface:r34@FILE"),
        ("arcface:r50", 100, "write arcface:r100@FILE"),
        ("magface:iresnet100", 50, "write magface:iresnet50@FILE"),
    ],
)
def test_a_file_of_another_depth_is_told_by_its_name(asked: str, held: int, says: str, tmp_path: Path) -> None:
    torch.save(arcface_state(held), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=says):
        fm.load(f"{asked}@{tmp_path / 'net.pth'}")


def test_a_file_of_another_network_is_told_by_what_is_missing(tmp_path: Path) -> None:
    torch.save(definitions.IResNet((1, 1), (2, 2), 8, 2).state_dict(), tmp_path / "adaface.ckpt")
    with pytest.raises(ValueError, match=r"do not fit ArcFaceNet: .* missing: conv1\.weight"):
        fm.load(f"arcface:r18@{tmp_path / 'adaface.ckpt'}")


def test_without_timm_its_models_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'faithmap\[timm\]'"):
        fm.load("timm:resnet18")


@pytest.fixture
def timm(torchvision_models: ModuleType) -> ModuleType:
    return pytest.importorskip("timm")  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit.r160_in1k", "test_convnext"])
def test_timms_models_give_their_own_scores_on_a_photo(name: str, tmp_path: Path, timm: ModuleType) -> None:
    """From the photo on: timm's evaluation transform and network, and ours."""
    theirs = timm.create_model(name, pretrained=False).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "net.pth")
    model = fm.load(f"timm:{name}@{tmp_path / 'net.pth'}")
    assert isinstance(model, fm.Classifier)
    assert model.label(285) == "Egyptian cat"
    photo = Path(fm.__file__).parent / "assets" / "photos" / "rocket.jpg"
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    x = transform(Image.open(photo).convert("RGB"))[None]
    torch.testing.assert_close(model.prepare(photo), x, rtol=0, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model.network(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert bool(fm.explain(model, photo, "grad-cam", target=285).maps.isfinite().all())


@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bilinear"},
        {"input_size": (3, 288, 288), "crop_pct": 0.95, "crop_mode": "center", "interpolation": "bicubic"},
        {"input_size": (3, 192, 192), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
        {"input_size": (3, 256, 192), "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"},
    ],
    ids=lambda config: f"{config['input_size'][1]} {config['crop_mode']}",
)
def test_photos_are_prepared_as_timm_evaluates(config: dict[str, Any], timm: ModuleType) -> None:
    config |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    model = fm.Classifier(nets.gap_linear(), **_timm_inputs(config))
    for name in ("rocket.jpg", "cat.jpg"):
        photo = Path(fm.__file__).parent / "assets" / "photos" / name
        x = timm.data.create_transform(**config, is_training=False)(Image.open(photo).convert("RGB"))[None]
        torch.testing.assert_close(model.prepare(photo), x, rtol=0, atol=1e-5)


def test_timms_names_that_do_not_fit_say_what_would(timm: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"timm has no model 'resnet19': did you mean .*resnet18"):
        fm.load("timm:resnet19")
    bare = next(name for name in timm.list_models() if not timm.list_models(f"{name}.*", pretrained=True))
    with pytest.raises(ValueError, match=f"timm has no weights for {bare}: write timm:{bare}@FILE"):
        fm.load(f"timm:{bare}")


def test_weights_that_are_not_numbers_are_named() -> None:
    """NaN anywhere in the weights, before any picture is read."""
    module = nets.gap_linear()
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(ValueError, match=r"0\.weight hold NaN or infinite"):
        fm.Classifier(module, size=32)


def test_a_bare_module_is_shown_how_to_be_wrapped() -> None:
    """One line that works."""
    with pytest.raises(ValueError, match=r"fm\.Classifier\(module, size=224"):
        fm.explain(nets.gap_linear(), torch.rand(1, 3, 32, 32))  # type: ignore[arg-type]

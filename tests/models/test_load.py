"""Names become models; what cannot be loaded is named with what would work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import faithmap as fm
from faithmap.models import nets as definitions
from tests import nets


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite1", "did you mean efficientnet-lite0"),
        ("adaface:ir_19@x.ckpt", "did you mean ir_18"),
        ("adaface:ir_18", "write adaface:NAME@FILE"),
        ("adaface@x.ckpt", "needs a variant"),
        ("efficientnet-lite0@x.pth", "takes no file"),
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

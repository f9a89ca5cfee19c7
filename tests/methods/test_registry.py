"""Names to methods, and parameters that are checked where they enter."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

from faithmap import methods
from faithmap.methods import FAME, LIFTCAM, Method, available, create, get, register


def test_every_public_method_is_registered_under_a_kebab_case_name() -> None:
    public = [getattr(methods, name) for name in methods.__all__]
    public = [c for c in public if isinstance(c, type) and issubclass(c, Method) and c is not Method]
    assert {get(name) for name in available()} >= set(public)
    assert available() == sorted(available())
    for name in available():
        assert re.fullmatch(r"[a-z0-9+]+(-[a-z0-9+]+)*", name)
        assert get(name).name == name


@pytest.mark.parametrize("name", available())
def test_methods_are_frozen_hashable_and_told_by_their_parameters(name: str) -> None:
    method = create(name)
    assert method == create(name, **method.parameters)
    assert hash(method) == hash(create(name))
    assert json.loads(json.dumps(method.parameters)) == method.parameters
    for field in dataclasses.fields(method):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, None)


@pytest.mark.parametrize("name", available())
def test_wrong_parameters_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(name)} has no parameter 'iteratons'"):
        create(name, iteratons=3)
    for field in dataclasses.fields(get(name)):
        with pytest.raises(ValueError, match=rf"{re.escape(name)}.*{field.name}.*got \['wrong'\]"):
            create(name, **{field.name: ["wrong"]})


def test_close_names_are_offered() -> None:
    with pytest.raises(ValueError, match="there is no method 'liftcam': did you mean lift-cam"):
        create("liftcam")
    with pytest.raises(ValueError, match=r"no parameter 'iteratons': did you mean iterations\?"):
        create("fame", iteratons=3)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="there is a method 'fame' already: FAME"):
        register("fame")(LIFTCAM)
    assert get("fame") is FAME
    assert LIFTCAM.name == "lift-cam"


@pytest.mark.parametrize(
    ("given", "kept"),
    [({"iterations": np.int64(3)}, 3), ({"step": 1}, 1.0), ({"stop_below": np.float32(0.5)}, 0.5)],
)  # fmt: skip
def test_numbers_are_kept_as_pythons_own(given: dict[str, Any], kept: Any) -> None:
    value = getattr(create("fame", **given), next(iter(given)))
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"iterations": 2.0}, "fame's iterations is a whole number: got 2.0"),
        ({"iterations": True}, "fame's iterations is a whole number: got True"),
        ({"step": "small"}, "fame's step is a finite number: got 'small'"),
        ({"step": float("inf")}, "fame's step is a finite number: got inf"),
        ({"space": "lab"}, "fame's space is 'input' or 'pixel': got 'lab'"),
        ({"clamp": 1}, "fame's clamp is True or False: got 1"),
        ({"stop_below": "never"}, "fame's stop_below is a finite number or None: got 'never'"),
    ],
)
def test_types_are_checked(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        create("fame", **given)
    with pytest.raises(ValueError, match="lift-cam's layer is a text or None: got 4"):
        create("lift-cam", layer=4)

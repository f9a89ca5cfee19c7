"""SHAP error: closed forms, sampling noise that is taken off, and coefficients that are SHAP values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import faithmap as fm
from faithmap.metrics import Case, create, shap_cosine, shap_error
from faithmap.targets import Logit
from tests import nets


def case_of(coefficients: Tensor | None, shapley: tuple[Tensor, Tensor] | None) -> Case:
    model = fm.Classifier(nets.VGGLike().eval(), size=32)
    return Case(
        model, torch.rand(2, 3, 32, 32), torch.rand(2, 32, 32), Logit(0), coefficients=coefficients, shapley=shapley
    )


def of(case: Case) -> dict[str, list[float]]:
    return {part: values.tolist() for part, values in create("shap-error").measure(case).values.items()}


def test_values_are_those_of_literal_loops() -> None:
    alpha, phi, error = torch.randn(4, 6), torch.randn(4, 6), 0.1 * torch.rand(4, 6)
    for i, (far, turned) in enumerate(zip(shap_error(alpha, phi, error), shap_cosine(alpha, phi, error), strict=True)):
        a, p, e = (t[i].double().tolist() for t in (alpha, phi, error))
        noise, own = sum(x**2 for x in e), sum(x**2 for x in p)
        squares = sum((x - y) ** 2 for x, y in zip(a, p, strict=True))
        assert float(far) == pytest.approx(math.sqrt((squares - noise) / own))
        dot = sum(x * y for x, y in zip(a, p, strict=True))
        assert float(turned) == pytest.approx(1 - dot / math.sqrt(sum(x**2 for x in a) * (own - noise)))


def test_closed_forms() -> None:
    phi, exact = torch.tensor([[3.0, 4.0, 0.0]]), torch.zeros(1, 3)
    for alpha, far, turned in (
        (phi, 0, 0),
        (2 * phi, 1, 0),
        (-phi, 2, 2),
        (0 * phi, 1, torch.nan),
        (torch.tensor([[0.0, 0.0, 5.0]]), 2**0.5, 1),
    ):
        assert shap_error(alpha, phi, exact).tolist() == pytest.approx([far])
        assert shap_cosine(alpha, phi, exact).tolist() == pytest.approx([turned], nan_ok=True)


def test_the_sampling_error_of_the_reference_is_taken_off() -> None:
    """Noisy references of known error: distance and cosine come out as against the values themselves."""
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(1, 400, generator=generator, dtype=torch.float64)
    alpha = phi + 0.5 * torch.randn(1, 400, generator=generator, dtype=torch.float64)
    sampled = phi + 0.7 * torch.randn(200, 400, generator=generator, dtype=torch.float64)
    error, none = torch.full_like(sampled, 0.7), torch.zeros_like(phi)
    many = alpha.expand(200, -1)
    true = float(shap_error(alpha, phi, none)) * float(phi.norm())
    found = shap_error(many, sampled, error) * sampled.norm(dim=1)
    assert float((found**2).mean()) == pytest.approx(true**2, rel=0.05)
    assert float((shap_error(many, sampled, 0 * error) * sampled.norm(dim=1)).mean()) > 1.5 * true
    turned = float(shap_cosine(alpha, phi, none))
    assert float(shap_cosine(many, sampled, error).mean()) == pytest.approx(turned, abs=0.01)
    assert float(shap_cosine(many, sampled, 0 * error).mean()) > turned + 0.1


def test_lift_cam_is_exact_behind_pooling_and_grad_cam_is_not_in_its_units() -> None:
    model = fm.Classifier(nets.gap_linear().eval(), size=32)
    x = torch.rand(2, 3, 32, 32)
    found = fm.methods.create("shap-cam").run(model, x, Logit(1))
    assert found.coefficients is not None
    assert found.coefficients_error is not None
    reference = found.coefficients, found.coefficients_error
    for name, exact in (("lift-cam", True), ("ablation-cam", False), ("grad-cam", False)):
        alpha = fm.methods.create(name).run(model, x, Logit(1)).coefficients
        values = of(case_of(alpha, reference))
        assert all(v < 1e-5 for v in values["shap-error"]) == exact
        assert all(v < 1e-5 for v in values["shap-cosine"]) == (name != "grad-cam")  # its share of |y| is a scale


def test_what_the_reference_is_uncertain_by_comes_with_it() -> None:
    phi, error = torch.tensor([[3.0, 4.0], [6.0, 8.0]]), torch.tensor([[0.3, 0.4], [0.0, 0.0]])
    assert of(case_of(phi, (phi, error)))["shap-sampling-error"] == pytest.approx([0.1, 0])


def test_no_coefficients_no_value_and_values_of_zero_neither() -> None:
    phi, error = torch.rand(2, 3), torch.zeros(2, 3)
    found = of(case_of(None, (phi, error)))
    assert all(map(math.isnan, found["shap-error"] + found["shap-cosine"]))
    assert found["shap-sampling-error"] == [0, 0]
    found = of(case_of(phi, (phi * torch.tensor([[0.0], [1.0]]), error)))
    for values in found.values():
        assert [math.isnan(v) for v in values] == [True, False]
    drowned = of(case_of(phi, (phi, 2 * phi)))
    assert all(map(math.isnan, drowned["shap-cosine"]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shapley": None}, "shap-error needs shapley: this case has none"),
        ({"coefficients": torch.rand(2, 4)}, r"\(B, C\) each: got \(2, 4\), \(2, 3\), \(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], says: str) -> None:
    given = {"coefficients": torch.rand(2, 3), "shapley": (torch.rand(2, 3), torch.rand(2, 3)), **changes}
    with pytest.raises(ValueError, match=says):
        of(case_of(**given))


def test_too_few_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 pairs of orders: got 1"):
        create("shap-error", orders=1)

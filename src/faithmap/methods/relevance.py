"""Relevance: the score handed back to the pixels, or to a layer, by a backward pass with replaced rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from faithmap.methods.base import Method, Query, Result, first_cause, unruled
from faithmap.methods.registry import register
from faithmap.models.base import Model
from faithmap.models.frozen import twin
from faithmap.pixels import blur
from faithmap.rules import DEEPLIFT, GUIDED, Linearised, Rules, linearise, relevance
from faithmap.rules.excitation import AGAINST, BOTH, FOR, excitation, matching, with_top
from faithmap.rules.folding import fold, reads_input, recorded
from faithmap.rules.lrp import Rule, lrp
from faithmap.targets import Target


@register("guided-backprop")
@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The gradient to the pixels with rectifiers that pass only what is positive in both directions.

    Backwards through a rectifier f, ``m_x = f'(x) [x > 0] max(m, 0)``; all else passes its gradient. The map is
    ``sum_c |m|`` over a pixel's colours. Rectifiers are ReLU, ReLU6 and other clamps at 0, LeakyReLU, PReLU, ELU, GELU,
    SiLU, Mish and Hardswish; those that leak are closed to negative inputs too. It is known to depend little on the
    target: an edge detector with weights of its own.

    Source: Springenberg et al. 2015, arXiv 1412.6806, section 3.4; it shows colours, and leaves their sum open.

    Examples:
        >>> import faithmap as fm
        >>> GuidedBackprop()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    def attribute(self, query: Query) -> Result:
        """One backward pass."""
        x = query.x.to(query.model.dtype)
        score, graph = through_network(query, x)
        found = linearise(score, x, torch.zeros_like(x), GUIDED, graph)
        notes = account(query, found, graph)
        return Result(found.multipliers.to(query.x.dtype).abs().sum(dim=1), notes=notes)


@register("deep-lift")
@dataclass(frozen=True)
class DeepLIFT(Method):
    """How much each pixel's difference to a baseline x' adds to the score: ``sum_c m (x - x')``.

    The multipliers m are those of the Rescale rule, slopes of secants between the image and the baseline, with rules
    for normalisers, softmax and pooling under which all parts add up to y(x) - y(x'). The error of that sum, and its
    condition, come with every map.

    Args:
        baseline: "zero" of the network's input, which is the mean colour; "black"; or "blur", the image itself
            smoothed with sigma 10 pixels.

    Raises:
        ValueError: there is no black in the network's input space, for it takes neither grey nor colour.

    Source: Shrikumar et al. 2017, eq. 1 and section 3.5.1.

    Examples:
        >>> import faithmap as fm
        >>> att = fm.explain(fm.load(), torch.rand(1, 3, 224, 224), method="deep-lift")
        >>> bool(att.completeness_error[0] < 1e-2)
        True
    """

    baseline: Literal["zero", "black", "blur"] = "zero"

    signed = True
    additive = True
    opposite = "negated"

    def check(self, model: Model, target: Target | None) -> None:
        """Black is a colour."""
        super().check(model, target)
        if self.baseline == "black":
            needs_pixels(model, "deep-lift's baseline 'black'", "baseline='zero'")

    def attribute(self, query: Query) -> Result:
        """One backward pass with replaced rules, over the image and the baseline."""
        x = query.x.to(query.model.dtype)
        reference = self.reference(query.model, x)
        score, graph = through_network(query, x)
        found = linearise(score, x, reference, DEEPLIFT, graph)
        parts = found.multipliers.double() * (query.x.double() - reference.double())  # (B, C, H, W)
        change = found.value.double() - found.reference.double()
        reasons = first_cause({"the image is the baseline itself": (x == reference).flatten(1).all(dim=1)})
        notes = account(query, found, graph)
        return Result(parts.sum(dim=1).to(query.x.dtype), reasons=reasons, notes=notes).adding_up(parts, change)

    def reference(self, model: Model, x: Tensor) -> Tensor:
        """The baseline for inputs x, of their shape."""
        if self.baseline == "blur":
            return blur(x, 10, 61)
        return torch.zeros_like(x) if self.baseline == "zero" else colour(model, x, 0).expand_as(x)


@register("lrp")
@dataclass(frozen=True)
class LRP(Method):
    """Layer-wise relevance propagation: the score handed down layer by layer, ``R_i = sum_j share_ij R_j``.

    The shares of an output ``z_j = sum_i x_i w_ij + b_j`` are in proportion to ``x_i w_ij`` (epsilon), to their
    positive parts (z+, alpha 1 and beta 0), or in the first convolution to ``x_i w_ij - l w_ij+ - h w_ij-`` for inputs
    between black l and white h (box). BatchNorm is folded into the layer before it; sums of branches share in
    proportion, a maximum hands all to its winner, and normalisers and gates are taken for fixed. The map is the sum
    over colours.

    The completeness error ``|sum R - y|`` says what did not reach the pixels. The epsilon rule leaves with biases and
    epsilon what they add; z+ and alpha1-beta0 leave with biases only what no input speaks for, which is nothing in
    SqueezeNet, but nearly all in networks of depthwise convolutions (MobileNetV2). Without biases all arrives.

    Args:
        rule: "epsilon" in all layers, "epsilon-plus" (epsilon in dense layers, z+ in convolutions), or
            "alpha1-beta0" in all layers.
        epsilon: added to the size of each output, in the network's units.
        first: "box", or "same" for the rule of the other layers.

    Raises:
        ValueError: epsilon is negative; or there is no black and white for the box, as the network takes neither grey
            nor colour.

    Source: Bach et al. 2015, eq. 58 to 60, positive shares without the bias; Montavon et al. 2017, table 1 (z+, box).

    Examples:
        >>> import faithmap as fm
        >>> LRP()(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    rule: Rule = "epsilon-plus"
    epsilon: float = 1e-6
    first: Literal["box", "same"] = "box"

    signed = True
    opposite = "negated"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon < 0:
            raise ValueError(f"lrp's epsilon is 0 or more: got {self.epsilon}")

    def check(self, model: Model, target: Target | None) -> None:
        """The box is made of black and white."""
        super().check(model, target)
        if self.first == "box":
            needs_pixels(model, "lrp's box rule", "first='same'")

    def attribute(self, query: Query) -> Result:
        """One backward pass with replaced rules."""
        x = query.x.to(query.model.dtype)
        box = (colour(query.model, x, 0), colour(query.model, x, 1)) if self.first == "box" else None
        score, graph = through_network(query, x)
        found = relevance(score, x, lrp(self.rule, self.epsilon, box), graph)
        notes = account(query, found, graph)
        if box and not (graph and reads_input(graph)):
            notes["first"] = "no convolution reads the pixels themselves: no box rule"
        R = found.multipliers.double()  # (B, C, H, W)
        return Result(R.sum(dim=1).to(query.x.dtype), notes=notes).adding_up(R, found.value.double())


@register("excitation-backprop")
@dataclass(frozen=True)
class ExcitationBackprop(Method):
    """Marginal winning probabilities: ``P_i = sum_j P_j x_i w_ij+ / sum_i x_i w_ij+``, from the score down to a layer.

    The top unit is the score itself, read off the last linear layer: for a class that layer's row w_k; for a match
    the sum of its rows, weighed with the other face's embedding (the embedding's length is taken for fixed). The map
    is the probability of each place, summed over the layer's channels, which adds up to 1 as far as no unit wins by
    its bias alone. Activations below 0 excite nothing and win nothing.

    Args:
        contrastive: take off the probabilities of the dual unit, whose weights are the top unit's negated: what is
            left belongs to this score and not to every score.
        layer: where the probabilities are read; the model's target layer by default. Earlier layers give finer maps.

    Source: Zhang et al. 2016, arXiv 1608.00507, eq. 1 to 5 and section 3.3.

    Examples:
        >>> import faithmap as fm
        >>> ExcitationBackprop(contrastive=True)(fm.load(), torch.rand(1, 3, 224, 224)).shape
        torch.Size([1, 224, 224])
    """

    contrastive: bool = False
    layer: str | None = None

    signed = True
    opposite = "asked"

    def attribute(self, query: Query) -> Result:
        """One backward pass with replaced rules, through the tail."""
        found = excited(query, excitation(self.contrastive))
        maps, reasons = places(query, found)
        return Result(maps, reasons=reasons, notes=unruled(found.without_rule))


@register("xfr")
@dataclass(frozen=True)
class XFR(Method):
    """Why two faces match, by excitation backpropagation from the numbers of the embedding that agree and disagree.

    A match is a sum over the embedding, ``s = sum_d v_d`` with ``v_d = f_d r_d / (|f| |r|)``. The numbers that agree,
    v_d > 0, win in proportion to v_d, and hand down to what makes them as large, or as negative, as they are; so do
    those that disagree. The map of similar places is the difference of the two, and the other way round of dissimilar
    ones; it is read at a layer and summed over its channels.

    Args:
        contrastive: take the other side's probabilities off; without it each side has its own, none below 0.
        kept: truncate each side to its strongest numbers, those that hold this share of it, above 0 and up to 1.
        layer: where the probabilities are read; the model's target layer by default.

    Raises:
        ValueError: ``kept`` is not above 0 and at most 1; the model is no `FaceEmbedder`.

    Source: after Williford et al. 2020 (contrastive and truncated contrastive excitation backpropagation), for a pair,
    where it has triplets: what disagrees within the pair stands for the non-mate.

    Examples:
        >>> import faithmap as fm
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.PReLU(8), torch.nn.Conv2d(8, 8, 30),
        ...                           torch.nn.Flatten())
        >>> face = fm.FaceEmbedder(net, size=32, target_layer="1")
        >>> XFR()(face, torch.rand(1, 3, 32, 32), fm.targets.Similarity(torch.rand(8))).shape
        torch.Size([1, 32, 32])
    """

    contrastive: bool = True
    kept: float = 1.0
    layer: str | None = None

    signed = True
    faces = True
    opposite = "found"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.kept <= 1:
            raise ValueError(f"xfr's kept is a share, above 0 and at most 1: got {self.kept}")

    def attribute(self, query: Query) -> Result:
        """One backward pass for the difference of both sides, or one for each."""
        found = excited(query, matching(BOTH if self.contrastive else FOR, self.kept))
        maps, reasons = places(query, found)
        against = -maps if self.contrastive else places(query, excited(query, matching(AGAINST, self.kept)))[0]
        return Result(maps, against=against, reasons=reasons, notes=unruled(found.without_rule))


def excited(query: Query, rules: Rules) -> Linearised:
    """The winning probabilities at the layer, and what they cost."""
    split = query.split  # first: the target may need the outputs, which then come from the tail
    target = query.target
    found = relevance(lambda a: target(split.tail(a)), split.A, rules, prepare=lambda graph: with_top(fold(graph)))
    query.count_tail(found)
    return found


def places(query: Query, found: Linearised) -> tuple[Tensor, list[str]]:
    """The layer's probabilities ``(B, C, h, w)`` as maps ``(B, H, W)``, and why one would be constant."""
    P = found.multipliers.to(query.x.dtype)
    nothing = {f"nothing in layer {query.layer!r} excites the score": (P == 0).flatten(1).all(dim=1)}
    return query.upsample(P.sum(dim=1)), first_cause(nothing)


def through_network(query: Query, x: Tensor) -> tuple[Callable[[Any], Tensor], fx.GraphModule | None]:
    """The score of the network's outputs and the network's graph; where there is none, of its input, and None."""
    target = query.target  # first: it may need the outputs
    graph, runs = recorded(query.model.module, x)
    query.cost.forward += runs * len(query)
    if graph is not None:
        return target, graph
    network = twin(query.model.module).module
    return lambda a: target(network(a)), None


def account(query: Query, found: Linearised, graph: fx.GraphModule | None) -> dict[str, str]:
    """Count what a pass through the whole network cost, keep its scores, and note what it has no rule for."""
    query.cost.forward += found.runs * len(query)
    query.cost.backward += len(query)
    query.__dict__.setdefault("scores", found.value)
    precision = {} if query.model.precision == "float32" else {"precision": "that of the weights"}
    return unruled(found.without_rule) | precision


def colour(model: Model, x: Tensor, level: float) -> Tensor:
    """Black (0) or white (1) in the network's input space, ``(1, C, 1, 1)``, like x."""
    return model.from_pixels(x.new_full((1, 3, 1, 1), level))


def needs_pixels(model: Model, what: str, instead: str) -> None:
    """Raise for a network whose input is no picture."""
    if model.channels not in (1, 3):
        raise ValueError(f"{what} needs black and white: {model.name} takes {model.channels} channels, use {instead}")

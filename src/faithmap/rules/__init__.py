"""A backward pass with replaced rules.

``linearise(function, A, reference, rules)`` follows a function of the activations on A and on a reference at once, and
returns multipliers m; with `DEEPLIFT` for rules, ``y(A) - y(reference) = <m, A - reference>``. The function is first
recorded as a graph of elementary, functional tensor operations, so that modules, functionals, in-place and reused
non-linearities are all the same thing here. Each operation then computes its value as usual but passes gradients by
its rule; operations without a rule pass plain gradients, and those of them that are not linear are named.

A rule is a function ``rule(run, op, *args, **kwargs) -> Pair``, found in a table by its operation. It gets a `Pair`
wherever an argument depends on the activations; ``run(op, *args)`` applies further operations by their own rules, and
``with_gradient(value, of)`` gives a value the gradient of something else. Other backward passes are other tables, and
may ignore the reference. LRP-epsilon, for instance, is ReLU's own gradient and a rule for the linear layers; relevance
is then m * A::

    def own(run, op, x):
        return Pair(op(x.value), op(x.reference))

    def epsilon(run, op, *args):
        z = plain(run, op, *args)
        share = (z.value / (z.value + 1e-6 * z.value.sign())).detach()
        return Pair(with_gradient(z.value, of=z.value * share), z.reference)

    linearise(function, A, torch.zeros_like(A), {aten.relu: own, aten.addmm: epsilon, aten.convolution: epsilon})

The tables here are `DEEPLIFT`, `GUIDED`, `lrp.lrp` and `excitation.excitation`; the last two are for `relevance`, which
folds BatchNorm into the layer before it.
"""

from __future__ import annotations

from faithmap.rules.deeplift import DEEPLIFT
from faithmap.rules.engine import (
    Interpreter,
    Linearised,
    Pair,
    Rule,
    Rules,
    gradient,
    gradients,
    linearise,
    plain,
    with_gradient,
)
from faithmap.rules.graphs import record
from faithmap.rules.guided import GUIDED
from faithmap.rules.heads import LinearHead, linear_head
from faithmap.rules.shares import relevance

__all__ = [
    "DEEPLIFT",
    "GUIDED",
    "Interpreter",
    "LinearHead",
    "Linearised",
    "Pair",
    "Rule",
    "Rules",
    "gradient",
    "gradients",
    "linear_head",
    "linearise",
    "plain",
    "record",
    "relevance",
    "with_gradient",
]

"""Units and their batches: fixed before any sharding, in an order that shows controls first."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import faithmap as fm
from faithmap.bench.plan import Unit, batches, plan, problems, unit_batches, weight
from faithmap.bench.spec import Entry
from tests.bench import tiny

SOME = [fm.methods.FAME(iterations=9), *map(fm.methods.create, ("grad-cam", "random", "lift-cam", "constant"))]


def test_ids_are_file_names_that_differ_wherever_units_do() -> None:
    odd = ["a b", "a-b", "A B", "a/b", "ä", "", "a b" * 200]
    units = [Unit(d, m, e, s, k) for d in odd for m in odd for e in odd for s in (0, 1) for k in ("clean", "maps")]  # type: ignore[arg-type]
    ids = [unit.id for unit in units]
    assert len({name.lower() for name in ids}) == len(units)
    assert all(re.fullmatch(r"[a-z0-9-]{1,140}", name) for name in ids)


def test_batches_are_whole_in_order_and_the_same_for_any_number_of_shards() -> None:
    spec = tiny.spec_of(tiny.pictures(11), SOME, [])
    assert batches(spec, "tiny") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    for shards in (1, 2, 3, 7):
        sharded = replace(spec, shards=shards)
        units = [unit for unit in plan(sharded) if unit.entry == "grad-cam"]
        assert len(units) == min(shards, 3)
        assert [batch for unit in units for batch in unit_batches(sharded, unit)] == batches(spec, "tiny")


def test_a_limit_forms_batches_of_the_samples_that_it_takes() -> None:
    data = tiny.pictures(11)
    spec = tiny.spec_of(data, SOME, [])
    taken = [one.id for one in data.take(5)]
    found = batches(spec, "tiny", 5)
    assert [len(batch) for batch in found] == [4, 1]
    assert [data[i].id for batch in found for i in batch] == taken
    assert batches(spec, "tiny", 99) == batches(spec, "tiny")


def test_clean_scores_come_first_then_references_then_controls_then_quick_methods() -> None:
    spec = tiny.spec_of(tiny.pictures(3), SOME, [tiny.Apart()])
    assert [unit.kind for unit in plan(spec)] == ["clean", "shapley", *["maps"] * 5]
    assert [unit.entry for unit in plan(spec)[2:]] == ["random", "constant", "grad-cam", "lift-cam", "fame"]


def test_references_are_of_the_layers_and_samples_of_methods_with_coefficients() -> None:
    model = tiny.classifier()
    spec = tiny.spec_of(tiny.pictures(11), [], [tiny.Apart()], model)
    methods = {
        "here": Entry("here", fm.methods.create("lift-cam"), limit=3),
        "there": Entry("there", fm.methods.create("grad-cam", layer="layer1"), limit=4),
        "nowhere": Entry("nowhere", fm.methods.create("grad-cam", layer="of another network")),
        "fame": Entry("fame", fm.methods.create("fame")),
    }
    spec = replace(spec, entries=list(methods.values()))
    units = [unit for unit in plan(spec) if unit.kind == "shapley"]
    assert [unit.entry for unit in units] == [model.target_layer, "layer1"]
    taken = [{i for batch in unit_batches(spec, unit) for i in batch} for unit in units]
    assert taken == [set(batches(spec, "tiny", 3)[0]), set(batches(spec, "tiny", 4)[0])]
    assert not [unit for unit in plan(replace(spec, metrics=[tiny.Mean()])) if unit.kind == "shapley"]


def test_weights_count_samples_and_steps() -> None:
    spec = tiny.spec_of(tiny.pictures(11), SOME, [tiny.Mean()])
    weights = {unit.entry: weight(spec, unit) for unit in plan(spec)}
    assert weights == {"": 11, "random": 121, "constant": 121, "grad-cam": 121, "lift-cam": 121, "fame": 11 * 19}


def test_all_problems_are_told() -> None:
    bare = tiny.Pictures(given=[fm.datasets.Example("a", tiny.picture(0))])
    spec = tiny.spec_of(
        bare, [SOME[0], SOME[0]], [tiny.Inside(), tiny.Mean(), tiny.Mean(), tiny.Apart(), tiny.Apart(4)]
    )
    told = "\n".join(problems(replace(spec, data={"tiny": bare, "faces": tiny.pairs(2)})))
    for part in ("of one task", "'fame'", "'mean'", "where objects are", "one set of SHAP values"):
        assert part in told
    assert not list(problems(tiny.spec_of(tiny.pictures(2), SOME, [tiny.Inside(), tiny.Mean(), tiny.Apart()])))


@pytest.mark.parametrize("kind", ["clean", "maps"])
def test_a_units_samples_never_overlap_anothers(kind: str) -> None:
    spec = tiny.spec_of(tiny.pictures(11), SOME[:1], [], shards=3)
    seen = [i for unit in plan(spec) if unit.kind == kind for batch in unit_batches(spec, unit) for i in batch]
    assert sorted(seen) == list(range(11))

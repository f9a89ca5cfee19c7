"""One unit: its values are those of a plain loop, and one bad sample never ends it or changes others."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import faithmap as fm
from faithmap.bench.plan import Unit, plan
from faithmap.bench.records import without_timings
from faithmap.bench.run import Runner, clean
from faithmap.bench.samples import Reader
from faithmap.datasets import Example, Truth
from faithmap.targets import Dissimilarity, Logit, Similarity
from tests.bench import tiny

METRICS = [tiny.Mean(), tiny.Inside()]


def grad_cam() -> fm.methods.Method:
    return fm.methods.create("grad-cam")


# --- clean scores


def test_clean_scores_are_those_of_a_loop() -> None:
    data, model = tiny.pictures(6), tiny.classifier()
    for explain in ("predicted", "label"):
        found = clean(tiny.spec_of(data, [], [], model, explain=explain), "tiny", "net")
        for one, example in zip(found.samples, data, strict=True):
            scores = model.module(model.prepare(example.image)).detach().softmax(dim=1)[0]
            k = example.label if explain == "label" else int(scores.argmax())
            assert (one.sample, one.label, one.explained, one.error) == (example.id, example.label, k, None)
            assert one.score == pytest.approx(float(scores[k]), rel=1e-5)
        assert found.threshold is None


def test_what_is_wrong_with_a_sample_is_told_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = {
        "_1": Example("lost", tmp_path / "lost.png", 0),
        "_2": Example("broken", str(tmp_path / "broken.png"), 0),
        "_3": Example("label", tiny.picture(3), 5),
        "_4": Example("box", tiny.picture(3), 1, Truth(torch.tensor([[9.0, 9.0, 3.0, 12.0]]))),
    }
    found = clean(tiny.spec_of(tiny.pictures(6, **bad), [], []), "tiny", "net").samples
    errors = {one.sample: one.error for one in found if one.error}
    assert list(errors) == ["lost", "broken", "label", "box"]
    assert "lost.png" in str(errors["lost"])
    assert "5" in str(errors["label"])
    assert not [error for error in errors.values() if str(tmp_path) in str(error) or tmp_path.name in str(error)]
    assert all(one.score is None and one.explained is None for one in found if one.error)


def test_a_label_that_is_lacking_matters_only_where_it_is_explained() -> None:
    data = tiny.pictures(2, _1=Example("bare", tiny.picture(1)))
    for explain, error in (("predicted", False), ("label", True)):
        found = clean(tiny.spec_of(data, [], [], explain=explain), "tiny", "net").samples[1]
        assert (found.error is not None) == error


def test_pairs_have_similarities_and_the_threshold_of_equal_errors() -> None:
    data, model = tiny.pairs(9), tiny.embedder()
    found = clean(tiny.spec_of(data, [], [], model), "tiny", "net")
    for one, pair in zip(found.samples, data, strict=True):
        assert one.score == pytest.approx(model.similarity(pair.probe, pair.gallery), abs=1e-5)
        assert (one.genuine, one.subjects, one.group) == (pair.genuine, pair.subjects, pair.group)
    best: tuple[float, float] = (2.0, 0.0)
    for t in sorted(float(one.score or 0) for one in found.samples):  # literally
        accepted = [one.score is not None and one.score >= t for one in found.samples if not one.genuine]
        rejected = [one.score is not None and one.score < t for one in found.samples if one.genuine]
        gap = abs(sum(accepted) / len(accepted) - sum(rejected) / len(rejected))
        best = (gap, t) if gap <= best[0] + 1e-12 else best
    assert found.threshold == pytest.approx(best[1], abs=1e-12)
    assert clean(tiny.spec_of(data, [], [], tiny.embedder(0.25)), "tiny", "net").threshold == 0.25
    assert clean(tiny.spec_of(data.take(1), [], [], model), "tiny", "net").threshold is None


# --- values and costs


def test_values_maps_and_costs_are_those_of_a_loop() -> None:
    data, model, method = tiny.pictures(6), tiny.classifier(), fm.methods.create("lift-cam")
    found = tiny.run(tiny.spec_of(data, [method], METRICS, model))
    for example in data:
        x = model.prepare(example.image)
        k = model.module(x).argmax(dim=1)
        single = method.run(model, x, Logit(k))
        map = next(kept for (_, sample), kept in found.maps.items() if sample == example.id)
        torch.testing.assert_close(map, single.maps[0], atol=1e-5, rtol=1e-4)
        mean = tiny.only(found, part="mean")[example.id]
        assert mean.value == pytest.approx(float(single.maps.mean()), abs=1e-5)
        assert mean.curve == pytest.approx(single.maps.flatten()[:3].tolist(), abs=1e-5)
        shown = single.maps.clamp_min(0)[0]
        shown = (shown - shown.min()) / (shown.max() - shown.min())
        box = example.truth.boxes[0].tolist()
        inside = sum(
            float(shown[r, c])
            for r in range(32)
            for c in range(32)
            if box[0] <= c + 0.5 < box[2] and box[1] <= r + 0.5 < box[3]
        )
        assert tiny.only(found, part="inside")[example.id].value == pytest.approx(inside / float(shown.sum()), abs=1e-4)
        cost = {name: getattr(mean, name) for name in ("forward", "backward", "tail_forward", "tail_backward")}
        assert {name: count for name, count in cost.items() if count} == single.cost.per_image(1)
        assert (mean.metric_forward, tiny.only(found, part="inside")[example.id].metric_forward) == (1, 0)
        assert mean.seconds > 0


def test_a_shared_score_is_counted_once_and_padding_adds_nothing() -> None:
    twice = [tiny.Mean(), replace(tiny.Inside())]
    full, one = (tiny.run(tiny.spec_of(tiny.pictures(n), [grad_cam()], twice)) for n in (4, 1))
    a, b = (tiny.only(found, part="mean")["p1"] for found in (full, one))
    assert (a.forward, a.tail_backward, a.metric_forward) == (b.forward, b.tail_backward, b.metric_forward) == (1, 1, 1)


# --- bad samples


def others(found: tiny.Memory, bad: str) -> list[tuple[object, ...]]:
    return without_timings(record for record in found.records if record.sample != bad)


@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_bad_sample_gives_rows_with_its_error_and_changes_no_other(place: int, tmp_path: Path) -> None:
    methods = [grad_cam(), fm.methods.create("random")]
    bad = Example(f"p{place + 1}", tmp_path / "lost.png", 0)
    whole = tiny.run(tiny.spec_of(tiny.pictures(6), methods, METRICS))
    holed = tiny.run(tiny.spec_of(tiny.pictures(6, **{f"_{place}": bad}), methods, METRICS))
    assert others(whole, bad.id) == others(holed, bad.id)
    rows = [record for record in holed.records if record.sample == bad.id]
    assert {(row.method, row.part) for row in rows} == {
        (m.name, part) for m in methods for part in ("mean", "kept", "inside")
    }
    assert all(row.value is None and row.error and "lost.png" in row.error for row in rows)
    assert not [key for key in holed.maps if key[1] == bad.id]


def test_a_data_set_of_bad_samples_alone_is_rows_of_errors(tmp_path: Path) -> None:
    lost = {f"_{i}": Example(f"p{i}", tmp_path / f"{i}.png", 0) for i in range(5)}
    found = tiny.run(tiny.spec_of(tiny.pictures(5, **lost), [grad_cam()], METRICS))
    assert len(found.records) == 15
    assert all(record.error for record in found.records)


def test_a_picture_that_changed_since_its_clean_score_is_no_longer_judged(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(tiny.picture(1)).save(path)
    spec = tiny.spec_of(tiny.pictures(2, _1=Example("a", path, 0)), [grad_cam()], METRICS)
    runner, (first, second) = Runner(spec), plan(spec)
    runner(first)
    Image.fromarray(tiny.picture(2)).save(path)
    errors = {record.sample: record.error for record in runner(second).records}
    assert errors["p1"] is None
    assert "when its clean score was taken" in str(errors["a"])


def dark(bound: float) -> Callable[[torch.Tensor], Exception | None]:
    return lambda x: KeyError("dark") if bool((x[:, 0, 0, 0] < bound).any()) else None


def test_what_a_method_fails_on_is_found_sample_by_sample() -> None:
    data, model = tiny.pictures(7), tiny.classifier()
    corners = {one.id: float(model.prepare(one.image)[0, 0, 0, 0]) for one in data}
    bound = sorted(corners.values())[2] - 1e-4  # two are darker
    found = tiny.run(tiny.spec_of(data, [tiny.Grey(refuse=dark(bound))], METRICS, model))
    plain = tiny.run(tiny.spec_of(data, [tiny.Grey()], METRICS, model))
    for part in ("mean", "kept", "inside"):
        rows, whole = tiny.only(found, part=part), tiny.only(plain, part=part)
        for sample, corner in corners.items():
            assert rows[sample].error == ("KeyError: 'dark'" if corner < bound else None)
            if corner >= bound:
                assert rows[sample].value == pytest.approx(whole[sample].value, rel=1e-6)


def test_a_refused_model_is_not_asked_about_every_sample() -> None:
    calls: list[int] = []
    refusing = tiny.Grey(refuse=lambda _: ValueError("no such head"), calls=calls)
    found = tiny.run(tiny.spec_of(tiny.pictures(20), [refusing], METRICS))
    assert {record.error for record in found.records} == {"no such head"}
    assert len(found.records) == 60
    assert len(calls) <= 5 + 4, "one try for each of 5 batches; warming up, and asking whether all are refused"


def test_a_refusal_in_other_words_for_each_sample_is_no_refusal_of_the_model() -> None:
    def refuse(x: torch.Tensor) -> Exception | None:
        return ValueError(f"corner {float(x[0, 0, 0, 0]):.3f}") if len(x[:, 0, 0, 0].unique()) > 1 else None

    found = tiny.run(tiny.spec_of(tiny.pictures(6), [tiny.Grey(refuse=refuse)], [tiny.Mean()]))
    assert all(record.error is None for record in found.records), "alone every one of them has a map"


def test_one_reason_for_the_first_and_last_sample_is_none_for_those_between() -> None:
    model, n = tiny.classifier(), 12
    data = tiny.pictures(n)
    corners = [float(model.prepare(one.image)[0, 0, 0, 0]) for one in data]
    reasons = {corners[0]: "dark", corners[5]: "odd", corners[n - 1]: "dark"}

    def refuse(x: torch.Tensor) -> Exception | None:
        found = [reasons[corner] for corner in x[:, 0, 0, 0].tolist() if corner in reasons]
        return ValueError(found[0]) if found else None

    rows = tiny.only(tiny.run(tiny.spec_of(data, [tiny.Grey(refuse=refuse)], [tiny.Mean()], model)), part="mean")
    errors = {data[i].id: rows[data[i].id].error for i in range(4, 8)}
    assert errors == {data[4].id: None, data[5].id: "odd", data[6].id: None, data[7].id: None}


def test_what_a_metric_fails_on_is_found_sample_by_sample() -> None:
    data, model = tiny.pictures(6), tiny.classifier()
    corners = {one.id: float(model.prepare(one.image)[0, :, 0, 0].mean()) for one in data}
    bound = sorted(corners.values())[3]
    found = tiny.run(tiny.spec_of(data, [tiny.Grey()], [tiny.Picky(bound), tiny.Mean()], model))
    for sample, corner in corners.items():
        row = tiny.only(found, part="picky")[sample]
        if corner > bound + 1e-6:
            assert (row.value, row.error) == (None, "RuntimeError: too bright")
            assert row.forward == 1, "the map has cost what it has"
        elif corner < bound - 1e-6:
            assert row.value == pytest.approx(corner, abs=1e-6)
        assert tiny.only(found, part="mean")[sample].error is None


def test_degenerate_maps_say_why_there_is_no_value() -> None:
    class Nan(tiny.Grey):
        def attribute(self, query: Any) -> Any:
            return replace(super().attribute(query), maps=torch.full_like(query.x[:, 0], torch.nan))

    zero = fm.methods.create("constant")
    found = tiny.run(tiny.spec_of(tiny.pictures(2), [Nan(), zero], METRICS))
    assert {record.error for record in tiny.only(found, method="grey", part="mean").values()} == {
        "the map holds NaN or infinite values"
    }
    constant = tiny.only(found, method="constant", part="mean")
    assert {(record.value, record.error) for record in constant.values()} == {(1.0, None)}


def test_metrics_that_lack_something_say_what() -> None:
    bare = tiny.Pictures(given=[Example("a", tiny.picture(0)), Example("b", tiny.picture(1))])
    found = tiny.run(tiny.spec_of(bare, [grad_cam(), tiny.Grey()], [tiny.Inside(), tiny.Apart(), tiny.Mean()]))
    assert "where objects are" in str(tiny.only(found, method="grad-cam", part="inside")["a"].error)
    assert "coefficients" in str(tiny.only(found, method="grey", part="apart")["a"].error)
    assert tiny.only(found, method="grad-cam", part="apart")["a"].value is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_program_passes(error: type[BaseException]) -> None:
    with pytest.raises(error):
        tiny.run(tiny.spec_of(tiny.pictures(3), [tiny.Grey(refuse=lambda _: error())], METRICS))


def test_an_exception_of_progress_ends_the_run_and_is_no_error_of_a_sample() -> None:
    class StopError(ValueError):
        pass

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise StopError

    memory = tiny.Memory()
    with pytest.raises(StopError):
        tiny.run(tiny.spec_of(tiny.pictures(9), [fm.methods.FAME(iterations=5)], METRICS), memory, stop)
    assert not memory.records


# --- the same bits


def all_kinds(**more: Any) -> Any:
    methods = [
        grad_cam(),
        fm.methods.FAME(iterations=4),
        *map(fm.methods.create, ("random", "lift-cam", "smooth-grad")),
    ]
    metrics = [*METRICS, tiny.Apart()]
    data = tiny.pictures(11, _6=Example("bad", Path("nowhere.png"), 1))
    return tiny.spec_of(data, methods, metrics, tiny.classifier("vgg"), **more)


@pytest.fixture(scope="module")
def straight() -> tiny.Memory:
    torch.set_num_threads(1)
    return tiny.run(all_kinds())


@pytest.mark.parametrize("shards", [2, 3, 9])
def test_another_number_of_shards_gives_the_same_bits(straight: tiny.Memory, shards: int) -> None:
    other = tiny.run(all_kinds(shards=shards))
    assert len(other.found) > len(straight.found)
    assert without_timings(other.records) == without_timings(straight.records)
    assert len(other.maps) == len(straight.maps) == 50


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_another_batch_size_stays_within_rounding(straight: tiny.Memory, batch: int) -> None:
    """Kernels round by the size of their batch; in float32 and few steps that is all that differs."""
    other = tiny.run(all_kinds(batch=batch))
    for key, map in straight.maps.items():
        (match,) = (m for (unit, sample), m in other.maps.items() if (unit, sample) == key)
        assert float((match - map).abs().max()) <= 1e-4 * float(map.abs().max())
    ours, theirs = ({(r.method, r.part, r.sample): r for r in memory.records} for memory in (straight, other))
    assert ours.keys() == theirs.keys()
    for key, record in ours.items():
        assert theirs[key].error == record.error
        if record.value is None:
            assert theirs[key].value is None
        else:
            assert theirs[key].value == pytest.approx(record.value, rel=1e-4, abs=1e-6)


def test_another_order_of_units_gives_the_same_bits(straight: tiny.Memory) -> None:
    spec, memory = all_kinds(shards=2), tiny.Memory()
    units = plan(spec)
    maps = [unit for unit in units if unit.kind == "maps"]
    random.Random(0).shuffle(maps)
    for unit in [unit for unit in units if unit.kind != "maps"] + maps:
        memory.save(unit, Runner(spec, memory.load)(unit))  # each as in a process of its own
    assert without_timings(memory.records) == without_timings(straight.records)


def test_a_run_killed_at_random_moments_and_resumed_gives_the_same_bits(straight: tiny.Memory) -> None:
    class Killed(BaseException):
        pass

    spec, memory, moments = all_kinds(shards=2), tiny.Memory(), random.Random(1)
    kills = 0
    while kills < 20:
        left = moments.randint(0, 12)

        def kill(done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        try:
            tiny.run(spec, memory, kill)
            break
        except Killed:
            kills += 1
    tiny.run(spec, memory)
    assert kills > 5
    assert without_timings(memory.records) == without_timings(straight.records)


def test_batches_that_are_kept_in_memory_are_those_that_are_read_again(straight: tiny.Memory) -> None:
    spec, memory = all_kinds(), tiny.Memory()
    for unit in plan(spec):
        runner = Runner(spec, memory.load)
        runner._reader = Reader(spec, room=0)
        memory.save(unit, runner(unit))
    assert without_timings(memory.records) == without_timings(straight.records)


def test_a_reader_keeps_no_more_than_its_room() -> None:
    spec = tiny.spec_of(tiny.pictures(12), [], [])
    known = clean(spec, "tiny", "net").samples
    one = Reader(spec).known("tiny", "net", [0, 1, 2, 3], known).bytes
    assert one >= 4 * 3 * 32 * 32 * 4
    reader = Reader(spec, room=2 * one + 1)
    read = [[reader.known("tiny", "net", range(i, i + 4), known) for i in (0, 4, 8)] for _ in range(2)]
    assert [a is b for a, b in zip(*read, strict=True)] == [True, True, False]


# --- pairs


@pytest.mark.parametrize("name", ["grad-cam", "fame", "xssab", "gradient", "random"])
def test_maps_are_of_probes_and_their_opposite_is_as_the_method_says(name: str) -> None:
    data, model = tiny.pairs(5), tiny.embedder(0.2)
    method = fm.methods.FAME(iterations=3) if name == "fame" else fm.methods.create(name)
    found = tiny.run(tiny.spec_of(data, [method], [tiny.Mean(), tiny.Opposite()], model))
    for pair in data:
        x, f = model.prepare(pair.probe), model.embed(pair.gallery)
        plus = method.run(model, x, Similarity(f))
        assert tiny.only(found, part="mean")[pair.id].value == pytest.approx(
            float(plus.maps.mean()), rel=1e-3, abs=1e-6
        )
        row = tiny.only(found, part="opposite")[pair.id]
        minus = {
            "asked": lambda x=x, f=f: method(model, x, Dissimilarity(f)),
            "negated": lambda plus=plus: -plus.maps,
            "found": lambda plus=plus: plus.against,
            "none": lambda plus=plus: plus.maps,  # a control's map is the same whatever is asked
        }
        if method.opposite == "none" and not method.control:
            assert row.value is None
            continue
        against: Any = minus[method.opposite]()
        assert row.value == pytest.approx(float(against.mean()), rel=1e-3, abs=1e-6)
        asked = {"asked": 2 * 3, "negated": 0, "found": 0, "none": 0}
        assert row.metric_forward == asked[method.opposite], "what is known is not asked again"


# --- SHAP values


def test_references_are_the_games_own_values_and_computed_once() -> None:
    """Behind global average pooling and one linear layer they are w_k mean(A_k)."""
    data, model = tiny.pictures(6), tiny.classifier("gap")
    methods = [grad_cam(), fm.methods.create("lift-cam"), fm.methods.create("random-cam")]
    spec = tiny.spec_of(data, methods, [tiny.Apart()], model)
    found = tiny.run(spec)
    (references,) = [one.shapley for one in found.found.values() if one.shapley]
    net: Any = model.module
    for example in data:
        x = model.prepare(example.image)
        A = net[:5](x)
        k = int(net(x).argmax())
        expected = (net[7].weight[k] * A.mean(dim=(2, 3))[0]).detach()
        values, errors = references[example.id]
        torch.testing.assert_close(values, expected.double(), atol=1e-6, rtol=1e-4)
        assert not errors.any()
        assert tiny.only(found, method="lift-cam")[example.id].value == pytest.approx(0, abs=1e-5)
        coefficients = methods[2].run(model, x, Logit(k)).coefficients
        assert coefficients is not None
        apart = float((coefficients[0] - expected).norm())
        assert tiny.only(found, method="random-cam")[example.id].value == pytest.approx(apart, rel=1e-4)


def test_references_do_not_share_the_draws_of_a_method() -> None:
    model = tiny.classifier("vgg")
    method = fm.methods.ShapCAM(orders=3, exact_up_to=0)
    apart = replace(tiny.Apart(), orders=3)
    spec = tiny.spec_of(tiny.pictures(2), [method], [apart], model)
    from faithmap.bench import run as room

    drawn = replace(method, layer=model.target_layer)
    original, room.reference = room.reference, lambda spec, layer: drawn  # type: ignore[attr-defined]
    try:
        found = tiny.run(spec)
    finally:
        room.reference = original  # type: ignore[attr-defined]
    assert all(record.value and record.value > 1e-6 for record in found.records)


def test_units_of_maps_ask_for_what_they_build_on() -> None:
    spec = tiny.spec_of(tiny.pictures(2), [grad_cam()], METRICS)
    with pytest.raises(ValueError, match="has not been run"):
        Runner(spec)(Unit("tiny", "net", "grad-cam"))


# --- progress


def test_progress_only_counts_what_this_run_does_and_ends_at_all() -> None:
    spec = all_kinds(shards=2)
    calls: list[tuple[int, int]] = []
    memory = tiny.run(spec, progress=lambda done, total: calls.append((done, total)))
    assert len({total for _, total in calls}) == 1
    assert calls[-1][0] == calls[-1][1]
    for one in [key for key in memory.found if "fame" in key]:
        del memory.found[one]
    again: list[tuple[int, int]] = []
    tiny.run(spec, memory, lambda done, total: again.append((done, total)))
    assert again[-1] == (11 * (4 + 30), 11 * (4 + 30))


def test_progress_counts_the_steps_within_a_batch_and_never_goes_back() -> None:
    calls: list[int] = []
    spec = tiny.spec_of(tiny.pictures(4), [fm.methods.FAME(iterations=9)], [tiny.Mean()])
    tiny.run(spec, progress=lambda done, _: calls.append(done))
    assert calls == sorted(calls)
    for expected in (4 + 4 * t for t in range(1, 10)):  # after the clean scores of 4 samples 4 for each step, rounded
        assert {expected, expected - 1} & set(calls)


# --- on a real network


@pytest.mark.real
def test_a_real_network_end_to_end(data: Path) -> None:
    model = fm.load(f"mobilenet_v2@{data}/weights/mobilenet_v2.pth", resize="squash")
    methods = [grad_cam(), fm.methods.create("lift-cam"), fm.methods.create("constant")]
    spec = tiny.spec_of(fm.datasets.load("photos"), methods, [tiny.Mean(), tiny.Apart()], model)
    one, two = tiny.run(spec), tiny.run(replace(spec, shards=2))
    assert without_timings(one.records) == without_timings(two.records)
    assert [c.explained for c in tiny.cleaned(one).samples] == [285, 967, 657]
    assert tiny.only(one, method="lift-cam", part="apart")["cat.jpg"].value == pytest.approx(0, abs=1e-4)
    costs = tiny.only(one, method="grad-cam", part="mean")["cat.jpg"]
    assert (costs.forward, costs.tail_backward) == (1, 1)
    assert costs.peak_mib != costs.peak_mib or costs.peak_mib > 10


def test_controls_are_graded_whichever_way_is_asked() -> None:
    """A control's e- is its one map: else no control would stand beside methods where twins are told apart."""
    face, twins = fm.load("faces"), fm.datasets.load("worlds.faces", kinds="twins", size=8)
    found = fm.evaluate(face, twins, ["lift-cam"], ["known-truth"], batch_size=8)
    rows = [r for r in found.records if r.part == "truth-precision" and r.value is not None]
    assert len({(r.method, r.sample) for r in rows}) == 5 * len({r.sample for r in rows}) > 0
    assert len({r.value for r in rows if r.sample == rows[0].sample}) == 5

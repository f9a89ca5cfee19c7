"""Tables of a benchmark: small ones, reckoned by hand."""

from __future__ import annotations

import csv
import io

import pytest
import torch

from faithmap.bench.pages import to_markdown
from faithmap.bench.records import Record
from faithmap.bench.spec import Published
from faithmap.bench.tables import Row, summarize, to_csv
from faithmap.metrics import bootstrap
from tests.bench.stand_ins import Area, record

N = 40


def values(method: str, center: float, part: str = "area", n: int = N, **changes: object) -> list[Record]:
    """Values around a number that go up and down alike for all methods, so that differences are exact."""
    return [record(method, f"{i}.png", center + i / 100, part=part, **changes) for i in range(n)]


def rows_of(records: list[Record], **asks: object) -> dict[tuple[str, str], Row]:
    rows = summarize(records, [Area()], **asks)  # type: ignore[arg-type]
    return {(row.method, row.part): row for row in rows}


def test_means_and_intervals_are_those_of_the_bootstrap() -> None:
    row = rows_of(values("fame", 0.5))["fame", "area"]
    assert row.mean == bootstrap(torch.tensor([0.5 + i / 100 for i in sorted(range(N), key=str)], dtype=torch.float64))
    assert row.mean.mean == pytest.approx(0.5 + 0.195)
    assert row.median == pytest.approx(0.5 + 0.195)
    assert (row.samples, row.errors, row.control) == (N, 0, False)


def test_the_order_of_records_does_not_count() -> None:
    records = values("fame", 0.5) + values("random", 0.2) + values("edges", 0.3)
    one, other = rows_of(records), rows_of(records[::-1])
    assert one == other


def test_differences_are_paired_on_the_samples_that_both_have() -> None:
    """Ten of forty: against the control's values there, not against its mean."""
    records = values("fame", 0.5, n=10) + values("random", 0.45) + values("edges", 0.6)
    row = rows_of(records)["fame", "area"]
    assert row.differences["random"] == pytest.approx((0.05, 0.05, 0.05, 10))
    assert row.differences["edges"] == pytest.approx((-0.1, -0.1, -0.1, 10))
    assert row.mean.mean < 0.45 + 0.195, "its mean is below that of random maps, on other samples"
    assert (row.random, row.best_control, row.best) == ("beats", "edges", "loses")


def test_samples_that_only_the_method_has_do_not_count_against_a_control() -> None:
    row = rows_of(values("fame", 0.5) + values("random", 0.45, n=10))["fame", "area"]
    assert row.differences["random"] == pytest.approx((0.05, 0.05, 0.05, 10))


@pytest.mark.parametrize(
    ("part", "fame", "random", "edges", "verdicts"),
    [
        ("area", 0.5, 0.4, 0.3, ("beats", "random", "beats")),
        ("area", 0.5, 0.4, 0.6, ("beats", "edges", "loses")),
        ("area", 0.5, 0.6, 0.4, ("loses", "random", "loses")),
        ("rest", 0.5, 0.4, 0.3, ("loses", "edges", "loses")),
        ("rest", 0.5, 0.6, 0.7, ("beats", "random", "beats")),
        ("rest", 0.5, 0.5, 0.7, ("ties", "random", "ties")),
    ],
)
def test_verdicts_follow_the_better_direction(
    part: str, fame: float, random: float, edges: float, verdicts: tuple[str, str, str]
) -> None:
    records = values("fame", fame, part) + values("random", random, part) + values("edges", edges, part)
    row = rows_of(records)["fame", part]
    assert (row.random, row.best_control, row.best) == verdicts


def test_a_difference_that_may_be_none_ties() -> None:
    swings = [record("random", f"{i}.png", 0.5 + i / 100 + (0.3 if i % 2 else -0.3)) for i in range(N)]
    row = rows_of(values("fame", 0.51) + swings)["fame", "area"]
    assert row.differences["random"].low < 0 < row.differences["random"].high
    assert (row.random, row.best) == ("ties", "ties")


@pytest.mark.parametrize(("n", "verdict"), [(5, ""), (6, "beats")])
def test_few_samples_have_no_verdict(n: int, verdict: str) -> None:
    """Of five differences all have one sign by chance in one of sixteen cases."""
    row = rows_of(values("fame", 0.5, n=n) + values("random", 0.4))["fame", "area"]
    assert (row.random, row.best) == (verdict, verdict)
    assert row.differences["random"].samples == n


def test_parts_without_a_direction_have_no_verdict() -> None:
    class Shown(Area):
        parts = {"area": "neither"}  # noqa: RUF012

    (row, _) = summarize(values("fame", 0.5) + values("random", 0.1), [Shown()])
    assert (row.random, row.best_control, row.best) == ("", "", "")
    assert row.differences["random"].mean == pytest.approx(0.4)


def test_controls_stand_against_the_other_controls() -> None:
    rows = rows_of(values("random", 0.4) + values("edges", 0.5))
    assert rows["random", "area"].control
    assert (rows["random", "area"].random, rows["random", "area"].best_control) == ("", "edges")
    assert (rows["edges", "area"].random, rows["edges", "area"].best) == ("beats", "beats")


def test_intervals_of_pairs_draw_people() -> None:
    """Two people, two values: their pairs are no forty samples."""
    records = [record("fame", f"{i}", float(i % 2)) for i in range(N)]
    people = {f"{i}": ("ann", "ann") if i % 2 else ("bob", "bob") for i in range(N)}
    few = rows_of(records, subjects={"noise": people})["fame", "area"].mean
    many = rows_of(records)["fame", "area"].mean
    assert (few.low, few.high) == (0, 1)
    assert many.high - many.low < 0.4


def test_errors_are_counted_with_the_most_frequent_reason() -> None:
    reasons = ["no box", "too dark", "no box"]
    broken = [record("fame", f"x{i}", None, error=error, seconds=99) for i, error in enumerate(reasons)]
    empty = [record("fame", "y", None), record("fame", "z", float("nan"))]
    row = rows_of(values("fame", 0.5, seconds=2.0, forward=3, peak_mib=7) + broken + empty)["fame", "area"]
    assert (row.samples, row.errors, row.reason) == (N + 5, 3, "no box")
    assert row.mean.samples == N
    assert row.costs["forward"] == pytest.approx(3 * N / (N + 2)), "samples that were not explained cost nothing"
    assert row.costs["peak_mib"] == 7


def test_nothing_but_errors_has_no_mean() -> None:
    row = rows_of([record("cam", "a", None, error="refused"), *values("random", 0.1)])["cam", "area"]
    assert (row.mean, row.median, row.differences, row.random) == (None, None, {}, "")


def test_values_that_are_infinite_leave_the_others_their_verdict() -> None:
    records = values("fame", 0.5) + values("random", 0.4)
    records += [record(name, "inf", float("inf")) for name in ("fame", "random")]
    row = rows_of(records)["fame", "area"]
    assert row.differences["random"] == pytest.approx((0.1, 0.1, 0.1, N))
    assert row.random == "beats"


def published(**changes: object) -> Published:
    asks = {"data": "noise", "model": "tiny", "method": "fame", "part": "area", "value": 46.09, "source": "A | B 2026"}
    return Published(**{**asks, **changes})  # type: ignore[arg-type]


def test_published_figures_stand_beside_those_they_are_of() -> None:
    given = [published(), published(model=""), published(model="other"), published(part="rest"), published(data="x")]
    rows = rows_of(values("fame", 0.5) + values("fame", 0.5, "rest") + values("cam", 0.1), published=given)
    assert rows["fame", "area"].published == given[:2]
    assert rows["fame", "rest"].published == [given[3]]
    assert rows["cam", "area"].published == []


def page(records: list[Record], metrics: list[Area] | None = None, **asks: object) -> list[str]:
    rows = summarize(records, metrics or [Area()], **asks)  # type: ignore[arg-type]
    return to_markdown("a small one", rows, metrics or [Area()]).splitlines()


def table(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]


def test_the_page_puts_the_best_first_and_marks_controls() -> None:
    spent = {"seconds": 0.25, "forward": 2, "peak_mib": 8}
    records = [
        *values("fame", 0.5, "rest"), *values("cam", 0.3, "rest"), *values("random", 0.4, "rest", **spent),
        *values("fame", 0.5), *values("cam", 0.3), *values("random", 0.4, **spent),
    ]  # fmt: skip
    lines = page(records)
    heads, _, *rows = table(lines)
    assert heads == ["method", "area ↑", "rest ↓", "evaluations", "seconds", "MiB"]
    assert [row[0] for row in rows] == ["fame", "*random*", "cam"]
    assert rows[0][1].endswith("] ▲")
    assert rows[0][2].endswith("] ▽")
    assert rows[2][1].endswith("] ▽")
    assert rows[1][1].endswith("]")
    assert rows[1][3:] == ["2 forward", "0.25", "8"]
    assert "Best first by area." in lines
    assert f"- Means over {N} samples, with 95 % bootstrap intervals." in lines


def test_the_page_tells_what_is_missing_and_what_is_published() -> None:
    records = [
        *values("fame", 0.5, n=10), *values("random", 0.4, seconds=1.5),
        record("cam", "0.png", None, error="cam needs a linear head | <b>"),
    ]  # fmt: skip
    given = [published(), published(method="random", part="seconds", value=3.03)]
    lines = page(records, published=given)
    assert [row[0] for row in table(lines)[2:]] == ["*random*", "fame"]
    text = "\n".join(lines)
    assert f"- fame ran on 10 of {N} samples" in text
    assert r"- cam is not in the table: cam needs a linear head \| &lt;b>" in text
    assert r"- Published of fame, area: 46.09 (A \| B 2026); here 0.545 [" in text
    assert r"- Published of random, seconds: 3.03 (A \| B 2026); here 1.5." in text


def test_what_a_metric_cannot_judge_is_one_line_and_no_row() -> None:
    """Area has values of all methods, rest of one alone, and lacks one sample of that."""
    broken = [
        record(m, f"{i}.png", None, part="rest", error=f"{m} has none") for m in ("cam", "rise") for i in range(3)
    ]
    few = [*values("fame", 0.5, "rest", n=2), record("fame", "2.png", None, part="rest", error="odd")]
    whole = [row for method in ("fame", "cam", "rise") for row in values(method, 0.5, n=3)]
    lines = page([*whole, *broken, *few])
    assert [row[0] for row in table(lines)[2:]] == ["fame", "cam", "rise"]
    assert "- area has no value on any sample for cam, rise: cam has none" in lines
    assert "- area has no value on 1 of 3 samples for fame: odd" in lines


def test_a_table_with_many_parts_is_split() -> None:
    class Wide(Area):
        name = "wide"
        parts = {f"part {i}": "higher" for i in range(5)}  # noqa: RUF012

    metrics = [Area(), Wide()]
    records = [r for metric in metrics for part in metric.parts for r in values("fame", 0.5, part, n=3)]
    lines = page(records, metrics)  # type: ignore[arg-type]
    heads = [cells for cells in table(lines) if cells[0] == "method"]
    assert [len(cells) for cells in heads] == [1 + 2 + 3, 1 + 5]
    assert sum(line.startswith("### ") for line in lines) == 2


def test_shares_are_told_in_hundredths_with_medians_where_means_explode() -> None:
    class Drop(Area):
        name = "average-drop-in-deletion"
        parts = {"area": "higher"}  # noqa: RUF012
        shares = True

    (cells,) = table(page(values("fame", 0.5, n=1), [Drop()]))[2:]
    assert cells[1] == "50.0 [50.0, 50.0], median 50.0"


def test_csv_holds_every_row_with_everything() -> None:
    records = values('a "b", c', 0.5) + values("random", 0.4) + values("fame", 0.1, "rest", n=3)
    rows = summarize(records, [Area()], published=[published(part="rest")])
    told = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(told) == len(rows) == 3
    first = told[0]
    assert first["method"] == 'a "b", c'
    assert float(first["mean"]) == rows[0].mean.mean
    assert float(first["minus random"]) == pytest.approx(0.1)
    assert (first["against random"], first["best control"]) == ("beats", "random")
    assert (told[2]["published"], told[2]["source"], told[2]["minus random"]) == ("46.09", "A | B 2026", "")

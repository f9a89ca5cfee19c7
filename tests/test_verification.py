"""Verification reports: each picture embedded once, figures by hand, nothing about people, and no dead run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import faithmap as fm
from faithmap import charts, draw
from faithmap.datasets import Pair
from faithmap.metrics import accuracy, bootstrap, eer_threshold, equal_error_rate
from faithmap.verification import VerificationReport, verification_report
from tests import nets


def lfw(data: Path) -> list[Pair]:
    """The 212 hard pairs; who is on a crop is in its name up to the number."""
    folder = data / "lfw"
    rows = csv.DictReader((folder / "pairs.csv").read_text().splitlines())
    return [
        Pair(
            str(number),
            folder / "crops" / row["probe"],
            folder / "crops" / row["gallery"],
            row["genuine"].lower() in ("1", "true"),
            (row["probe"].rpartition("_")[0], row["gallery"].rpartition("_")[0]),
        )
        for number, row in enumerate(rows)
    ]


def pictures(n: int) -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8) for i in range(n)]


def some_pairs(photos: list[NDArray[np.uint8]], groups: bool = False) -> list[Pair]:
    n = len(photos)
    return [
        Pair(
            f"{i}", photos[i], photos[(i + step) % n], step == 1, (f"{i // 2}", f"{i}"), "even" if i % 2 == 0 else "odd"
        )
        if groups
        else Pair(f"{i}", photos[i], photos[(i + step) % n], step == 1, (f"{i // 2}", f"{i}"))
        for step in (1, 2)
        for i in range(n)
    ]


def test_each_picture_is_embedded_once_and_similarities_are_those_of_the_pairs() -> None:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32)
    pairs = some_pairs(pictures(7))
    calls: list[tuple[int, int]] = []
    report = verification_report(face, pairs, batch_size=3, progress=lambda *at: calls.append(at))
    expected = [face.similarity(pair.probe, pair.gallery) for pair in pairs]
    torch.testing.assert_close(report.scores.float(), torch.tensor(expected), rtol=0, atol=1e-5)
    assert calls == [(3, 7), (6, 7), (7, 7)]
    assert len(report) == 14


def test_files_given_as_texts_or_paths_are_the_same_file(tmp_path: Path) -> None:
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    for path, photo in zip((a, b), pictures(2), strict=True):
        Image.fromarray(photo).save(path)
    totals = []
    pairs = [Pair("1", a, str(a), True), Pair("2", str(b), a, False)]
    report = verification_report(
        fm.FaceEmbedder(nets.Faces().eval(), size=32), pairs, progress=lambda _, total: totals.append(total)
    )
    assert totals == [2]
    assert report.same == 1
    assert "1 genuine pair of a picture with itself" in str(report)


def report_of(scores: list[float], kinds: list[bool], threshold: float = 0.5, own: bool = True) -> VerificationReport:
    n = len(scores)
    people = [(f"p{i}", f"p{i}" if kind else f"q{i}") for i, kind in enumerate(kinds)]
    return VerificationReport(
        "net", threshold, own, torch.tensor(scores, dtype=torch.float64), torch.tensor(kinds), people, [""] * n
    )


def test_figures_are_those_of_the_functions() -> None:
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32, threshold=0.2)
    report = verification_report(face, some_pairs(pictures(12)))
    s, genuine, subjects = report.scores, report.genuine, list(report.subjects)
    assert report.eer == equal_error_rate(s, genuine)
    assert report.accuracy.mean == pytest.approx(accuracy(s, genuine, 0.2))
    assert report.fmr == bootstrap((s[12:] >= 0.2).double(), subjects=subjects[12:])
    assert report.fnmr == bootstrap((s[:12] < 0.2).double(), subjects=subjects[:12])
    assert report.similarity(genuine=True) == bootstrap(s[:12], subjects=subjects[:12])
    middle = sorted(s[12:].tolist())
    assert report.quantiles(genuine=False)[1] == pytest.approx((middle[5] + middle[6]) / 2)


def test_a_report_says_where_its_threshold_comes_from() -> None:
    pairs = some_pairs(pictures(8))
    own = verification_report(fm.FaceEmbedder(nets.Faces().eval(), size=32, threshold=0.31), pairs)
    assert (own.threshold, own.own) == (0.31, True)
    assert "Threshold 0.310, the model's own." in str(own)
    assert "optimistic" not in str(own)
    chosen = verification_report(fm.FaceEmbedder(nets.Faces().eval(), size=32), pairs)
    assert chosen.threshold == eer_threshold(chosen.scores, chosen.genuine)
    assert not chosen.own
    assert "the EER's of these 16 pairs" in str(chosen)
    assert "optimistic" in str(chosen)


def test_what_was_never_seen_is_bounded_not_certain() -> None:
    """No error in 20 pairs bounds the rate at 1 - 0.05^(1/20) = 13.91 %, and is no proof of 0."""
    text = str(report_of([0.9] * 20 + [0.1] * 20, [True] * 20 + [False] * 20))
    assert "below 13.91 % *" in text
    assert "above 92.78 % *" in text
    assert "(*) none or all" in text
    assert "(*)" not in str(report_of([0.9, 0.1, 0.9, 0.1], [True, True, False, False]))


def test_true_accepts_are_told_where_there_are_impostors_enough() -> None:
    few = str(report_of([0.9, 0.1], [True, False]))
    assert "needs 30000 impostor pairs, there are 1" in few
    assert "needs 300000 impostor pairs, there are 1" in few
    n = 30_000
    scores = torch.linspace(-1, 0.6, n).tolist() + [0.7] * 3 + [0.0]
    many = report_of(scores, [False] * n + [True] * 4)
    assert [told.tar for told in many.true_accepts] == [0.75, None]


def test_groups_are_told_apart_at_the_same_threshold() -> None:
    report = verification_report(fm.FaceEmbedder(nets.Faces().eval(), size=32), some_pairs(pictures(8), groups=True))
    assert list(report.by_group) == ["even", "odd"]
    rows = [i for i in range(16) if i % 8 % 2 == 0]
    even = report.by_group["even"]
    torch.testing.assert_close(even.scores, report.scores[rows])
    assert even.threshold == report.threshold
    assert even.accuracy.mean == pytest.approx(accuracy(report.scores[rows], report.genuine[rows], report.threshold))
    assert "| even " in str(report)
    assert not verification_report(fm.FaceEmbedder(nets.Faces().eval(), size=32), some_pairs(pictures(8))).by_group


def test_a_group_of_one_kind_has_the_rates_of_that_kind() -> None:
    one = report_of([0.9, 0.8, 0.1, 0.6], [True, True, False, False])
    mixed = VerificationReport("net", 0.5, True, one.scores, one.genuine, one.subjects, ["a", "a", "a", "b"])
    row = next(line for line in str(mixed).splitlines() if line.startswith("| b"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "b",
        "0",
        "1",
        "0.0 %",
        "100.0 %",
        "above 5.0 % *",
        "",
        "",
        "",
    ]


def test_pictures_that_cannot_be_read_leave_the_rest_alive_and_name_nobody(tmp_path: Path) -> None:
    photos = pictures(6)
    broken = tmp_path / "Jane_Doe_0001.png"
    broken.write_bytes(b"no picture")
    (tmp_path / "Jane_Doe_0003.png").write_bytes(b"")
    pairs = some_pairs(photos)
    bad = [Pair("x", broken, photos[0], True), Pair("y", photos[1], tmp_path / "Jane_Doe_0002.png", False)]
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32)
    report, clean = verification_report(face, [bad[0], *pairs, bad[1]], batch_size=4), verification_report(face, pairs)
    torch.testing.assert_close(report.scores, clean.scores, rtol=0, atol=1e-6)
    assert [(one.number, one.side, type(one.error)) for one in report.unread] == [
        (1, "probe", ValueError),
        (14, "gallery", FileNotFoundError),
    ]
    assert "no. 1 (probe: ValueError), no. 14 (gallery: FileNotFoundError)." in str(report)
    assert "2 more pairs could not be read." in str(report)
    assert "Jane" not in str(report) + repr(report) + repr(report.unread)


def test_an_embedding_that_is_not_finite_is_told_not_averaged() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            f = x.mean(dim=(2, 3))
            return torch.where(
                (x.amax(dim=(1, 2, 3)) > 0.99)[:, None] & (x.amin(dim=(1, 2, 3)) > 0)[:, None], torch.nan, f
            )

    photos = [*pictures(4), np.full((32, 32, 3), 255, dtype=np.uint8)]
    pairs = [*some_pairs(photos[:4]), Pair("white", photos[0], photos[4], True)]
    report = verification_report(fm.FaceEmbedder(Broken(), size=32), pairs)
    assert len(report) == 8
    assert "NaN" in str(report.unread[0].error)


def test_a_report_needs_both_kinds_and_a_face_recogniser(tmp_path: Path) -> None:
    photos = pictures(3)
    face = fm.FaceEmbedder(nets.Faces().eval(), size=32)
    for pairs, says in (
        ([], "got 0 and 0"),
        ([Pair("1", photos[0], photos[1], True)], "got 1 and 0"),
        ([Pair("1", photos[0], photos[1], True), Pair("2", tmp_path / "none.png", photos[2], False)], "no. 2 "),
    ):
        with pytest.raises(ValueError, match=says):
            verification_report(face, pairs)
    with pytest.raises(ValueError, match="FaceEmbedder is due: got Classifier"):
        verification_report(fm.Classifier(nets.gap_linear(), size=32), some_pairs(photos))  # type: ignore[arg-type]


def test_unknown_people_are_said_to_be_unknown() -> None:
    one = report_of([0.9, 0.8, 0.1, 0.6], [True, True, False, False])
    unknown = VerificationReport("net", 0.5, True, one.scores, one.genuine, [("", "")] * 4, [""] * 4)
    assert "Of 4 pairs it is not known who is on them" in str(unknown)
    assert "of 6 people" in str(one)
    assert unknown.fmr.low < unknown.fmr.high


def test_the_chart_has_genuine_in_blue_and_impostors_in_red_on_their_sides_of_the_threshold() -> None:
    report = report_of([0.7, 0.75, 0.8, 0.9] * 5 + [-0.1, 0.0, 0.1, 0.2] * 5, [True] * 20 + [False] * 20, 0.45)
    page = np.asarray(report.figure()).astype(int)
    assert page.shape[2] == 3
    plot = page[int(0.3 * len(page)) :]  # below the legend
    blue, red = (np.argwhere(abs(plot - tint).max(2) < 12) for tint in (draw.SIMILAR, draw.DISSIMILAR))
    assert min(len(blue), len(red)) > 50
    upper = plot.shape[0] * 2 // 3  # above the axis, along which both outlines run
    assert red[red[:, 0] < upper][:, 1].max() < blue[blue[:, 0] < upper][:, 1].min()


def test_a_chart_of_one_kind_is_refused_and_equal_scores_are_drawn() -> None:
    with pytest.raises(ValueError, match="at least one genuine and one impostor"):
        charts.similarity_chart(np.array([0.1]), np.array([]), 0.2)
    assert charts.similarity_chart(np.array([0.1]), np.array([0.1]), 0.1).width > 500


@pytest.mark.real
def test_hard_lfw_pairs_are_told_apart_as_well_as_stated(data: Path) -> None:
    """An EER of 5 to 8 %, an AUC of .97 or more, and figures with intervals that name nobody."""
    face = fm.load(f"mobilefacenet@{data}/weights/mobilefacenet_112.pth")
    assert isinstance(face, fm.FaceEmbedder)
    pairs = lfw(data)
    report = verification_report(face, pairs)
    assert (len(report), int(report.genuine.sum()), len(report.unread)) == (212, 106, 0)
    assert 0.05 <= report.eer <= 0.08
    above = (report.scores[report.genuine][:, None] > report.scores[~report.genuine]).double().mean()
    assert float(above) >= 0.97
    assert report.accuracy.low < report.accuracy.mean < report.accuracy.high
    text = str(report)
    assert not any(person in text for pair in pairs for person in pair.subjects)
    first = pairs[0]
    expected = F.cosine_similarity(face.embed(first.probe), face.embed(first.gallery))
    assert float(report.scores[0]) == pytest.approx(float(expected), abs=1e-5)


def test_a_world_of_pairs_is_judged_like_any_other() -> None:
    """Its pictures are drawn anew each time they are looked at; scenes are no pairs."""
    face = fm.load("faces")
    report = fm.verification_report(face, fm.datasets.load("worlds.faces", kinds="random", size=12))
    assert len(report) == 12
    with pytest.raises(ValueError, match="pairs of faces are due"):
        fm.verification_report(face, fm.datasets.load("worlds.objects", size=2))

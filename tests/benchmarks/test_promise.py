"""What the table of promises says of known images, and that the program fills it."""

import json
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.promise import Case, compare, estimated, main, measure, summary, table

CASE = Case(
    sigma=0.1,
    asked_db=50,
    agreement_db=52,
    expected_db=51,
    estimated_db=None,
    exact_seconds=2,
    hybrid_seconds=0.5,
    covered=1,
    worst_covered=1,
    map_db=52,
)


def compared(off, error):
    """Compare images that differ by `off`, with this error."""
    exact = np.full(np.shape(off), 0.25)
    return compare(exact, exact + off, np.broadcast_to(np.float32(error), exact.shape))


def test_agreement_is_over_all_pixels_and_channels():
    off = np.zeros((10, 10, 3))
    off[0, 0, 0] = 0.3  # a mean square of 0.0003
    assert compared(off, 1)["agreement_db"] == pytest.approx(-10 * np.log10(0.0003))
    assert compared(np.zeros((4, 4, 1)), 1)["agreement_db"] == 100


def test_values_below_their_error_are_covered_whatever_their_sign():
    off = np.full((10, 10, 1), 0.01)
    off[::2] *= -1
    off[:3] *= 10
    assert compared(off, 0.02)["covered"] == pytest.approx(0.7)


def test_the_worst_pixels_are_those_of_the_worst_channels():
    """Of 20 worst pixels five are beyond the error, in one channel each."""
    off = np.full((10, 10, 3), 0.001)
    off[:2, :, 1] = 0.04
    off[0, :5, 1] = -0.06
    found = compared(off, 0.05)
    assert found["worst_covered"] == pytest.approx(15 / 20)
    assert found["covered"] == pytest.approx(1 - 5 / 300)


def test_a_small_image_has_fewer_worst_pixels():
    off = np.full((2, 2, 1), 0.1)
    off[0, 0] = 0.3
    assert compared(off, 0.2)["worst_covered"] == pytest.approx(3 / 4)


def test_a_map_has_its_mean_square():
    assert compared(np.zeros((4, 4, 1)), 0.01)["map_db"] == pytest.approx(40)


@pytest.mark.parametrize(
    ("map_db", "agreement_db", "agrees"),
    [
        *((52, 50, True), (53, 50, True), (47, 50, True), (46.9, 50, False), (53.1, 50, False)),
        *((91, 99, True), (99, 91, True), (90, 99, False), (88, 91, True)),
    ],
)
def test_a_map_agrees_within_3_db_or_beyond_90(map_db, agreement_db, agrees):
    assert replace(CASE, map_db=map_db, agreement_db=agreement_db).map_agrees == agrees


@pytest.mark.parametrize(("agreement_db", "kept"), [(60, True), (49.5, True), (49.4, False)])
def test_half_a_decibel_below_is_kept(agreement_db, kept):
    assert replace(CASE, agreement_db=agreement_db).kept == kept


def test_a_line_summarizes_its_cases():
    cases = [replace(CASE, agreement_db=level, map_db=52) for level in (48, 50, 56, 60)]
    cases[0] = replace(cases[0], covered=0.5, worst_covered=0, hybrid_seconds=1.5)
    row = summary(cases)
    assert (row.sigma, row.asked_db, row.cases) == ("all", "all", 4)
    assert (row.kept, row.worst_db, row.median_db) == (75, -2, 53)
    assert (row.covered, row.worst_covered, row.map_agrees) == (87.5, 75, 25)
    assert row.seconds == pytest.approx(0.75)
    assert row.exact_ratio == pytest.approx(2 / 0.75)
    assert row.estimated_db is row.estimate_off_db is row.off_10_db is row.off_90_db is None


def test_an_estimate_is_compared_with_the_agreement():
    """Of eleven cases it is 0 to 10 dB too high."""
    row = summary([replace(CASE, estimated_db=52.0 + above) for above in range(11)])
    assert row.estimated_db == 57
    assert (row.off_10_db, row.estimate_off_db, row.off_90_db) == pytest.approx((1, 5, 9))


@pytest.mark.parametrize(("estimate", "used"), [(55.5, 55.5), (120.0, 100), (None, None)])
def test_an_estimate_is_at_most_100_db(estimate, used):
    assert estimated(SimpleNamespace(diagnostics=SimpleNamespace(estimated_accuracy_db=estimate))) == used


def test_there_is_a_line_for_each_noise_and_request_and_for_all():
    cases = [replace(CASE, sigma=s, asked_db=a) for s in (0.5, 0.1) for a in (40, 50) for _ in range(3)]
    lines = [(row.sigma, row.asked_db, row.cases) for row in table(cases)]
    assert lines == [
        *(("0.1", "40", 3), ("0.1", "50", 3), ("0.5", "40", 3), ("0.5", "50", 3)),
        *(("all", "40", 6), ("all", "50", 6), ("all", "all", 12)),
    ]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks.promise", *map(str, arguments)])
    main()


def test_the_program_prints_and_stores_its_lines(tiny_index, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "test.npy", np.random.default_rng(7).random((3, 8, 8), np.float32))
    options = ["--sigmas", 0.1, 0.5, "--accuracies", 40, 60, "--images", 2, "--out", tmp_path]
    run(monkeypatch, "--index", tiny_index, "--test", tmp_path / "test.npy", *options)
    stored = json.loads((tmp_path / "promise.json").read_text())
    assert stored["index"]["keys"] == 72
    assert [case["sigma"] for case in stored["cases"]] == [0.1] * 4 + [0.5] * 4
    assert [row["cases"] for row in stored["rows"]] == [2, 2, 2, 2, 4, 4, 8]
    assert [asdict(row) for row in table([Case(**case) for case in stored["cases"]])] == stored["rows"]
    assert {row["kept"] for row in stored["rows"]} == {100}
    printed = capsys.readouterr().out
    assert "72 keys, p = 3, not calibrated, 2 images" in printed
    assert len([line for line in printed.splitlines() if line.startswith("│") and "100" in line]) == 7


def test_a_case_compares_hybrid_with_exact(embedded):
    clean = np.random.default_rng(7).random((8, 8, 1))
    (case,) = measure(embedded, clean, 3, 0.5, [40])
    y = clean + 0.5 * np.random.default_rng([500000, 3]).standard_normal(clean.shape)
    exact = embedded.reconstruct(y, sigma=0.5, mode="exact").image
    hybrid = embedded.reconstruct(y, sigma=0.5, mode="hybrid", accuracy_db=40, maps=["error"])
    assert case.agreement_db == pytest.approx(
        -10 * np.log10(np.square(hybrid.image - exact).mean()), abs=0.01
    )
    assert case.map_db == pytest.approx(-10 * np.log10(np.square(hybrid.error).mean()), abs=0.01)
    assert case.covered == (np.abs(hybrid.image - exact) <= hybrid.error).mean()
    assert (case.sigma, case.asked_db, case.expected_db) == (0.5, 40, None)


def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    np.save(tmp_path / "test.npy", np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(SystemExit, match="missing"):
        run(monkeypatch, "--index", tmp_path / "missing", "--test", tmp_path / "test.npy")

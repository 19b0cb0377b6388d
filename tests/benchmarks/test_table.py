"""From training to the page, through a server; and what rows and findings say of known numbers."""

import signal
import sys
import time
from dataclasses import replace
from subprocess import PIPE

import numpy as np
import pytest
import torch

from benchmarks.measures import decibels
from benchmarks.paper import formula
from benchmarks.paper.__main__ import main
from benchmarks.paper.findings import findings
from benchmarks.paper.formula import Answers
from benchmarks.paper.table import Rows, compare, summary, text
from benchmarks.paper.tasks import Measurements, Problem, Task, inputs, load
from benchmarks.paper.training import Schedule, Trained, device_name, read
from benchmarks.quality.data import Data
from lemmse.client import connect
from lemmse.index import open_index
from tests.support.processes import start_process

pytestmark = pytest.mark.slow

PROBLEM = "inpaint:center:3,mask"


class Same(torch.nn.Module):
    """A network that answers what it sees."""

    def forward(self, z, sigma):
        return z


TRAINED = Trained(Same(), parameters=7, steps=3, seconds=1.5, device="here", losses=[])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    images = np.random.default_rng(5).integers(0, 256, (6, 8, 8, 1), np.uint8)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, train=images[:4], test=images[4:])
    return path


@pytest.fixture(scope="module")
def out(photos, tmp_path_factory):
    """A whole study of 8×8 images."""
    folder = tmp_path_factory.mktemp("paper")
    run(photos, folder, "all")
    return folder


def run(photos, out, command, *more):
    options = ["--networks", "PatchMLP", "--steps", "5", "--sigmas", "0.05", "0.5", "--images", "2"]
    arguments = [command, "--out", str(out), "--data", str(photos), *options, "--problems", PROBLEM, *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["benchmarks.paper", *arguments])
        main()


def test_a_row_for_every_task_network_noise_and_input(out):
    rows = list(Rows(out / "cache"))
    assert len(rows) == 2 * 4
    assert {row.inputs for row in rows} == {"training", "held-out", "inverted", "photographic"}
    assert {row.mode for row in rows} == {"exact"}
    assert {row.steps for row in rows} == {5}


def test_the_formula_gives_training_images_back_at_low_noise(out):
    """At σ = 0.05 no other patch of random images is near; the server said so, not the network."""
    rows = list(Rows(out / "cache"))
    found = {row.sigma: row.formula_psnr for row in rows if row.inputs == "training"}
    assert found[0.05] > found[0.5] + 5


def test_through_a_mask_the_formula_of_all_positions_is_asked_too(photos, out):
    """It is an index of clean patches that is told the mask."""
    rows = {row.sigma: row for row in Rows(out / "cache") if row.inputs == "held-out"}
    schedule = Schedule(steps=5)
    own = Task(load(str(photos), 1000, 2, photos), Problem.parse(PROBLEM), 5)
    measured = Measurements.of(own, "held-out", inputs(own.data, 2)["held-out"], 0.5)
    (checkpoint,) = (out / "cache").glob("PatchMLP-*.pt")
    network = read(own, "PatchMLP", schedule, checkpoint)
    observed = np.ones((8, 8))
    observed[3:6, 3:6] = 0
    with connect(formula.index_of(own.pooled, [0.5], out / "cache")) as client:
        errors = [
            decibels(np.square(client.reconstruct(y, sigma=0.5, mask=observed).image - answer))
            for y, answer in zip(measured.measured, network.answer(measured.seen, 0.5), strict=True)
        ]
    assert rows[0.5].pooled_agreement == pytest.approx(np.mean(errors), abs=1e-3)


def test_the_page_has_findings_tables_and_figures(out):
    page = (out / "report.md").read_text()
    assert f"torch {torch.__version__}" in page
    assert f"| {device_name()} | held-out |" in page
    for title in (
        "Agreement below 25 dB",
        "What a mask tells",
        "Noise σ, patch size p",
        "Memorisation",
        "unlike",
    ):
        assert title in page
    for figure in ("short", "positions", "influence", "memory", "unlike"):
        assert f"({figure}.png)" in page
        assert (out / f"{figure}.png").stat().st_size > 1000
    section = "### tiny, 4 training images, inpaint:center:3 seen through mask, p = 5, 5 steps of training"
    assert f"{section}: held-out images" in page


def test_what_is_there_is_not_computed_again(photos, out):
    kept = sorted((out / "cache").glob("*.npz")) + sorted((out / "cache").glob("*.pt"))
    before = [path.stat().st_mtime_ns for path in kept]
    results = Rows(out / "cache").path.read_text()
    run(photos, out, "all")
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert Rows(out / "cache").path.read_text() == results


def test_an_untrained_network_is_one_line(photos, tmp_path):
    with pytest.raises(
        SystemExit,
        match="PatchMLP was not trained for tiny, 4 images, inpaint:center:3, mask, p = 5: run train",
    ):
        run(photos, tmp_path, "table")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sigmas", "2"], "argument --sigmas: expected a noise above 0 and up to 1, got 2"),
        (["--images", "0"], "argument --images: expected 1 or more, got 0"),
        (["--steps", "-1"], "steps: expected a positive length of the training, got -1 steps"),
        (["--problems", "inpaint:center:9"], "physics: expected"),
    ],
)
def test_what_cannot_be_meant_is_said_before_the_first_training(arguments, said, photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(photos, tmp_path, "all", *arguments)
    assert said in f"{capsys.readouterr().err} {stopped.value}"
    assert not list(tmp_path.rglob("*.pt"))


def test_an_interrupt_is_a_line(photos, tmp_path):
    arguments = ["--out", tmp_path, "--data", photos, "--steps", 100000, "--problems", PROBLEM]
    command = [sys.executable, "-m", "benchmarks.paper", "train", *map(str, arguments)]
    with start_process(command, stderr=PIPE) as process:
        while not (tmp_path / "cache").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.endswith("\nstopped; the same command goes on where it was\n")
    assert "Traceback" not in stderr


def test_the_report_needs_no_data(out, tmp_path):
    page = (out / "report.md").read_text()
    run(tmp_path / "missing.npz", out, "report")
    assert (out / "report.md").read_text() == page


def test_further_noise_is_calibrated_too(tmp_path, monkeypatch):
    training = np.random.default_rng(3).integers(0, 256, (8, 8, 8, 1), np.uint8)
    own = Task(Data("tiny", training, np.zeros(8, np.int64), [], "none"), Problem("identity"), 5)
    monkeypatch.setattr(formula, "EXACT_IMAGES", 7)
    for sigmas, known_then in [([0.1], (0.1,)), ([0.1], (0.1,)), ([0.5], (0.1, 0.5))]:
        index = formula.index_of(own, sigmas, tmp_path)
        assert open_index(index).manifest.calibration.sigmas == known_then
    assert [path.name for path in tmp_path.iterdir()] == [index.name]


@pytest.mark.parametrize("problem", ["identity", "blur:gaussian:1.0,wiener:0.05"])
def test_of_many_images_the_answer_is_hybrid_and_says_how_near_it_is(problem, tmp_path, monkeypatch):
    training = np.random.default_rng(3).integers(0, 256, (8, 8, 8, 1), np.uint8)
    own = Task(Data("tiny", training, np.zeros(8, np.int64), [], "none"), Problem.parse(problem), 5)
    measurements = Measurements.of(own, "training", [training[0] / 255], 0.3)
    monkeypatch.setattr(formula, "EXACT_IMAGES", 7)
    with connect(formula.index_of(own, [0.1, 0.5], tmp_path)) as client:
        answers = formula.ask(client, measurements)
        exact = client.reconstruct(measurements.measured[0], sigma=0.3, mode="exact").image
    assert (answers.mode, answers.expected_db is not None) == ("hybrid", True)
    assert decibels(np.square(answers.images[0] - exact)) > 40
    row = compare(measurements, answers, "PatchMLP", "3 steps", TRAINED)
    assert f"hybrid, within {answers.expected_db:.0f} dB of exact" in text([row])


def answered(level, shape=(2, 4, 4, 1)):
    return list(np.full(shape, level))


def row_of(network, formula, clean, ess, log_density):
    """A row of two 4×4 images."""
    training = np.zeros((3, 4, 4, 1), np.uint8)
    task = Task(Data("tiny", training, np.zeros(3, np.int64), [], "none"), Problem("identity"), 5)
    answers = Answers(formula, list(ess), list(log_density), "exact", None)
    measurements = Measurements(task, "held-out", 0.1, clean, clean, network)
    return compare(measurements, answers, "PatchMLP", "3 steps", TRAINED)


def test_a_row_compares_each_two():
    """Errors of 0.1, 0.01 and 0.11 are 20, 40 and 19.2 dB."""
    one = np.ones((2, 4, 4))
    row = row_of(answered(0.5), answered(0.6), answered(0.61), one, one)
    assert row.agreement == pytest.approx(20)
    assert row.formula_psnr == pytest.approx(40)
    assert row.network_psnr == pytest.approx(-20 * np.log10(0.11))
    assert (row.data, row.training, row.images, row.parameters, row.steps) == ("tiny", 3, 2, 7, 3)
    assert row.device == "here"


def test_the_summary_has_a_line_for_each_task():
    rows = [known(agreement=30.0), known(agreement=31.0, sigma=0.2), known(agreement=27.0, network="U-Net")]
    rows += [known(agreement=20.0, patch_size=7)]
    names, _, header, _, *lines = summary(rows).splitlines()
    assert names == "PatchMLP / U-Net:"
    assert header == "| data | training images | problem | p | training | σ = 0.1 | σ = 0.2 | mean |"
    assert lines[0] == "| tiny | 3 | identity | 5 | 3 steps | 30.0 / 27.0 | 31.0 / – | 29.3 |"
    assert lines[1] == "| tiny | 3 | identity | 7 | 3 steps | 20.0 / – |  | 20.0 |"


def test_a_row_tells_the_agreement_by_density_and_by_sample_size():
    """Densities are 0 to 31; in the first half the error is larger, and the sample smaller."""
    number = np.arange(32.0).reshape(2, 4, 4)
    network = list(np.where(number < 16, 0.1, 0.01)[..., None])
    row = row_of(network, answered(0), answered(0), np.where(number < 16, 1.5, 1e6), number)
    np.testing.assert_allclose([row.by_density[k] for k in (0, 3, 6, 9)], [20, 20, 40, 40])
    first, *between, last = row.by_size
    assert between == [None] * 3
    np.testing.assert_allclose(first, [0.5, 20, 100])
    np.testing.assert_allclose(last, [0.5, 40, 100])


def known(**changes):
    zero = np.zeros((2, 4, 4))
    return replace(row_of(answered(0.5), answered(0.6), answered(0.61), zero + 1, zero), **changes)


def told(rows):
    return {finding.name: finding.sentences for finding in findings(rows)}


def test_findings_are_told_of_what_is_there():
    assert set(told([known()])) == {"short", "density"}


def test_what_falls_short_is_told_with_what_is_nearer_to_the_truth():
    rows = [known(agreement=25.0, network_psnr=40.0)]
    rows += [known(agreement=20.0, network_psnr=30.0, formula_psnr=gain) for gain in (24.0, 28.0, 31.0)]
    rows += [known(agreement=24.0, sigma=0.2, patch_size=7, network_psnr=20.0, formula_psnr=21.0)]
    said = told(rows)["short"]
    assert "less than 25 dB in 3 of 4 rows at p = 5 (σ = 0.1), 1 of 1 rows at p = 7 (σ = 0.2)" in said
    assert "In 2 of them the network is nearer to the truth than the formula, by 4.0 dB in the mean." in said
    assert (
        "In 2 of them the network is farther from the truth than the formula, by 1.0 dB in the mean." in said
    )
    assert "in 0 of 1 rows at p = 5. None falls short." in told(rows[:1])["short"]


def test_both_formulas_of_a_mask_are_told():
    rows = [known(physics="inpaint:center:3", agreement=20.0, pooled_agreement=28.0)]
    rows += [replace(rows[0], sigma=0.2, agreement=22.0), known()]
    assert "to 21.0 and 28.0 dB (inpaint:center:3) in the mean" in told(rows)["positions"]
    assert "positions" not in told([known()])


def test_aware_is_compared_with_agnostic():
    blur = known(physics="blur:gaussian:1.0", network_psnr=20.0, formula_psnr=22.0)
    rows = [blur, replace(blur, pre_inverse="wiener:0.05", network_psnr=21.0, formula_psnr=24.5)]
    said = told(rows)["aware"]
    assert "from +2.5 dB (blur:gaussian:1.0, wiener:0.05, σ = 0.1) to +2.5 dB" in said
    assert "in 1 of 1 comparisons; their gains are 1.5 dB apart" in said


def test_memorisation_is_told_at_the_least_noise():
    held_out = known(formula_psnr=25.0, network_psnr=30.0, sigma=0.1)
    rows = [held_out, replace(held_out, inputs="training", formula_psnr=41.0, network_psnr=32.0)]
    rows += [replace(row, sigma=0.8, formula_psnr=14.0) for row in rows]
    assert "At σ = 0.1 the formula is +16.0 dB better" in told(rows)["memory"]
    assert "the networks +2.0 dB" in told(rows)["memory"]


def test_influence_compares_only_what_was_run_at_every_value():
    rows = [known(agreement=30.0), known(agreement=26.0, patch_size=7)]
    rows += [known(agreement=10.0, physics="inpaint:center:3")]  # at one patch size only
    said = told(rows)["influence"]
    assert "from 30.0 dB at p = 5 to 26.0 dB at p = 7" in said
    assert "(mean of 1)" in said
    assert "not varied: σ, K." in said


def test_influence_takes_the_values_at_which_most_was_run():
    rows = [known(agreement=30.0, training=k, data="one") for k in (10, 20)]
    rows += [known(agreement=20.0 + k, training=k, network=name) for k in (1, 3) for name in "ab"]
    assert "from 21.0 dB at K = 1 to 23.0 dB at K = 3 (mean of 2)" in told(rows)["influence"]


def test_unlike_images_are_compared_with_all_kinds():
    rows = [known(inputs=kind, agreement=level) for kind, level in [("held-out", 30.0), ("inverted", 20.0)]]
    assert "agree in the mean to 30.0 dB on held-out, 20.0 dB on inverted images" in told(rows)["unlike"]


def test_the_length_of_a_training_is_told_of_those_that_were_kept_on_the_way():
    rows = [known(agreement=level, sigma=sigma, steps=100) for level, sigma in [(30.0, 0.1), (32.0, 0.2)]]
    assert "length" not in told(rows)
    rows += [replace(row, steps=50, early=True, agreement=row.agreement - 2) for row in rows]
    rows += [replace(row, steps=25, agreement=row.agreement - 3) for row in rows if row.early]
    said = told(rows)["length"]
    assert "from 26.0 dB after 25 steps to 31.0 dB after 100, at the end" in said
    assert "Of that, 2.0 dB in the mean" in said


def test_of_a_short_training_the_end_is_told_alone():
    """64 steps are more than half of 100."""
    rows = [known(steps=100, agreement=30.0), known(steps=64, early=True, agreement=28.0)]
    said = told(rows)["length"]
    assert "from 28.0 dB after 64 steps to 30.0 dB after 100, at the end of the training." in said
    assert "Of that" not in said


def test_densities_of_patches_seen_in_part_are_not_compared():
    masked = known(physics="inpaint:center:3", pre_inverse="mask")
    assert "density" not in told([masked])
    assert "1 rows are left out" in told([masked, known()])["density"]
    assert "left out" not in told([known()])["density"]


def test_a_gain_by_sample_size_counts_its_pixels():
    """Three pixels of four are 4 dB nearer, one of eight 8 dB: (0.75·4 + 0.125·8) / 0.875."""
    rows = [
        known(sigma=sigma, inputs=kind, by_size=[[share, 20 + gain, 20.0], None, None, None, None])
        for kind in ("held-out", "training")
        for sigma, share, gain in ((0.1, 0.75, 4.0), (0.2, 0.125, 8.0))
    ]
    assert "the networks are +4.6 dB nearer to the truth" in told(rows)["memory"]


def test_a_setting_has_the_row_that_was_compared_last(tmp_path):
    rows = Rows(tmp_path)
    for row in (known(images=2), known(images=8), known(length="9 min"), known(early=True, steps=1)):
        rows.add(row)
    rows.save()
    assert [(row.images, row.length, row.early) for row in Rows(tmp_path)] == [
        (8, "3 steps", False),
        (2, "9 min", False),
        (2, "3 steps", True),
    ]

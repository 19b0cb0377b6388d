"""The measurement of what hybrid gives for its work, and the commands that make it."""

import errno
import json
import os
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from lemmse.calibration import PICTURE_SIGMAS, SIGMAS, THRESHOLDS, calibrate
from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.sum_spec import EXACT
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.commands import apart, invoke

pytestmark = pytest.mark.slow

TABLES = ("accuracy_db", "keys_touched", "cost", "error_scale", "overlap_error_scale", "rms_scale")


def built(folder, images, **options):
    """An index of images, each from a file of its own, so that they may differ in size."""
    sources = []
    for k, image in enumerate(images):
        sources.append(folder / f"{k}.npy")
        np.save(sources[-1], image[None])
    return open_index(build(sources, folder / "index", patch_size=3, **options))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Six images of 16 × 16."""
    return built(tmp_path_factory.mktemp("six"), [smooth(seed, 16, 16, 1) for seed in range(6)])


@pytest.fixture(scope="module")
def curve(index):
    return calibrate(index, seed=3)


def test_measures_every_sigma_at_every_threshold(curve):
    assert (curve.sigmas, curve.thresholds) == (SIGMAS, THRESHOLDS)
    assert list(curve.sigmas) == sorted(curve.sigmas)
    assert list(curve.thresholds) == sorted(curve.thresholds, reverse=True)
    assert curve.images == 3  # no more than half of the images are held out
    for name in TABLES:
        assert np.shape(getattr(curve, name)) == (len(SIGMAS), len(THRESHOLDS)), name


@pytest.mark.parametrize("name", TABLES)
def test_every_number_is_finite(curve, name):
    table = np.array(getattr(curve, name))
    assert np.isfinite(table).all()
    assert (table >= 0).all()


def test_the_last_threshold_reaches_what_is_asked_of_hybrid(curve):
    assert min(row[-1] for row in curve.accuracy_db) >= 60


def test_the_reference_is_as_good_as_exact(index, curve, monkeypatch):
    monkeypatch.setattr("lemmse.calibration.hybrid._REFERENCE", EXACT)
    exact = calibrate(index, seed=3)
    seen, wanted = np.array(curve.accuracy_db), np.array(exact.accuracy_db)
    used = (wanted < 65) & (seen < 65)
    assert used.sum() > 50
    np.testing.assert_allclose(seen[used], wanted[used], atol=0.5)
    for name in ("error_scale", "rms_scale"):
        found, true = (np.array(getattr(one, name))[used] for one in (curve, exact))
        np.testing.assert_allclose(found, true, rtol=0.1, atol=1e-3, err_msg=name)


def test_keys_touched_grow_along_a_row(curve):
    """But for a few: a heavy key that more work finds early spares others."""
    touched = np.array(curve.keys_touched)
    assert (touched[:, 0] > 0).all()
    assert (touched[:, 1:] >= 0.99 * touched[:, :-1]).all()
    begins_at_the_end = np.array(curve.cost)[:, -1] == np.array(curve.cost)[:, 0]
    assert ((touched[:, -1] > touched[:, 0]) | begins_at_the_end).all()
    assert not begins_at_the_end.all()


def test_the_same_seed_gives_the_same_but_for_the_time(index, curve):
    again = calibrate(index, seed=3, sigmas=SIGMAS[:3])  # σ come one after the other
    assert (again.images, again.thresholds) == (curve.images, curve.thresholds)
    for name in ("queries", *TABLES[:2], *TABLES[3:]):
        np.testing.assert_array_equal(getattr(again, name), getattr(curve, name)[:3], err_msg=name)


def test_another_seed_gives_other_patches(index, curve):
    assert calibrate(index, seed=4, sigmas=SIGMAS[:1]).keys_touched != curve.keys_touched[:1]


def test_numbers_are_finite_where_no_two_patches_are_alike(tmp_path):
    index = built(tmp_path, list(np.random.default_rng(0).random((6, 16, 16, 1))))
    curve = calibrate(index, sigmas=[0.001, 0.01])
    for name in TABLES:
        assert np.isfinite(getattr(curve, name)).all(), name


def test_images_held_out_are_not_in_the_sums(tmp_path):
    """Of 9 and 400 keys either are left; hybrid looks at a key twice at most, and at 0.5 at nearly all."""
    index = built(tmp_path, [smooth(0, 3, 3, 1), smooth(1, 20, 20, 1)])
    touched = [calibrate(index, seed=seed, sigmas=[0.5]).keys_touched[0][-1] for seed in range(5)]
    assert min(touched) <= 2 * 9
    assert max(touched) > 2 * 9


def test_says_how_many_patches_it_took(tmp_path):
    index = built(tmp_path, [smooth(seed, 5, 5, 1) for seed in range(5)])
    curve = calibrate(index, sigmas=[0.5])
    assert (curve.images, curve.queries) == (2, (2 * 25,))


def test_progress_reaches_the_end_and_the_index_stays_as_it_was(index):
    before = {path: path.read_bytes() for path in index.folder.rglob("*") if path.is_file()}
    told = []
    calibrate(index, sigmas=[0.3, 0.6], progress=lambda *done: told.append(done))
    assert told == [("calibrate", done, 2) for done in range(3)]
    assert {path: path.read_bytes() for path in index.folder.rglob("*") if path.is_file()} == before


def test_of_one_image_none_can_be_held_out(tmp_path):
    index = built(tmp_path, [smooth(0, 8, 8, 1)])
    with pytest.raises(InvalidArgument, match="of which one can be held out, got too few"):
        calibrate(index)


PROBLEMS = {
    "blur": {"physics": "blur:gaussian:1.0", "pre_inverse": "wiener:0.05"},
    "mask": {"physics": "inpaint:center:3", "pre_inverse": "mask"},
    "epsilon": {"physics": "inpaint:center:2", "pre_inverse": "epsilon:0.1"},
    "valid": {"boundary": "valid"},
    "reflect": {"boundary": "reflect"},
}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_every_problem_can_be_measured(tmp_path, problem):
    index = built(tmp_path, [smooth(seed, 7, 7, 2) for seed in range(3)], **problem)
    curve = calibrate(index, sigmas=[0.3])
    assert min(row[-1] for row in curve.accuracy_db) >= 60
    for name in TABLES:
        assert np.isfinite(getattr(curve, name)).all(), name


def strictly(text):
    """Read JSON as the standard has it, without NaN."""

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "x.npy"
    np.save(path, np.stack([smooth(seed, 6, 6, 1) for seed in range(3)]))
    return path


@pytest.fixture(scope="module")
def calibrated(source):
    """An index as `lemmse build` makes it, and what that said."""
    out = source.parent / "calibrated"
    return out, invoke("build", source, "--out", out, "--patch-size", 3, "--json")


@pytest.fixture
def plain(source, tmp_path):
    """An index that was not calibrated."""
    assert invoke("build", source, "--out", tmp_path / "plain", "--patch-size", 3, "--no-calibrate")[0] == 0
    return tmp_path / "plain"


def as_json(value):
    return json.loads(json.dumps(value))


def test_build_calibrates(calibrated):
    out, (status, stdout, stderr) = calibrated
    assert (status, apart(stderr)[1]) == (0, "")
    curve = open_index(out).manifest.calibration
    assert curve.sigmas == SIGMAS
    assert as_json(asdict(curve)) == strictly(stdout)["calibration"]


def test_inspect_tells_what_hybrid_reaches(calibrated):
    out, _ = calibrated
    curve = open_index(out).manifest.calibration
    status, stdout, stderr = invoke("inspect", out)
    assert (status, stderr) == (0, "")
    least = min(max(row) for row in curve.accuracy_db)
    assert f"hybrid agrees with exact to {least:.0f} dB and more" in " ".join(stdout.split())


def test_build_need_not_calibrate(plain):
    assert open_index(plain).manifest.calibration is None
    status, stdout, _ = invoke("inspect", plain, "--json")
    assert (status, strictly(stdout)["calibration"]) == (0, None)
    assert ["calibration", "none"] in [line.split() for line in invoke("inspect", plain)[1].splitlines()]


def test_build_of_one_image_is_not_calibrated(source, tmp_path):
    status, _, stderr = invoke("build", source, "--out", tmp_path / "one", "--limit", 1)
    assert (status, stderr) == (0, "")
    assert open_index(tmp_path / "one").manifest.calibration is None


HARD = {
    "patterns of one image only": ([(6, 6), (5, 7)], {"physics": "inpaint:random:30", "pre_inverse": "mask"}),
    "keys of one image only": ([(8, 8), (2, 4)], {"boundary": "valid"}),
}


@pytest.mark.parametrize(("sizes", "options"), HARD.values(), ids=HARD)
def test_what_cannot_be_calibrated_is_built_all_the_same(tmp_path, sizes, options):
    (tmp_path / "images").mkdir()
    for k, size in enumerate(sizes):
        np.save(tmp_path / "images" / f"{k}.npy", smooth(k, *size, 1)[None])
    sources = sorted((tmp_path / "images").iterdir())
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    out = tmp_path / "index"
    status, _, stderr = invoke("build", *sources, "--out", out, "--patch-size", 3, *given)
    assert (status, stderr) == (0, "")
    open_index(out)


def test_calibrate_writes_the_curves_and_prints_them(plain, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    before = open_index(plain).manifest
    files = {path.name for path in open_index(plain).folder.iterdir()}
    status, stdout, stderr = invoke("calibrate", plain)
    assert (status, stderr) == (0, "")
    after = open_index(plain)
    curve = after.manifest.calibration
    assert (after.manifest.files, after.manifest.digest) == (before.files, before.digest)
    assert {path.name for path in after.folder.iterdir()} == files
    lines = [line.strip("│ ").split() for line in stdout.splitlines() if line.startswith("│")]
    rows, picture_rows = lines[: len(SIGMAS)], lines[len(SIGMAS) :]
    assert [row[0] for row in rows] == [f"{sigma:g}" for sigma in SIGMAS]
    pictures = after.manifest.pictures
    columns = (pictures.refinements, pictures.best_db, pictures.paper_db, pictures.noisy_db)
    for row, sigma, way, *found in zip(picture_rows, PICTURE_SIGMAS, *columns, strict=True):
        told = [cell for cell in row if cell != "│"]
        numbers = f"{way.bandwidth:g}", f"{way.gaussian_share:g}", *(f"{db:.2f}" for db in found)
        assert told == [f"{sigma:g}", way.aggregate, *numbers]
    for row, sigma in zip(rows, SIGMAS, strict=True):
        told = []
        for asked in (30, 40, 50, 60):
            plan = curve.plan(sigma, asked)
            told.append(f"{plan.cost:.2g}" if plan.accuracy_db >= asked else "-")
        assert [cell.strip() for cell in " ".join(row[1:]).split("│") if cell.strip()] == told


def test_the_table_of_calibrate_is_whole_in_a_narrow_terminal(plain, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, stdout, _ = invoke("calibrate", plain)
    assert status == 0
    assert "…" not in stdout


def test_calibrate_prints_json_and_may_run_again(plain):
    seen = []
    for seed in (0, 5):
        status, stdout, stderr = invoke("calibrate", plain, "--json", "--seed", seed)
        assert (status, apart(stderr)[1]) == (0, "")
        told = strictly(stdout)
        manifest = open_index(plain).manifest
        expected = {"index": "plain", **asdict(manifest.calibration), "pictures": asdict(manifest.pictures)}
        assert told == as_json(expected)
        seen.append(told["accuracy_db"])
    assert seen[0] != seen[1]


@pytest.fixture
def several(source, plain, tmp_path):
    """Two indexes of the same images, and one of others."""
    levels, others = tmp_path / "levels", tmp_path / "others"
    np.save(tmp_path / "others.npy", np.stack([smooth(seed, 6, 6, 1) for seed in range(50, 53)]))
    offset = ["--equivariance", "offset"]
    for given in ([source, "--out", levels, *offset], [tmp_path / "others.npy", "--out", others]):
        assert invoke("build", *given, "--patch-size", 3, "--no-calibrate")[0] == 0
    return plain, levels, others


COMPARISON = "PSNR of the best pictures of each index, in dB"


def test_calibrate_compares_indexes_of_the_same_images(several):
    plain, levels, others = several
    status, stdout, stderr = invoke("calibrate", plain, levels)
    assert (status, stderr) == (0, "")
    assert COMPARISON in " ".join(stdout.split())
    lines = [line.replace("┃", "│").strip("│ ") for line in stdout.splitlines() if line[:1] in ("│", "┃")]
    heads, *rows = [[cell.strip() for cell in line.split("│")] for line in lines[-len(PICTURE_SIGMAS) - 1 :]]
    assert heads == ["sigma", "plain", "levels"]
    one, other = (open_index(folder).manifest.pictures for folder in (plain, levels))
    assert one.noisy_db == other.noisy_db  # the same images were held out, with the same noise
    columns = zip(PICTURE_SIGMAS, one.best_db, other.best_db, strict=True)
    assert rows == [[f"{sigma:g}", f"{a:.2f}", f"{b:.2f}"] for sigma, a, b in columns]
    status, stdout, stderr = invoke("calibrate", levels, others)
    assert (status, stderr) == (0, "")
    said = " ".join(stdout.split())
    assert COMPARISON not in said
    for name in ("levels", "others"):
        assert f"{name}: PSNR on held-out images, in dB" in said


def test_calibrate_prints_a_line_of_json_for_each_index(several):
    plain, levels, _ = several
    status, stdout, stderr = invoke("calibrate", plain, levels, "--json")
    progress, rest = apart(stderr)
    assert (status, rest) == (0, "")
    stages = [("calibrate", len(SIGMAS)), ("measure pictures", len(PICTURE_SIGMAS))]
    ends = [(line["stage"], line["done"]) for line in progress if line["done"] == line["total"]]
    assert ends == [*stages, *stages]
    told = [strictly(line) for line in stdout.splitlines()]
    assert [one["index"] for one in told] == ["plain", "levels"]
    for one, folder in zip(told, (plain, levels), strict=True):
        manifest = open_index(folder).manifest
        content = {**asdict(manifest.calibration), "pictures": asdict(manifest.pictures)}
        assert one == as_json({"index": folder.name, **content})


def test_calibrate_opens_all_indexes_before_it_measures_one(plain, tmp_path):
    require_one_line(invoke("calibrate", plain, tmp_path / "nowhere"), 2, "nothing there")
    assert open_index(plain).manifest.calibration is None


def require_one_line(result, status, words):
    assert result[:2] == (status, "")
    (line,) = result[2].splitlines()
    assert line.startswith("lemmse: error: ")
    assert words in line


def test_calibrate_names_what_is_no_index(tmp_path):
    require_one_line(invoke("calibrate", tmp_path / "nowhere"), 2, "nothing there")
    require_one_line(invoke("calibrate", tmp_path), 2, "a folder without an index")
    require_one_line(invoke("calibrate"), 2, "INDEX")


def test_calibrate_refuses_one_image_and_what_is_damaged(source, tmp_path, plain):
    one = tmp_path / "one"
    assert invoke("build", source, "--out", one, "--limit", 1)[0] == 0
    require_one_line(invoke("calibrate", one), 2, "expected training images of which one can be held out")
    shutil.copytree(plain, tmp_path / "damaged")
    (tmp_path / "damaged" / "1" / "shards" / "0000" / "neighbours.faiss").write_bytes(b"")
    require_one_line(invoke("calibrate", tmp_path / "damaged"), 2, "restore the index")


def test_calibrate_refuses_a_seed_below_zero(plain):
    require_one_line(invoke("calibrate", plain, "--seed", -1), 2, "seed")


def test_calibrate_that_cannot_write_leaves_the_index_as_it_was(plain):
    version = open_index(plain).folder
    before = (version / "manifest.json").read_bytes()
    (version / f".manifest.json.{os.getpid()}.tmp").mkdir()
    require_one_line(invoke("calibrate", plain), 1, "manifest")
    assert (version / "manifest.json").read_bytes() == before
    assert open_index(plain).manifest.calibration is None


def test_an_index_that_cannot_be_written_to_is_refused_at_once(tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    built(tmp_path, [smooth(seed, 9, 8, 1) for seed in range(2)])
    monkeypatch.setattr("lemmse.builder.calibrate.TemporaryFile", refuse)  # root may write anywhere else
    status, stdout, stderr = invoke("calibrate", tmp_path / "index")
    assert (status, stdout) == (2, "")
    assert stderr.startswith("lemmse: error: INDEX: expected an index to write to, got ")
    assert stderr.endswith("/index/1: Read-only file system\n")

"""What follows from a calibration, and where it is kept."""

import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import DataLoss
from lemmse.index import build, open_index
from lemmse.index.storage.calibration_record import Calibration
from lemmse.index.storage.manifest import Manifest

pytestmark = pytest.mark.slow


def calibration(accuracy_db, *, cost, sigmas, thresholds, keys_touched=None, error_scale=None) -> Calibration:
    zeros = tuple(tuple(0.0 for _ in row) for row in accuracy_db)
    return Calibration(
        images=4,
        queries=(512,) * len(sigmas),
        sigmas=tuple(sigmas),
        thresholds=tuple(thresholds),
        accuracy_db=tuple(map(tuple, accuracy_db)),
        keys_touched=keys_touched or zeros,
        cost=tuple(map(tuple, cost)),
        error_scale=error_scale or zeros,
        overlap_error_scale=zeros,
        rms_scale=zeros,
    )


SIMPLE = calibration(
    [(30.0, 50.0, 70.0), (40.0, 60.0, 80.0), (20.0, 30.0, 40.0)],
    sigmas=(0.01, 0.1, 1.0),
    thresholds=(0.0, -4.0, -10.0),
    cost=[(0.01, 0.02, 0.04), (0.02, 0.04, 0.08), (0.1, 0.2, 0.8)],
    keys_touched=((1.0, 2.0, 3.0),) * 3,
    error_scale=((1.0, 2.0, 3.0), (5.0, 6.0, 7.0), (0.5, 0.5, 0.5)),
)


def rising(count, start, step):
    """Rows of `count` numbers that never fall; some stay, as where a row of a calibration ends early."""
    steps = st.lists(st.sampled_from([0.0, 0.0, *step]), min_size=count - 1, max_size=count - 1)
    return st.tuples(st.sampled_from(start), steps).map(lambda row: np.cumsum([row[0], *row[1]]).tolist())


@st.composite
def monotone(draw) -> Calibration:
    sigmas = draw(st.lists(st.floats(1e-3, 10), min_size=1, max_size=5, unique=True))
    columns = draw(st.integers(1, 6))
    falls = draw(st.lists(st.floats(0.1, 3), min_size=columns, max_size=columns))
    rows = range(len(sigmas))
    return calibration(
        [draw(rising(columns, [10.0, 33.3, 47.1], [0.7, 13.37, 21.9])) for _ in rows],
        sigmas=sorted(sigmas),
        thresholds=(1 - np.cumsum(falls)).tolist(),
        cost=[draw(rising(columns, [0.01, 0.2], [0.003, 0.11])) for _ in rows],
    )


ACCURACIES = st.floats(1, 120)
SIGMAS = st.floats(1e-4, 100)


@given(curve=monotone(), sigma=SIGMAS, two=st.tuples(ACCURACIES, ACCURACIES))
@settings(max_examples=200, deadline=None)
def test_more_accuracy_never_takes_less_work(curve, sigma, two):
    low, high = (curve.plan(sigma, accuracy_db) for accuracy_db in sorted(two))
    assert high.threshold <= low.threshold
    assert high.cost >= low.cost
    assert high.accuracy_db >= low.accuracy_db


@given(curve=monotone(), sigma=SIGMAS, accuracy_db=ACCURACIES)
@settings(max_examples=200, deadline=None)
def test_a_plan_is_within_what_was_measured(curve, sigma, accuracy_db):
    plan = curve.plan(sigma, accuracy_db)
    assert curve.thresholds[-1] <= plan.threshold <= curve.thresholds[0]
    assert np.min(curve.cost) <= plan.cost <= np.max(curve.cost)
    assert np.min(curve.accuracy_db) <= plan.accuracy_db <= np.max(curve.accuracy_db)


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), sigma=SIGMAS)
@settings(max_examples=200, deadline=None)
def test_an_accuracy_that_every_row_reaches_is_promised(seed, share, sigma):
    """Not a rounding less: who compares the plan with what was asked would take it for out of reach."""
    accuracy = np.random.default_rng(seed).uniform(5, 20, (2, 6)).cumsum(axis=1)
    curve = calibration(accuracy.tolist(), sigmas=(0.1, 1.0), thresholds=range(0, -6, -1), cost=accuracy)
    asked = share * float(accuracy[:, -1].min())
    assert curve.plan(sigma, asked).accuracy_db >= asked


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", range(3))
def test_at_a_place_that_was_measured_the_plan_is_the_measurement(row, column):
    plan = SIMPLE.plan(SIMPLE.sigmas[row], SIMPLE.accuracy_db[row][column])
    assert plan.accuracy_db == pytest.approx(SIMPLE.accuracy_db[row][column])
    assert plan.threshold == pytest.approx(SIMPLE.thresholds[column])
    assert plan.cost == pytest.approx(SIMPLE.cost[row][column])


@pytest.mark.parametrize(
    ("sigma", "accuracy_db", "row", "column"),
    [(0.01, 40, 0, 1), (0.01, 50.001, 0, 2), (0.1, 60, 1, 1), (0.1, 61, 1, 2), (1.0, 25, 2, 1)],
)
def test_between_two_thresholds_the_lower_is_planned(sigma, accuracy_db, row, column):
    plan = SIMPLE.plan(sigma, accuracy_db)
    assert plan.threshold == SIMPLE.thresholds[column]
    assert plan.accuracy_db == SIMPLE.accuracy_db[row][column]
    assert plan.cost == SIMPLE.cost[row][column]
    assert plan.error_scale == SIMPLE.error_scale[row][column]


@pytest.mark.parametrize("sigma", [0.0102, 0.05, 0.0989])
@pytest.mark.parametrize(
    ("asked", "threshold", "accuracy_db", "cost", "error_scale"),
    [(20, 0.0, 30, 0.02, 5.0), (45, -4.0, 50, 0.04, 6.0), (55, -10.0, 70, 0.08, 7.0)],
)
def test_between_two_sigmas_both_are_reached(sigma, asked, threshold, accuracy_db, cost, error_scale):
    plan = SIMPLE.plan(sigma, asked)
    assert (plan.threshold, plan.accuracy_db, plan.cost) == (threshold, accuracy_db, cost)
    assert plan.error_scale == error_scale


@pytest.mark.parametrize("ratio", [0.991, 0.99999, 1.00001, 1.009])
@pytest.mark.parametrize("sigma", SIMPLE.sigmas)
def test_a_sigma_within_a_percent_of_a_measured_one_is_the_same(sigma, ratio):
    for accuracy_db in (10, 35, 50, 110):
        assert SIMPLE.plan(sigma * ratio, accuracy_db) == SIMPLE.plan(sigma, accuracy_db)


@pytest.mark.parametrize(("beyond", "end"), [(1e-6, 0.01), (0.00999, 0.01), (1.001, 1.0), (1e6, 1.0)])
def test_beyond_the_ends_the_nearest_sigma_counts(beyond, end):
    for accuracy_db in (10, 35, 50, 110):
        assert SIMPLE.plan(beyond, accuracy_db) == SIMPLE.plan(end, accuracy_db)


def test_below_the_least_accuracy_the_least_work_is_planned():
    assert (SIMPLE.plan(0.01, 1).threshold, SIMPLE.plan(0.01, 1).cost) == (0.0, 0.01)


@pytest.mark.parametrize("row", range(3))
def test_an_accuracy_out_of_reach_takes_what_was_best(row):
    plan = SIMPLE.plan(SIMPLE.sigmas[row], 119)
    assert (plan.accuracy_db, plan.threshold) == pytest.approx((max(SIMPLE.accuracy_db[row]), -10))
    assert plan.accuracy_db < 119


def test_the_best_may_be_in_the_middle_and_takes_the_least_work():
    curve = calibration(
        [(40.0, 60.0, 60.0, 59.0)], sigmas=[0.1], thresholds=(0, -1, -2, -3), cost=[(1, 2, 3, 4)]
    )
    plan = curve.plan(0.1, 80)
    assert (plan.threshold, plan.accuracy_db, plan.cost) == (-1, 60, 2)


def test_one_sigma_and_one_threshold_are_enough():
    curve = calibration([(55.0,)], sigmas=[0.1], thresholds=[-3.0], cost=[(0.5,)], error_scale=((2.0,),))
    for sigma in (0.01, 0.1, 1):
        for accuracy_db in (1, 55, 120):
            plan = curve.plan(sigma, accuracy_db)
            assert (plan.threshold, plan.accuracy_db, plan.cost, plan.error_scale) == (-3, 55, 0.5, 2)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    np.save(folder / "x.npy", np.random.default_rng(0).random((2, 5, 5)))
    index = open_index(build([folder / "x.npy"], folder / "index", patch_size=3))
    assert index.manifest.calibration is None
    return index.folder


@given(curve=monotone())
@settings(max_examples=30, deadline=None)
def test_comes_back_from_the_manifest_as_it_was(version, curve):
    assert Calibration.restore(json.loads(json.dumps(asdict(curve)))) == curve
    manifest = replace(Manifest.read(version), calibration=curve)
    manifest.write(version)
    assert Manifest.read(version) == manifest
    assert open_index(version.parent).manifest.calibration == curve


def test_a_manifest_is_replaced_as_a_whole_or_not_at_all(version):
    replace(Manifest.read(version), calibration=SIMPLE).write(version)
    before = sorted(path.name for path in version.iterdir())
    assert not [name for name in before if name.startswith(".")]
    (version / f".manifest.json.{os.getpid()}.tmp").mkdir()  # what is written first cannot be
    with pytest.raises(OSError, match="manifest"):
        replace(Manifest.read(version), calibration=None).write(version)
    assert Manifest.read(version).calibration == SIMPLE
    (version / f".manifest.json.{os.getpid()}.tmp").rmdir()
    replace(Manifest.read(version), calibration=None).write(version)
    assert Manifest.read(version).calibration is None
    assert sorted(path.name for path in version.iterdir()) == before


def altered(content):
    """The content of a manifest with one thing changed in the calibration."""
    tables = ("thresholds", "sigmas")
    for name in tables:
        yield content | {name: [x + 1 for x in content[name]]}
    for name in ("accuracy_db", "keys_touched", "cost", "error_scale", "overlap_error_scale", "rms_scale"):
        rows = [list(row) for row in content[name]]
        rows[1][2] += 1e-9
        yield content | {name: rows}
        yield content | {name: rows[:-1]}
        yield {key: value for key, value in content.items() if key != name}
    yield content | {"images": 5}
    yield None


def test_an_altered_calibration_is_noticed(version):
    replace(Manifest.read(version), calibration=SIMPLE).write(version)
    path = version / "manifest.json"
    written = path.read_text()
    content = json.loads(written)
    for damaged in altered(content["calibration"]):
        path.write_text(json.dumps(content | {"calibration": damaged}))
        with pytest.raises(DataLoss, match=r"index 'index' version 1: manifest.json is damaged; restore"):
            open_index(version.parent)
    path.write_text(written)
    assert open_index(version.parent).manifest.calibration == SIMPLE

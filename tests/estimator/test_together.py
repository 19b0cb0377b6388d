"""Several small images answered by one sum: each as it would be alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from tests.support.cases import smooth

MAPS = ("variance", "ess", "log_density", "error")


def opened(folder, images, **options):
    np.save(folder / "x.npy", images)
    return Reconstructor(open_index(build([folder / "x.npy"], folder / "index", patch_size=3, **options)))


@pytest.fixture(scope="module")
def lemmse(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("together"), np.stack([smooth(seed, 9, 8, 3) for seed in range(6)]))


def measured(seed, height, width, sigma=0.2, channels=3):
    y = smooth(seed, height, width, channels)
    return Measurement.checked(
        y + sigma * np.random.default_rng(seed).standard_normal(y.shape), sigma=sigma, mask=None
    )


def assert_as_alone(lemmse, measurements, options):
    for measurement, result in zip(measurements, lemmse.answer_together(measurements, options), strict=True):
        alone = lemmse.answer(measurement, options)
        assert result.arrays.keys() == alone.arrays.keys()
        for name, expected in alone.arrays.items():
            np.testing.assert_allclose(result.arrays[name], expected, rtol=2e-4, atol=2e-5)
        found, known = (replace(one.diagnostics, seconds=0) for one in (result, alone))
        for name in ("misfit", "expected_psnr_db"):  # of the image, or None
            value, expected = (np.array(getattr(one, name), float) for one in (found, known))
            np.testing.assert_allclose(value, expected, rtol=2e-4, atol=2e-5)
            found = replace(found, **{name: getattr(known, name)})
        assert found == known


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
    sigma=st.sampled_from([0.001, 0.1, 0.5]),
    maps=st.sets(st.sampled_from(MAPS)),
    aggregate=st.sampled_from(["centre", "overlap"]),
    prior=st.sampled_from([{}, {"bandwidth": 0.05}, {"gaussian_share": 0.3}, {"gaussian_share": 1.0}]),
)
@settings(max_examples=40, deadline=None)
def test_each_answer_is_that_of_the_image_alone(lemmse, sizes, sigma, maps, aggregate, prior):
    measurements = [measured(seed, *size, sigma) for seed, size in enumerate(sizes)]
    options = Options(mode="exact", maps=maps, aggregate=aggregate, **prior)
    assert_as_alone(lemmse, measurements, options)


@pytest.mark.parametrize(
    "built",
    [
        {"equivariance": "offset"},
        {"physics": "inpaint:center:2", "pre_inverse": "epsilon:0.1"},
        {"physics": "inpaint:random:20", "pre_inverse": "mask"},
        {"physics": "blur:gaussian:1.0", "pre_inverse": "wiener:0.05"},
    ],
    ids=["offset", "strata", "strata that exclude", "blur"],
)
def test_indexes_of_every_kind(tmp_path, built):
    lemmse = opened(tmp_path, np.stack([smooth(seed, 7, 7, 1) for seed in range(4)]), **built)
    measurements = [measured(seed, 7, 7, channels=1) for seed in range(3)]
    assert_as_alone(lemmse, measurements, Options(mode="exact", maps=MAPS))


def test_integers_are_answered_in_their_own_range(lemmse):
    bytes_ = (255 * smooth(1, 4, 5, 3)).astype(np.uint8)
    of_bytes = Measurement.checked(bytes_, sigma=0.2, mask=None)
    assert_as_alone(lemmse, [measured(0, 4, 4), of_bytes], Options(mode="exact", maps=MAPS))


def test_times_add_up(lemmse):
    sizes = (2, 3), (6, 6), (1, 1)
    results = lemmse.answer_together([measured(0, *size) for size in sizes], Options(mode="exact"))
    seconds = [result.diagnostics.seconds for result in results]
    np.testing.assert_allclose(np.array(seconds) / seconds[2], [6, 36, 1])


def test_one_that_does_not_fit_leaves_the_others_alone(lemmse):
    fits = measured(0, 4, 4)
    grey, infinite = measured(0, 4, 4, channels=1), replace(fits, y=np.full((2, 2, 3), np.inf))
    answers = lemmse.answer_together([grey, fits, infinite], Options(mode="exact"))
    alone = lemmse.answer(fits, Options(mode="exact"))
    np.testing.assert_allclose(answers[1].image, alone.image, atol=2e-5)
    for wrong, error in ((grey, answers[0]), (infinite, answers[2])):
        with pytest.raises(InvalidArgument) as caught:
            lemmse.answer(wrong, Options(mode="exact"))
        assert str(error) == str(caught.value)
    assert all(isinstance(e, InvalidArgument) for e in lemmse.answer_together([grey], Options(mode="exact")))


def test_a_cancelled_sum_stops(lemmse):
    with pytest.raises(Cancelled):
        lemmse.answer_together([measured(0, 4, 4)] * 2, Options(mode="exact"), lambda: True)


def test_what_can_be_answered_together(lemmse):
    y = measured(0, 4, 5)
    exact = Options(mode="exact", maps=["ess"])
    for mode in ("auto", "exact"):
        assert lemmse.joint_options(y, replace(exact, mode=mode)) == exact
    few = Reconstructor(lemmse.index, exact_work=1.0)
    assert few.joint_options(y, Options()) is None
    assert few.joint_options(y, exact) == exact
    masked = replace(y, mask=np.ones((4, 5), bool))
    mapped = replace(y, sigma=np.full((4, 5), 0.2))
    for measurement, options in (
        (masked, exact),
        (mapped, exact),
        (y, Options(mode="hybrid")),
        (y, Options(mode="topk")),
        (y, Options(estimator="mmse")),
        (y, Options(mode="exact", aggregate="epll")),
    ):
        assert lemmse.joint_options(measurement, options) is None

"""Requests that exclude training images: the answers of an index that never had them, in every mode."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.estimator import Reconstructor
from lemmse.estimator.exclusions import MOST_KEPT, Exclusions
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.oracle import agreement, oracle
from tests.support.whole_oracle import emmse_oracle, mmse_oracle

P = 3
MAPS = ("variance", "ess", "log_density")
MODES = (
    {"mode": "exact"},
    {"mode": "topk", "k": 10**6},
    {"mode": "hybrid", "accuracy_db": 120},
)
SIGMAS = (0.02, 0.3)


def images(count: int, size: tuple[int, int], channels: int, equal: int) -> list[np.ndarray]:
    """The first `equal` are the same image."""
    return [smooth(max(0, seed - equal + 1), *size, channels) for seed in range(count)]


def built(folder, training) -> Reconstructor:
    sources = []
    for k, image in enumerate(training):
        sources.append(folder / f"{k}.npy")
        np.save(sources[-1], image[None])
    return Reconstructor(open_index(build(sources, folder / "index", patch_size=P)), device="cpu")


@pytest.fixture(scope="module")
def training() -> list[np.ndarray]:
    return images(6, (8, 7), 1, equal=2)


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory) -> Reconstructor:
    return built(tmp_path_factory.mktemp("whole"), training)


def assert_answers(found, expected) -> None:
    assert agreement(found.image, expected.image) > 80
    assert agreement(found.variance, expected.variance) > 80
    np.testing.assert_allclose(found.ess, expected.ess[..., None][..., 0], rtol=2e-3)
    np.testing.assert_allclose(found.log_density, expected.log_density, atol=2e-2)


def test_counts_without_the_images(whole, training, tmp_path):
    y = np.random.default_rng(0).random((7, 6))
    stated = Measurement.checked(y, sigma=0.1, noise="poisson-gaussian", gain=0.02, mask=None)
    without = built(tmp_path, training[:1] + training[2:])
    found = whole.answer(stated, Options(exclude=["1.npy"]))
    assert agreement(found.image, without.answer(stated, Options()).image) > 80
    pixel = {"pixel": (2, 3), "top": 2}
    one = whole.explain_pixel(stated, ExplainOptions(**pixel, exclude=("1.npy",))).contributors
    other = without.explain_pixel(stated, ExplainOptions(**pixel)).contributors
    assert [c.weight for c in one] == pytest.approx([c.weight for c in other], rel=1e-3)


@pytest.mark.parametrize("options", MODES, ids=lambda options: options["mode"])
@pytest.mark.parametrize("exclude", [("0.npy",), (1, "3.npy[0]"), (0, 1, 2, 3, 4)], ids=str)
def test_is_the_answer_of_the_formula_without_the_images(whole, training, options, exclude):
    out = {int(str(one)[0]) for one in exclude}
    rest = [x for k, x in enumerate(training) if k not in out]
    for sigma in SIGMAS:
        y = training[0] + sigma * np.random.default_rng(3).standard_normal(training[0].shape)
        found = whole.reconstruct(y, sigma=sigma, exclude=exclude, maps=MAPS, **options)
        assert_answers(found, oracle(rest, y, sigma, P))
        assert found.diagnostics.keys == sum(x[..., 0].size for x in rest)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_is_that_of_a_fresh_index(tmp_path_factory, data):
    count = data.draw(st.integers(2, 5))
    size = data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    channels, equal = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(1, 3))
    training = images(count, size, channels, equal)
    out = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
    rest = [x for k, x in enumerate(training) if k not in out]
    whole = built(tmp_path_factory.mktemp("whole"), training)
    y = training[min(out)] + 0.1 * np.random.default_rng(1).standard_normal(training[0].shape)
    expected = oracle(rest, y, 0.1, P)
    for options in MODES[:2]:
        assert_answers(whole.reconstruct(y, sigma=0.1, exclude=out, maps=MAPS, **options), expected)
    # Of leaves of one or two keys, hybrid knows little more than its bounds.
    bound = whole.reconstruct(y, sigma=0.1, exclude=out, mode="hybrid", maps=["error"], error="certified")
    assert (np.abs(bound.image - expected.image) <= bound.error).all()


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
def test_overlap_masks_and_noise_maps_exclude(whole, training, tmp_path, aggregate):
    fresh = built(tmp_path, training[2:])
    y, mask = training[0], np.random.default_rng(0).random(training[0].shape[:2]) < 0.7
    for given_ in ({"sigma": 0.1}, {"sigma": 0.1, "mask": mask}, {"sigma": np.full(y.shape[:2], 0.2)}):
        for mode in ("exact", "hybrid"):
            options = {"aggregate": aggregate, "mode": mode, "maps": MAPS, "accuracy_db": 120, **given_}
            found = whole.reconstruct(y, exclude=["0.npy", "1.npy"], **options)
            expected = fresh.reconstruct(y, **options)
            assert agreement(found.image, expected.image) > 80
            assert agreement(found.variance, expected.variance) > 80


def test_derivatives_exclude(whole, training, tmp_path):
    fresh = built(tmp_path, training[2:])
    y, vector = training[0], np.random.default_rng(2).standard_normal(training[0].shape)
    asked = Measurement.checked(y, sigma=0.2, mask=None), vector
    found = whole.differentiate(*asked, Options(exclude=["0.npy", "1.npy"]))
    expected = fresh.differentiate(*asked, Options())
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)
    assert np.abs(found - whole.differentiate(*asked, Options())).max() > 0.01 * scale


@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
def test_estimators_of_whole_images_exclude(whole, training, estimator):
    y, s = training[0].astype(float), np.full(training[0].shape, 0.4)
    rest = training[1:4] + training[5:]
    by_formula = mmse_oracle if estimator == "mmse" else emmse_oracle
    found = whole.reconstruct(y, sigma=0.4, estimator=estimator, exclude=[0, 4], maps=MAPS)
    expected = by_formula(rest, rest, y, s)
    assert agreement(found.image, expected.image) > 80
    np.testing.assert_allclose(found.ess, expected.ess, rtol=1e-3)
    np.testing.assert_allclose(found.log_density, expected.log_density, atol=1e-3)
    assert found.diagnostics.keys == 4 * y[..., 0].size


def test_whole_images_of_one_size_may_remain(tmp_path):
    training = [smooth(0, 5, 5, 1), smooth(1, 4, 5, 1), smooth(2, 5, 5, 1)]
    mixed = built(tmp_path, training)
    with pytest.raises(InvalidArgument, match="one size"):
        mixed.reconstruct(training[0], sigma=0.3, estimator="mmse", exclude=[0])
    found = mixed.reconstruct(training[0], sigma=0.3, estimator="mmse", exclude=[1])
    rest = [training[0], training[2]]
    expected = mmse_oracle(rest, rest, training[0].astype(float), np.full((5, 5, 1), 0.3))
    assert agreement(found.image, expected.image) > 80


def test_a_patch_that_another_image_has_as_well_stays(whole, training):
    explained = whole.explain(training[0], sigma=0.05, pixel=(4, 3), top=2)
    assert {one.image for one in explained.contributors} == {0, 1}
    one, *_ = whole.explain(training[0], sigma=0.05, pixel=(4, 3), top=2, exclude=[0]).contributors
    assert (one.image, one.source, one.row, one.column) == (1, "1.npy[0]", 4, 3)
    for other in whole.explain(training[0], sigma=0.5, pixel=(4, 3), top=200, exclude=[0, 1]).contributors:
        assert other.image not in (0, 1)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (
            ["7.npy"],
            "exclude: expected the source of a training image of 'index', got '7.npy'; lemmse inspect",
        ),
        ([6], "exclude: expected a number of an image below 6, got 6"),
        (["9" * 50], "exclude: expected a number of an image below 6, got 9999"),
        (range(6), "exclude: expected some images of 'index' to remain, got all 6"),
    ],
)
def test_what_is_not_there_is_refused(whole, training, exclude, message):
    for estimator in ("le-mmse", "mmse"):
        with pytest.raises(InvalidArgument, match=message):
            whole.reconstruct(training[0], sigma=0.1, exclude=exclude, estimator=estimator)
    with pytest.raises(InvalidArgument, match=message):
        whole.explain(training[0], sigma=0.1, pixel=(0, 0), exclude=exclude)


def test_patterns_of_a_mask_that_no_image_is_left_to_have_are_refused(tmp_path):
    for k, size in enumerate([(6, 6), (8, 8)]):
        np.save(tmp_path / f"{k}.npy", smooth(k, *size, 1)[None])
    sources = [tmp_path / "0.npy", tmp_path / "1.npy"]
    index = build(sources, tmp_path / "index", patch_size=3, physics="inpaint:random:30", pre_inverse="mask")
    whole = Reconstructor(open_index(index), device="cpu")
    with pytest.raises(InvalidArgument, match="exclude: expected patches of all patterns"):
        whole.reconstruct(smooth(0, 6, 6, 1), sigma=0.1, exclude=["0.npy"])


def test_few_sets_are_kept_and_the_latest():
    made = []

    def make(images, cancelled):
        made.append(images)
        return images

    exclusions = Exclusions(make)
    for images_ in [(0,), (1,), (0,), (2,), (0,), (1,)]:
        with exclusions.use(images_, lambda: False) as found:
            assert found == images_
    assert made == [(0,), (1,), (2,), (1,)]
    assert (0,) in exclusions
    assert (2,) not in exclusions
    exclusions.clear()
    assert (0,) not in exclusions


def test_sets_that_are_in_use_make_others_wait():
    exclusions = Exclusions(lambda images, cancelled: images)
    polls = iter([False, True])
    in_use = [exclusions.use((k,), lambda: False) for k in range(MOST_KEPT)]
    for one in in_use:
        one.__enter__()
    with pytest.raises(Cancelled), exclusions.use((9,), lambda: next(polls)):
        pass
    in_use[0].__exit__(None, None, None)
    with exclusions.use((9,), lambda: False) as found:
        assert found == (9,)


def test_what_could_not_be_made_is_made_by_the_next():
    outcomes = iter([ValueError("broken"), "made"])

    def make(images, cancelled):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    exclusions = Exclusions(make)
    with pytest.raises(ValueError, match="broken"), exclusions.use((0,), lambda: False):
        pass
    with exclusions.use((0,), lambda: False) as found:
        assert found == "made"


def test_a_request_that_is_cancelled_stops_while_its_images_are_left_out(whole, training):
    with pytest.raises(Cancelled):
        whole.reconstruct(training[0], sigma=0.1, exclude=[3, 5], cancelled=lambda: True)
    assert (3, 5) not in whole._exclusions

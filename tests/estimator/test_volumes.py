"""Patches over the planes of volumes, in every mode: the oracle's answers."""

from dataclasses import dataclass

import numpy as np
import pytest

from lemmse.calibration import calibrate, hold_out, measure_pictures
from lemmse.calibration.held_out import windows
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index, update
from lemmse.index.images.symmetries import SYMMETRIES, apply
from lemmse.index.images.volumes import planes_around
from lemmse.index.sources import intensities
from tests.support.cases import smooth
from tests.support.oracle import agreement
from tests.support.signal_oracle import settled_oracle
from tests.support.volume_oracle import overlap_oracle, volume_oracle

MAPS = ("variance", "ess", "log_density")
SIDES = (3, 3, 3)
SIGMA = 0.15


def volume(seed, depth, height, width, channels=1):
    """Planes that change slowly, in steps of 1/255."""
    first, last = (smooth(seed + k, height, width, channels).astype(float) for k in (0, 100))
    share = np.linspace(0, 1, depth)[:, None, None, None]
    return np.round(255 * ((1 - share) * first + share * last)) / 255


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    boundary: str
    channels: int = 1
    sides: tuple[int, int, int] = SIDES
    shapes: tuple[tuple[int, int, int], ...] = ((4, 6, 5), (4, 6, 5))
    y_shape: tuple[int, int, int] = (3, 4, 5)

    @property
    def training(self):
        return [volume(seed, *shape, self.channels) for seed, shape in enumerate(self.shapes)]

    def build(self, folder, **options):
        sources = []
        for k, x in enumerate(self.training):
            sources.append(folder / f"{k}.npy")
            stored = np.rint(255 * x).astype(np.uint8)
            np.save(sources[-1], stored[None] if self.channels > 1 else stored[..., 0])
        asked = {"patch_depth": self.sides[0], "patch_size": self.sides[1], "boundary": self.boundary}
        return open_index(build(sources, folder / "index", **asked, **options))

    def measurement(self, sigma=SIGMA):
        clean = volume(1, *self.y_shape, self.channels)
        return clean + sigma * np.random.default_rng(7).standard_normal(clean.shape)


CASES = [
    Case("circular", "circular"),
    Case("reflect", "reflect"),
    Case("valid", "valid"),
    Case("colour", "reflect", channels=3),
    Case("more planes than rows", "reflect", sides=(5, 3, 3)),
    Case(
        "more planes than the volume has", "circular", sides=(5, 1, 1), shapes=((2, 3, 4),), y_shape=(1, 3, 3)
    ),
    Case("volumes of unequal size", "reflect", shapes=((1, 4, 5), (5, 3, 4), (2, 6, 3))),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def lemmse(case, tmp_path_factory) -> Reconstructor:
    return Reconstructor(case.build(tmp_path_factory.mktemp("volume")))


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Reconstructor:
    return Reconstructor(CASES[1].build(tmp_path_factory.mktemp("one")))


def as_asked(x):
    """A volume as a request has it: without the axis of channels if there is one channel."""
    return x[..., 0] if x.shape[-1] == 1 else x


def check(result, expected):
    y_shape = result.image.shape
    assert agreement(result.image.reshape(expected.image.shape), expected.image) > 100
    np.testing.assert_allclose(result.variance.reshape(expected.variance.shape), expected.variance, atol=1e-5)
    np.testing.assert_allclose(result.ess, expected.ess, rtol=1e-3)
    np.testing.assert_allclose(result.log_density, expected.log_density, rtol=1e-4, atol=1e-3)
    assert result.variance.shape == y_shape


@pytest.mark.usefixtures("topk_is_searched")
@pytest.mark.parametrize("options", [{"mode": "exact"}, {"mode": "topk", "k": 10**6, "nprobe": 10**6}])
def test_white_noise(case, lemmse, options):
    y = case.measurement()
    result = lemmse.reconstruct(as_asked(y), sigma=SIGMA, maps=MAPS, **options)
    check(result, volume_oracle(case.training, y, np.full(y.shape, SIGMA), case.sides, case.boundary))
    assert result.image.shape == as_asked(y).shape


def test_hybrid_comes_as_near_as_it_is_asked(case, lemmse):
    y = case.measurement()
    expected = volume_oracle(case.training, y, np.full(y.shape, SIGMA), case.sides, case.boundary)
    for accuracy_db, error in [(120, "estimated"), (40, "certified")]:
        options = {"mode": "hybrid", "accuracy_db": accuracy_db, "maps": ["error"], "error": error}
        result = lemmse.reconstruct(as_asked(y), sigma=SIGMA, **options)
        image = result.image.reshape(y.shape)
        assert agreement(image, expected.image) >= min(accuracy_db, 90)
        assert result.diagnostics.mode == "hybrid"
    assert (np.abs(image - expected.image) <= result.error.reshape(y.shape) + 1e-5).all()


def test_a_mask_and_a_noise_map(case, lemmse):
    rng = np.random.default_rng(3)
    y, mask = case.measurement(), rng.random((*case.y_shape, case.channels)) < 0.7
    s = 0.1 + 0.2 * rng.random(y.shape)
    result = lemmse.reconstruct(as_asked(y), sigma=as_asked(s), mask=as_asked(mask), maps=MAPS)
    seen = np.where(mask, s, np.inf)
    check(result, volume_oracle(case.training, y, seen, case.sides, case.boundary))


def test_counts_have_the_noise_of_the_means_of_patches(case, lemmse):
    y, gain, sigma = case.measurement(), 0.02, 0.1
    noise = {"sigma": sigma, "noise": "poisson-gaussian", "mask": None}

    def expected(s):
        return volume_oracle(case.training, y, s, case.sides, case.boundary)

    s = settled_oracle(y, gain, sigma, case.sides, case.boundary, lambda s: expected(s).image)
    result = lemmse.answer(Measurement.checked(as_asked(y), gain=gain, **noise), Options(maps=MAPS))
    check(result, expected(s))


@pytest.mark.parametrize("mode", ["exact", "hybrid"])
def test_overlap_is_over_planes_too(case, lemmse, mode):
    y = case.measurement()
    options = {"aggregate": "overlap", "mode": mode, "accuracy_db": 120}
    result = lemmse.reconstruct(as_asked(y), sigma=SIGMA, **options)
    expected = overlap_oracle(case.training, y, np.full(y.shape, SIGMA), case.sides, case.boundary)
    assert agreement(result.image.reshape(y.shape), expected) > 90


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
def test_the_derivative_is_the_slope_of_the_formula(case, lemmse, aggregate):
    y, sigma, step = case.measurement(), np.full((*case.y_shape, case.channels), SIGMA), 1e-5
    vector, direction = np.random.default_rng(5).standard_normal((2, *y.shape))

    def image(x):
        if aggregate == "overlap":
            return overlap_oracle(case.training, x, sigma, case.sides, case.boundary)
        return volume_oracle(case.training, x, sigma, case.sides, case.boundary).image

    there, back = (image(y + sign * step * direction) for sign in (1, -1))
    expected = np.sum(vector * (there - back)) / (2 * step)
    asked = Measurement.checked(as_asked(y), sigma=SIGMA, mask=None)
    found = lemmse.differentiate(asked, as_asked(vector), Options(aggregate=aggregate))
    assert found.shape == as_asked(y).shape
    np.testing.assert_allclose(np.sum(found * as_asked(direction)), expected, rtol=1e-3, atol=1e-3)
    assert lemmse.derivative_work(asked, Options()) == 4 * lemmse.work(asked, Options(mode="exact"))


def test_explain_names_plane_row_and_column(case, lemmse):
    y, voxel = case.measurement(), (case.y_shape[0] - 1, 1, 2)
    expected = volume_oracle(case.training, y, np.full(y.shape, SIGMA), case.sides, case.boundary)
    weights = dict(zip(expected.ids, expected.weights[voxel], strict=True))
    first = np.cumsum([0, *(shape[0] for shape in case.shapes)])
    named = lemmse.explain(as_asked(y), sigma=SIGMA, pixel=voxel, top=4).contributors
    for c in named:
        k = int(np.searchsorted(first, c.image, side="right")) - 1
        plane = c.image - int(first[k])
        assert c.source.endswith(f".npy plane {plane}") or c.source.endswith(f"[0] plane {plane}")
        assert c.weight == pytest.approx(weights[k, plane, c.row, c.column], rel=1e-2)
        np.testing.assert_allclose(c.value, case.training[k][plane, c.row, c.column], atol=1e-6)
    heaviest = sorted(weights.values(), reverse=True)[: len(named)]
    np.testing.assert_allclose([c.weight for c in named], heaviest, rtol=1e-2, atol=1e-9)


def test_symmetric_copies(tmp_path):
    case = CASES[1]
    lemmse = Reconstructor(case.build(tmp_path, augment="dihedral"))
    copies = [
        np.stack([apply(plane, s) for plane in x]) for x in case.training for s in range(len(SYMMETRIES))
    ]
    y = case.measurement()
    result = lemmse.reconstruct(as_asked(y), sigma=SIGMA, maps=MAPS)
    check(result, volume_oracle(copies, y, np.full(y.shape, SIGMA), case.sides, case.boundary))


def test_offset_forgets_the_level_of_all_planes(tmp_path):
    lemmse = Reconstructor(CASES[1].build(tmp_path, equivariance="offset"))
    y = as_asked(CASES[1].measurement())
    one, other = (lemmse.reconstruct(x, sigma=SIGMA).image for x in (y, y + 0.5))
    np.testing.assert_allclose(other, one + 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("physics", "pre_inverse"), [("blur:gaussian:0.6", "wiener:0.05"), ("inpaint:random:30", "mask")]
)
def test_operators_act_on_each_plane(tmp_path, physics, pre_inverse):
    case = Case("operator", "circular", y_shape=(4, 6, 5))
    index = case.build(tmp_path, physics=physics, pre_inverse=pre_inverse)
    x = case.training[1]
    y = np.stack([index.problem.measure(plane) for plane in x])
    result = Reconstructor(index).reconstruct(as_asked(y), sigma=1e-3)
    assert np.abs(result.image - as_asked(x)).max() < 1e-3  # each patch is its own training patch


def test_one_plane_is_an_index_of_images(tmp_path):
    x = volume(0, 4, 6, 5)
    np.save(tmp_path / "planes.npy", x[..., 0])
    lemmse = Reconstructor(open_index(build([tmp_path / "planes.npy"], tmp_path / "index", patch_depth=1)))
    assert lemmse.reconstruct(x[0, ..., 0], sigma=0.1).image.shape == (6, 5)
    with pytest.raises(InvalidArgument, match=r"y: expected an image of shape \(H, W\) or \(H, W, 1\), got"):
        lemmse.reconstruct(x, sigma=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"y": np.zeros((4, 5))},
            r"y: expected a volume of shape \(D, H, W\) or \(D, H, W, 1\), got \(4, 5\)",
        ),
        ({"y": np.zeros((2, 4, 5, 3))}, r"y: expected a volume .* got \(2, 4, 5, 3\)"),
        (
            {"mask": np.ones((3, 4))},
            r"mask: expected shape \(3, 4, 5\) or \(3, 4, 5, 1\), that of the volume",
        ),
        ({"sigma": np.ones((4, 5))}, r"sigma: expected shape"),
        ({"estimator": "mmse"}, "estimator: expected le-mmse for an index of volumes"),
        ({"estimator": "e-mmse"}, "estimator: expected le-mmse for an index of volumes"),
    ],
)
def test_refusals(one, changed, message):
    given = {"y": np.zeros((3, 4, 5)), "sigma": 0.1} | changed
    with pytest.raises(InvalidArgument, match=message):
        one.reconstruct(given.pop("y"), **given)


def test_a_pixel_has_a_plane(one):
    with pytest.raises(InvalidArgument, match=r"pixel: expected \(plane, row, column\) in a volume"):
        one.explain(np.zeros((3, 4, 5)), sigma=0.1, pixel=(0, 0))


def test_update_adds_volumes(tmp_path):
    case = Case("all", "reflect", shapes=((3, 4, 5), (2, 4, 5)))
    (tmp_path / "all").mkdir()
    whole = case.build(tmp_path / "all")
    out = build([tmp_path / "all/0.npy"], tmp_path / "part", patch_depth=3, patch_size=3, boundary="reflect")
    grown = open_index(update([tmp_path / "all/1.npy"], out))
    assert grown.manifest.digest == whole.manifest.digest
    assert grown.depths.tolist() == [3, 2]
    y = as_asked(case.measurement())
    answers = [Reconstructor(index).reconstruct(y, sigma=SIGMA).image for index in (grown, whole)]
    np.testing.assert_allclose(*answers, atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "boundary"),
    [
        (((24, 3, 3),), "circular"),
        (((24, 3, 3),), "reflect"),
        (((6, 3, 3),) * 4, "circular"),
        (((70, 2, 2), (9, 2, 2)), "reflect"),
    ],
)
def test_held_out_patches_share_no_plane_with_keys(tmp_path, shapes, boundary):
    index = Case("held out", boundary, shapes=shapes).build(tmp_path)
    view, numbers = hold_out(index, np.random.default_rng(0), 8)
    around = planes_around(index.depths, 3, boundary)
    centres = np.unique(view.ids(0, view.manifest.keys)[:, 0])
    assert len(numbers)
    assert not np.intersect1d(around[numbers], around[centres]).size
    assert len(centres) >= index.manifest.images / 2
    for window, number in zip(windows(index, numbers), numbers, strict=True):
        np.testing.assert_array_equal(window[1], intensities(index.image(number)))


def test_calibration(tmp_path):
    index = Case("calibrated", "reflect", shapes=((5, 9, 9),) * 4).build(tmp_path)
    curve = calibrate(index, sigmas=(0.1,))
    assert max(curve.accuracy_db[0]) > 60
    pictures = measure_pictures(index, curve, sigmas=(0.1,))
    assert pictures.best_db[0] >= pictures.paper_db[0] > 0

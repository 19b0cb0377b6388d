"""The physics against dense matrices on small tori, written from the definitions alone."""

import math
import pickle
import re

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import DataLoss, InvalidArgument, NotFound
from lemmse.index.images.stack import Images
from lemmse.index.physics import PHYSICS, PRE_INVERSES, InverseProblem, whitening
from lemmse.index.physics.blur import Blur
from lemmse.index.physics.inpaint import Centre, Random
from lemmse.index.physics.noise import CONDITION_LIMIT
from tests.support.oracle import patch

SHAPE = (6, 5, 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of kernels and masks."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for name, shape in {"even": (2, 4), "row": (1, 3), "large": (9, 8)}.items():
        kernel = rng.random(shape)
        kernel[shape[0] // 2, shape[1] // 2] += kernel.sum()  # so that its inverse is well conditioned
        np.save(folder / f"{name}.npy", kernel)
    iio.imwrite(folder / "motion.png", np.array([[9, 0, 200], [0, 60, 9]], np.uint8))
    mask = rng.random(SHAPE[:2]) < 0.6
    np.save(folder / "plane.npy", mask)
    iio.imwrite(folder / "plane.png", mask.astype(np.uint8) * 255)
    np.save(folder / "channels.npy", rng.integers(0, 2, SHAPE) * -3)
    np.save(folder / "column.npy", np.eye(6, 5)[..., None])
    np.save(folder / "grid.npy", np.indices(SHAPE[:2]).sum(axis=0) % 2)
    return folder


def in_files(spec, files):
    """A specification with the name of a file made into its path."""
    kind, _, name = spec.partition(":")
    return f"{kind}:{files / name}" if name.endswith((".npy", ".png")) else spec


# Dense matrices: images are flattened in the order row, column, channel.


def dense_blur(kernel, shape):
    """(A x)[n] = Σ_a kernel[a] x[n − a + origin], in each channel."""
    height, width, _ = shape
    position = np.arange(math.prod(shape)).reshape(shape)
    kernel = kernel / kernel.sum()
    origin = kernel.shape[0] // 2, kernel.shape[1] // 2
    matrix = np.zeros((position.size, position.size))
    for n in np.ndindex(shape):
        for a in np.ndindex(kernel.shape):
            row, column = (n[i] - a[i] + origin[i] for i in range(2))
            matrix[position[n], position[row % height, column % width, n[2]]] += kernel[a]
    return matrix


def dense_gaussian(std, shape):
    reach = np.arange(-8, 9)
    return dense_blur(np.exp(-(reach[:, None] ** 2 + reach**2) / (2 * std**2)), shape)


def dense_mask(observed, shape):
    observed = observed if observed.ndim == 3 else observed[..., None]
    return np.diag(np.broadcast_to(observed != 0, shape).ravel().astype(float))


def dense_physics(spec, files):
    kind, _, parameter = spec.partition(":")
    if kind == "identity":
        return np.eye(math.prod(SHAPE))
    if parameter.endswith((".npy", ".png")):
        array = np.asarray(
            iio.imread(files / parameter) if parameter[-3:] == "png" else np.load(files / parameter)
        )
        return dense_blur(array.astype(float), SHAPE) if kind == "blur" else dense_mask(array, SHAPE)
    if parameter == "disk:1.2":
        return dense_blur(np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]), SHAPE)
    if parameter == "gaussian:0.6":
        return dense_gaussian(0.6, SHAPE)
    if parameter == "center:3":
        mask = np.ones(SHAPE[:2])
        mask[2:5, 1:4] = 0
        return dense_mask(mask, SHAPE)
    assert parameter == "random:40:3"
    return dense_mask(Random(40, 3).observed(*SHAPE[:2]), SHAPE)


def dense_pre_inverse(spec, a):
    kind, _, parameter = spec.partition(":")
    eye = np.eye(len(a))
    return {
        "identity": lambda: eye,
        "mask": lambda: a,
        "epsilon": lambda: a + float(parameter) * (eye - a),
        "inverse": lambda: np.linalg.inv(a + 1e-7 * eye),
        "wiener": lambda: np.linalg.solve(a.T @ a + float(parameter) * eye, a.T),
    }[kind]()


BLURS = [
    "blur:gaussian:0.6",
    "blur:disk:1.2",
    "blur:even.npy",
    "blur:row.npy",
    "blur:large.npy",
    "blur:motion.png",
]
MASKS = [
    "inpaint:center:3",
    "inpaint:random:40:3",
    "inpaint:plane.npy",
    "inpaint:plane.png",
    "inpaint:channels.npy",
    "inpaint:column.npy",
    "inpaint:grid.npy",
]
STATIONARY = [
    *[(physics, "identity") for physics in ["identity", *BLURS, *MASKS]],
    *[(physics, b) for physics in BLURS for b in ("inverse", "wiener:0.02")],
]
DIAGONAL = [(physics, b) for physics in MASKS for b in ("mask", "epsilon:0.001")]


class Case:
    """A problem and its dense matrices."""

    def __init__(self, specs, files):
        self.problem = InverseProblem.parse(*(in_files(spec, files) for spec in specs))
        self.a = dense_physics(specs[0], files)
        self.b = dense_pre_inverse(specs[1], self.a)

    def noise(self, p):
        """Q_m Q_mᵀ at every position m."""
        index = np.arange(math.prod(SHAPE)).reshape(SHAPE)
        for m in np.ndindex(SHAPE[:2]):
            q = self.b[patch(index, *m, p)]
            yield m, q @ q.T


@pytest.fixture
def case(request, files):
    return Case(request.param, files)


def cases(problems):
    return pytest.mark.parametrize("case", problems, ids=" ".join, indirect=True)


def close(actual, expected, tolerance=1e-9):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@cases(STATIONARY + DIAGONAL)
def test_a_and_b_are_their_dense_matrices(case):
    impulses = np.eye(math.prod(SHAPE)).reshape(-1, *SHAPE)
    measured = [case.problem.measure(x) for x in impulses]
    close(np.reshape(measured, case.a.shape).T, case.a)
    close(np.reshape([case.problem.pre_invert(y) for y in measured], case.a.shape).T, case.b @ case.a)
    close(np.reshape([case.problem.pre_invert(y) for y in impulses], case.b.shape).T, case.b)


@cases(STATIONARY)
@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_covariance_is_that_of_every_position(case, p):
    covariance = case.problem.covariance(SHAPE, p)
    np.testing.assert_array_equal(covariance, covariance.T)
    for _, expected in case.noise(p):
        close(covariance, expected)


@cases([specs for specs in STATIONARY if specs[1] != "identity"])
@pytest.mark.parametrize("p", [2, 3])
def test_whitened_noise_is_white(case, p):
    white = case.problem.whitening(SHAPE, p)
    for _, covariance in case.noise(p):
        close(white.matrix @ covariance @ white.matrix.T, np.eye(len(covariance)), 1e-7)
        assert white.condition == pytest.approx(np.linalg.cond(covariance), rel=1e-6)


@cases(DIAGONAL)
@pytest.mark.parametrize("p", [2, 3])
def test_scale_gives_rank_and_pseudo_determinant_at_every_position(case, p):
    scale = case.problem.scale(SHAPE)
    close(np.diag(scale.ravel()), case.b)
    for m, covariance in case.noise(p):
        factors = patch(scale, *m, p)
        np.testing.assert_allclose(np.diag(factors**2), covariance, rtol=0, atol=1e-12)
        positive = np.linalg.eigvalsh(covariance)
        positive = positive[positive > 1e-12]
        assert np.count_nonzero(factors) == len(positive)
        log_pdet = 2 * np.log(factors[factors != 0]).sum()
        assert log_pdet == pytest.approx(np.log(positive).sum(), abs=1e-9)


@cases(STATIONARY + DIAGONAL)
def test_what_kind_of_noise_it_is(case):
    diagonal = not case.b[~np.eye(len(case.b), dtype=bool)].any()
    assert case.problem.white == np.array_equal(case.b, np.eye(len(case.b)))
    assert case.problem.stationary == (case.problem.white or not diagonal)


def test_what_a_pre_inverse_has_not_is_refused():
    with pytest.raises(TypeError, match="expected a stationary pre-inverse, got 'mask'"):
        InverseProblem.parse("inpaint:center:1", "mask").covariance(SHAPE, 3)
    with pytest.raises(TypeError, match="expected a diagonal pre-inverse, got 'inverse'"):
        InverseProblem.parse("blur:disk:1", "inverse").scale(SHAPE)


@cases([("identity", "identity"), ("blur:even.npy", "inverse"), ("inpaint:plane.png", "mask")])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32])
def test_any_real_type_is_taken_and_its_values_kept(case, dtype):
    x = np.random.default_rng(1).integers(0, 255, SHAPE).astype(dtype)
    original = x.copy()
    for apply in (case.problem.measure, case.problem.pre_invert):
        result = apply(x)
        np.testing.assert_array_equal(result, apply(x.astype(np.float64)))
        assert result is x or result.dtype == np.float64
    np.testing.assert_array_equal(x, original)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 15])
@pytest.mark.parametrize("height", [15, 16, 32])
@pytest.mark.parametrize("width", [15, 17, 32])
def test_the_square_of_inpainting_is_the_papers(side, height, width):
    rows = {height // 2 - side // 2 + i for i in range(side)}
    columns = {width // 2 - side // 2 + i for i in range(side)}
    expected = [
        [row not in rows or column not in columns for column in range(width)] for row in range(height)
    ]
    np.testing.assert_array_equal(Centre(side).observed(height, width), expected)


def test_a_square_of_15_in_32_misses_9_to_23():
    problem = InverseProblem.parse("inpaint:center:15", "mask")
    missing = np.argwhere(problem.scale((32, 32, 1))[..., 0] == 0)
    assert (missing.min(axis=0).tolist(), missing.max(axis=0).tolist()) == ([9, 9], [23, 23])
    assert len(missing) == 15**2


def test_what_is_masked_may_be_anything():
    problem = InverseProblem.parse("inpaint:center:2", "mask")
    y = np.ones((4, 4, 1))
    y[1, 1], y[2, 2] = np.nan, np.inf
    expected = np.ones((4, 4, 1))
    expected[1:3, 1:3] = 0
    np.testing.assert_array_equal(problem.pre_invert(y), expected)


@given(st.tuples(*[st.integers(1, 9)] * 4), st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_kernels_of_any_shape_on_images_of_any_size(shapes, seed):
    rng = np.random.default_rng(seed)
    kernel, shape = rng.random(shapes[:2]), (*shapes[2:], 1)
    x = rng.random(shape)
    expected = dense_blur(kernel, shape) @ x.ravel()
    close(Blur(kernel / kernel.sum()).apply(x).ravel(), expected)


@given(st.floats(0, 100, exclude_min=True), st.integers(0, 2**70), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_random_masks_have_their_share_and_stay(percent, seed, height, width):
    observed = Random(percent, seed).observed(height, width)
    assert observed.shape == (height, width)
    assert np.count_nonzero(~observed) == round(percent * height * width / 100)
    np.testing.assert_array_equal(observed, Random(percent, seed).observed(height, width))


def test_a_random_mask_is_the_same_for_ever():
    # An index keeps the seed, not the mask: this one must come out of every version of every library.
    expected = [[1, 1, 1, 0], [0, 1, 0, 1], [1, 1, 1, 0]]
    assert Random(30, 7).observed(3, 4).astype(int).tolist() == expected
    other = InverseProblem.parse("inpaint:random:30:8", "mask").scale((16, 16, 1))
    default = InverseProblem.parse("inpaint:random:30", "mask").scale((16, 16, 1))
    assert (other != default).any()
    np.testing.assert_array_equal(
        default, InverseProblem.parse("inpaint:random:30:0", "mask").scale((16, 16, 1))
    )


def test_a_disk_holds_the_pixels_within_its_radius():
    x = np.zeros((9, 9, 1))
    x[4, 4] = 1
    spot = InverseProblem.parse("blur:disk:2.5", "identity").measure(x)[..., 0]
    expected = np.zeros((9, 9))
    expected[2:7, 2:7] = 1 / 21
    expected[[2, 2, 6, 6], [2, 6, 2, 6]] = 0
    np.testing.assert_allclose(spot, expected, atol=1e-9)


def test_a_wide_gaussian_keeps_the_mean_and_nothing_else():
    x = np.random.default_rng(2).random((8, 9, 3))
    blurred = InverseProblem.parse("blur:gaussian:40", "identity").measure(x)
    np.testing.assert_allclose(blurred, np.broadcast_to(x.mean(axis=(0, 1)), x.shape), rtol=1e-12)


@pytest.mark.parametrize(
    ("physics", "pre_inverse", "name"),
    [
        ("blur:even.npy", "inverse", "kernel"),
        ("blur:motion.png", "wiener:0.1", "kernel"),
        ("inpaint:channels.npy", "mask", "mask"),
        ("inpaint:plane.png", "epsilon:0.01", "mask"),
        ("inpaint:random:30:5", "mask", None),
        ("blur:gaussian:1.0", "inverse", None),
    ],
)
def test_a_problem_is_restored_without_its_files(files, tmp_path, physics, pre_inverse, name):
    for path in files.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    parsed = InverseProblem.parse(in_files(physics, tmp_path), pre_inverse)
    for path in tmp_path.iterdir():
        path.unlink()
    assert list(parsed.arrays) == ([name] if name else [])
    stored = {key: array.copy() for key, array in parsed.arrays.items()}
    y = np.random.default_rng(3).random(SHAPE)
    restored = InverseProblem.restore(parsed.physics, parsed.pre_inverse, stored)
    for problem in (restored, pickle.loads(pickle.dumps(parsed))):
        assert (problem.physics, problem.pre_inverse) == (parsed.physics, parsed.pre_inverse)
        np.testing.assert_array_equal(problem.measure(y), parsed.measure(y))
        np.testing.assert_array_equal(problem.pre_invert(y), parsed.pre_invert(y))


def test_a_missing_array_is_data_loss():
    with pytest.raises(DataLoss, match=r"the kernel of physics 'blur:disk\.npy' is missing"):
        InverseProblem.restore("blur:disk.npy", "identity", {})


@pytest.mark.parametrize(
    ("physics", "shape", "message"),
    [
        ("inpaint:center:6", (6, 5, 1), "physics: expected SIDE <= 5 for an image of 6 × 5 pixels, got"),
        (
            "inpaint:plane.npy",
            (5, 6, 1),
            "physics: expected an image of the mask's shape (6, 5), got an image of",
        ),
        (
            "inpaint:channels.npy",
            (6, 5, 3),
            "expected an image of the mask's shape (6, 5, 2), got an image of",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused(files, physics, shape, message):
    problem = InverseProblem.parse(in_files(physics, files), "mask")
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        problem.check(shape)


@pytest.mark.parametrize(
    ("physics", "shape"),
    [
        ("identity", (1, 1, 1)),
        ("blur:large.npy", (2, 3, 4)),
        ("inpaint:center:5", (6, 5, 1)),
        ("inpaint:plane.npy", (6, 5, 4)),
        ("inpaint:column.npy", (6, 5, 3)),
        ("inpaint:channels.npy", (6, 5, 2)),
        ("inpaint:random:1", (2, 2, 1)),
    ],
)
def test_images_that_fit_are_taken(files, physics, shape):
    problem = InverseProblem.parse(in_files(physics, files), "identity")
    problem.check(shape)
    assert problem.measure(np.ones(shape)).shape == shape


ONE_PHYSICS = f"physics: expected one of {', '.join(PHYSICS)}, got "
ONE_PRE_INVERSE = f"pre-inverse: expected one of {', '.join(PRE_INVERSES)}, got "
BAD = [
    ("magic", "identity", ONE_PHYSICS + "'magic'"),
    ("", "identity", ONE_PHYSICS + "''"),
    ("identity:1", "identity", "physics: expected identity without parameters, got 'identity:1'"),
    (
        "blur",
        "identity",
        "physics: expected one of blur:gaussian:STD, blur:disk:RADIUS, blur:FILE, FILE being",
    ),
    ("blur:gaussian", "identity", "physics: expected one of blur:gaussian:STD, blur:disk:RADIUS, blur:FILE"),
    ("blur:gaussian:1:2", "identity", "physics: expected one of blur:gaussian:STD"),
    ("blur:kernel.mat", "identity", "physics: expected one of blur:gaussian:STD"),
    *[
        (
            f"blur:gaussian:{std}",
            "identity",
            "physics: expected STD to be a number > 0 and <= 100, got 'blur:gauss",
        )
        for std in ("0", "-1", "x", "nan", "inf", "101")
    ],
    ("blur:disk:0", "identity", "physics: expected RADIUS to be a number > 0 and <= 100, got 'blur:disk:0'"),
    (
        "inpaint:15",
        "identity",
        "physics: expected one of inpaint:center:SIDE, inpaint:random:PERCENT[:SEED], ",
    ),
    (
        "inpaint:center:0",
        "identity",
        "physics: expected SIDE to be a whole number >= 1, got 'inpaint:center:0'",
    ),
    ("inpaint:center:1.5", "identity", "physics: expected SIDE to be a whole number >= 1"),
    ("inpaint:random:0", "identity", "physics: expected PERCENT to be a number > 0 and <= 100"),
    ("inpaint:random:30:-1", "identity", "physics: expected SEED to be a whole number >= 0"),
    ("inpaint:random:30:1:2", "identity", "physics: expected one of inpaint:center:SIDE"),
    ("identity", "magic", ONE_PRE_INVERSE + "'magic'"),
    ("identity", "identity:1", "pre-inverse: expected identity without parameters, got 'identity:1'"),
    ("inpaint:center:1", "mask:1", "pre-inverse: expected mask without parameters, got 'mask:1'"),
    ("inpaint:center:1", "epsilon", "pre-inverse: expected epsilon:EPS, got 'epsilon'"),
    ("inpaint:center:1", "epsilon:0", "pre-inverse: expected EPS to be a number > 1e-12 and <= 1, got"),
    ("blur:disk:1", "inverse:1", "pre-inverse: expected inverse without parameters, got 'inverse:1'"),
    ("blur:disk:1", "wiener", "pre-inverse: expected wiener:LAMBDA, got 'wiener'"),
    ("blur:disk:1", "wiener:0", "pre-inverse: expected LAMBDA to be a number > 0, got 'wiener:0'"),
    ("identity", "mask", "pre-inverse: expected physics inpaint for 'mask', got 'identity'; use identity"),
    (
        "blur:disk:1",
        "epsilon:0.1",
        "pre-inverse: expected physics inpaint for 'epsilon:0.1', got 'blur:disk:1'",
    ),
    (
        "inpaint:center:1",
        "inverse",
        "pre-inverse: expected physics blur for 'inverse', got 'inpaint:center:1'",
    ),
    ("identity", "wiener:1", "pre-inverse: expected physics blur for 'wiener:1', got 'identity'"),
]


@pytest.mark.parametrize(("physics", "pre_inverse", "message"), BAD, ids=[f"{a} {b}" for a, b, _ in BAD])
def test_what_cannot_be_meant_is_named(physics, pre_inverse, message):
    with pytest.raises(InvalidArgument, match=re.escape(message)) as caught:
        InverseProblem.parse(physics, pre_inverse)
    assert "\n" not in str(caught.value)


def test_every_form_is_parsed(files):
    parameters = {
        "STD": "1",
        "RADIUS": "1",
        "SIDE": "1",
        "PERCENT[:SEED]": "30:1",
        "LAMBDA": "1",
        "EPS": "0.1",
    }
    made = {}
    for form in PHYSICS:
        kind, _, parameter = form.rpartition(":")
        spec = {"FILE": f"{kind}:{files / 'grid.npy'}", "identity": form}.get(parameter)
        if spec is None:
            head, name = re.fullmatch(r"(\w+:\w+:|)([^:]+(?:\[.*)?)", form).groups()
            spec = head + parameters[name]
        made[spec.partition(":")[0]] = InverseProblem.parse(spec, "identity").physics
    for form in PRE_INVERSES:
        kind, _, parameter = form.partition(":")
        spec = f"{kind}:{parameters[parameter]}" if parameter else kind
        physics = {"mask": "inpaint", "epsilon": "inpaint", "inverse": "blur", "wiener": "blur"}
        assert InverseProblem.parse(made[physics.get(kind, "identity")], spec).pre_inverse == spec


@pytest.mark.parametrize(
    ("kind", "array", "message"),
    [
        (
            "blur",
            np.ones((2, 2, 2)),
            "physics: expected a kernel of shape (h, w) with a sum > 0, found shape (2, 2, 2)",
        ),
        ("blur", np.zeros((2, 2)), "physics: expected a kernel of shape (h, w) with a sum > 0, found"),
        ("blur", np.ones(3), "expected an image (H, W) or (H, W, C), got (3,)"),
        ("blur", np.array([[np.nan]]), "physics: expected finite real numbers in"),
        ("blur", np.array([[1j]]), "expected integers or floats, got complex128"),
        ("blur", np.empty((0, 3)), "expected an image, got shape (0, 3)"),
        ("blur", np.array([[{}]], dtype=object), "physics: expected a readable .npy or .png, got"),
        ("inpaint", np.ones(3), "expected an image (H, W) or (H, W, C), got (3,)"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, kind, array, message):
    np.save(tmp_path / "file.npy", array)
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        InverseProblem.parse(f"{kind}:{tmp_path / 'file.npy'}", "identity")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(NotFound, match=r"physics: expected a file, got nothing at .*none\.npy"):
        InverseProblem.parse(f"blur:{tmp_path / 'none.npy'}", "identity")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InvalidArgument, match=r"expected a readable \.npy or \.png, got .*bad.png \("):
        InverseProblem.parse(f"inpaint:{tmp_path / 'bad.png'}", "mask")


def test_a_patch_larger_than_the_image_has_no_whitening():
    problem = InverseProblem.parse("blur:disk:1", "wiener:0.1")
    with pytest.raises(InvalidArgument, match="patch-size: expected at most 5, the image's side, got 6"):
        problem.whitening((7, 5, 1), 6)


def test_the_limit_of_what_is_whitened():
    assert whitening(np.diag([1.0, 2 / CONDITION_LIMIT])).condition == CONDITION_LIMIT / 2
    for least in (0.5 / CONDITION_LIMIT, 0.0, -1.0):
        with pytest.raises(InvalidArgument, match="pre-inverse: expected noise of condition number"):
            whitening(np.diag([1.0, least]))


def test_the_remedy_of_a_bad_condition_is_one():
    physics, shape, p = "blur:gaussian:2", (24, 24, 2), 13
    with pytest.raises(InvalidArgument, match=r"condition number <= 1e\+12 .*, or wiener:") as caught:
        InverseProblem.parse(physics, "inverse").whitening(shape, p)
    remedy = str(caught.value).rpartition(" ")[2]
    good = InverseProblem.parse(physics, remedy)
    white = good.whitening(shape, p)
    error = white.matrix @ good.covariance(shape, p) @ white.matrix.T - np.eye(p * p * 2)
    assert np.abs(error).max() < 1e-3


def test_where_no_wiener_filter_would_do_none_is_named():
    # A patch of the whole image, and frequencies that the blur takes away altogether.
    with pytest.raises(InvalidArgument, match=r"use pre-inverse identity or a smaller patch$"):
        InverseProblem.parse("blur:gaussian:9", "wiener:0.1").whitening((12, 12, 1), 12)


def test_patches_of_the_scale_are_cut_like_those_of_an_image(files):
    # Strata are found in these: the pattern at m must be the mask as the patch at m sees it.
    scale = InverseProblem.parse(in_files("inpaint:channels.npy", files), "mask").scale(SHAPE)
    patterns = Images.stack([scale]).patches(np.arange(30), 3)
    for m, pattern in zip(np.ndindex(SHAPE[:2]), patterns, strict=True):
        np.testing.assert_array_equal(pattern, patch(scale, *m, 3))

"""Symmetric copies of the training images: the answer is that of the set with all copies in it."""

from dataclasses import dataclass

import numpy as np
import pytest

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from lemmse.index.images.symmetries import SYMMETRIES, apply, origin
from lemmse.index.reading.held_out_view import leave_out
from tests.support.cases import constant, smooth
from tests.support.oracle import agreement, oracle
from tests.support.problem_oracle import convolution_matrix, problem_oracle

pytestmark = pytest.mark.slow

MAPS = ("variance", "ess", "log_density")
KERNEL = np.array([[0.1, 0.2, 0.3, 0.2], [0.0, 0.0, 0.1, 0.1]])


def copies(image) -> dict[str, np.ndarray]:
    """All copies of an image, by their names, one pixel after the other."""
    found = {}
    for name in SYMMETRIES:
        copy = np.stack([row[::-1] for row in image]) if name.startswith("flip") else image
        for _ in range(int(name.rpartition("-")[2]) // 90 if "rotate" in name else 0):
            height, width = copy.shape[:2]
            copy = np.array([[copy[j, width - 1 - i] for j in range(height)] for i in range(width)])
        found[name] = copy
    return found


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (4, 4, 3), (5, 2, 3)])
def test_each_copy_is_what_its_name_says(shape):
    image = np.random.default_rng(0).random(shape)
    named = copies(image)
    assert list(named) == list(SYMMETRIES)
    for number, copy in enumerate(named.values()):
        np.testing.assert_array_equal(apply(image, number), copy)
        height, width = copy.shape[:2]
        row, column = (i.reshape(-1) for i in np.indices((height, width)))
        size = np.broadcast_to(shape[:2], (len(row), 2))
        np.testing.assert_array_equal(
            image[origin(np.full(len(row), number), row, column, size)], copy[row, column]
        )
    if shape == (4, 4, 3):
        assert len({copy.tobytes() for copy in named.values()}) == 8


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    shape: tuple[int, int, int] = (5, 5, 1)
    p: int = 3
    physics: str = "identity"
    pre_inverse: str = "identity"
    equal: bool = False

    @property
    def images(self) -> list[np.ndarray]:
        images = [smooth(seed, *self.shape) for seed in range(3)]
        return [*images, images[0][::-1].copy(), constant(0.2, 5, 5)] if self.equal else images

    @property
    def mask(self) -> np.ndarray:
        return np.random.default_rng(5).random(self.shape[:2]) > 0.3

    def build(self, folder, **options):
        np.save(folder / "x.npy", np.stack(self.images))
        np.save(folder / "mask.npy", self.mask.astype(float))
        np.save(folder / "kernel.npy", KERNEL)
        physics = self.physics.replace("FILE", str(folder / ("kernel" if "blur" in self.physics else "mask")))
        if "FILE" in self.physics:
            physics += ".npy"
        options = {"patch_size": self.p, "augment": "dihedral", "pre_inverse": self.pre_inverse} | options
        return open_index(build([folder / "x.npy"], folder / "index", physics=physics, **options))

    def expected(self, y, sigma):
        training = [copy.astype(float) for image in self.images for copy in copies(image).values()]
        if self.physics == "identity":
            return oracle(training, y, sigma, self.p)
        if "blur" in self.physics:
            a = convolution_matrix(KERNEL, self.shape)
        else:
            a = np.diag(np.repeat(self.mask, self.shape[2]).astype(float))
        b = a if self.pre_inverse == "mask" else np.eye(len(a))
        return problem_oracle(training, y, sigma, self.p, a, b)


CASES = [
    Case("grey"),
    Case("colour", (4, 4, 3)),
    Case("not square", (4, 6, 1)),
    Case("even patch", (5, 4, 1), p=2),
    Case("equal copies", equal=True),
    Case("blur", physics="blur:FILE"),
    Case("mask", physics="inpaint:FILE", pre_inverse="mask"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def index(case, tmp_path_factory):
    return case.build(tmp_path_factory.mktemp("symmetries"))


@pytest.fixture(scope="module")
def lemmse(index) -> Reconstructor:
    return Reconstructor(index, device="cpu")


def measurement(case, sigma) -> np.ndarray:
    noise = sigma * np.random.default_rng(3).standard_normal(case.shape)
    y = smooth(77, *case.shape).astype(float) + noise
    return y * case.mask[..., None] if case.pre_inverse == "mask" else y


@pytest.mark.parametrize("mode", ["exact", "topk", "hybrid"])
@pytest.mark.parametrize("sigma", [0.05, 0.4])
def test_is_the_posterior_over_all_copies(case, lemmse, sigma, mode):
    y = measurement(case, sigma)
    maps = MAPS if mode != "hybrid" else ()
    result = lemmse.reconstruct(y, sigma=sigma, mode=mode, k=10**6, accuracy_db=120, maps=maps)
    expected = case.expected(y, sigma)
    assert agreement(result.image, expected.image) >= 80
    for name in maps:
        np.testing.assert_allclose(getattr(result, name), getattr(expected, name), rtol=2e-3, atol=1e-5)


def test_ids_name_the_pixel_of_the_image_and_the_copy(case, index):
    m = index.manifest.keys
    assert m == 8 * len(case.images) * case.shape[0] * case.shape[1]
    ids, symmetries, targets = index.ids(0, m), index.symmetries(0, m), index.targets(0, m)
    assert len(np.unique(np.column_stack([ids, symmetries]), axis=0)) == m
    assert symmetries.dtype == np.uint8
    for (k, row, column), t in zip(ids.tolist(), targets, strict=True):
        np.testing.assert_array_equal(t, case.images[k][row, column])
    assert index.images().pixels.shape[0] == len(case.images) * case.shape[0] * case.shape[1]
    if case.equal:
        assert index.manifest.distinct < m / 1.5


def test_explain_names_the_copy(case, lemmse):
    y = measurement(case, 0.3)
    expected = case.expected(y, 0.3)
    named = lemmse.explain(y, sigma=0.3, pixel=(1, 2), top=20).contributors
    np.testing.assert_allclose(
        [c.weight for c in named], np.sort(expected.weights[1, 2])[::-1][: len(named)], rtol=1e-3
    )
    assert len({(c.image, c.symmetry, c.row, c.column) for c in named}) == len(named) >= 8
    weights = dict(zip(expected.ids, expected.weights[1, 2], strict=True))
    for c in named:
        # A pixel of its own value finds the patch in the copy that the contributor names.
        places = np.arange(case.shape[0] * case.shape[1]).reshape(case.shape[:2])
        (row,), (column,) = np.nonzero(copies(places)[c.symmetry] == places[c.row, c.column])
        copy = 8 * c.image + SYMMETRIES.index(c.symmetry)
        assert c.weight == pytest.approx(weights[copy, int(row), int(column)], rel=1e-3)
        np.testing.assert_array_equal(c.value, case.images[c.image][c.row, c.column])


@pytest.mark.parametrize("equivariance", ["none", "offset"])
def test_rotating_and_flipping_y_does_so_to_the_result(tmp_path, equivariance):
    index = Case("square", (6, 6, 3)).build(tmp_path, equivariance=equivariance)
    lemmse = Reconstructor(index, device="cpu")
    y = smooth(50, 7, 7, 3) + 0.2 * np.random.default_rng(0).standard_normal((7, 7, 3))
    still = lemmse.reconstruct(y, sigma=0.2, mode="exact", maps=MAPS)
    for symmetry in range(8):
        moved = lemmse.reconstruct(apply(y, symmetry), sigma=0.2, mode="exact", maps=MAPS)
        for name in ("image", *MAPS):
            expected = apply(getattr(still, name), symmetry)
            np.testing.assert_allclose(getattr(moved, name), expected, rtol=1e-4, atol=1e-5)


def test_an_image_is_held_out_with_all_its_copies(tmp_path):
    case = Case("equal copies", equal=True)
    (tmp_path / "whole").mkdir()
    view = leave_out(case.build(tmp_path / "whole"), np.array([3]))
    y = measurement(case, 0.2)
    rest = [image for k, image in enumerate(case.images) if k != 3]
    training = [copy.astype(float) for image in rest for copy in copies(image).values()]
    result = Reconstructor(view, device="cpu").reconstruct(y, sigma=0.2, mode="exact", maps=MAPS)
    expected = oracle(training, y, 0.2, case.p)
    assert agreement(result.image, expected.image) >= 80
    np.testing.assert_allclose(result.ess, expected.ess, rtol=1e-3)
    assert view.manifest.keys == len(training) * 25
    named = Reconstructor(view, device="cpu").explain(y, sigma=0.2, pixel=(1, 1), top=50).contributors
    assert {c.image for c in named} <= {0, 1, 2, 4}
    assert len({c.symmetry for c in named}) > 1


def test_without_copies_there_is_the_image_alone(tmp_path):
    index = Case("grey").build(tmp_path, augment="none")
    m = index.manifest.keys
    assert (index.manifest.augment, m) == ("none", 3 * 25)
    assert not index.symmetries(0, m).any()
    named = (
        Reconstructor(index, device="cpu").explain(smooth(9, 5, 5, 1), sigma=0.2, pixel=(1, 1)).contributors
    )
    assert {c.symmetry for c in named} == {"identity"}


def test_what_does_not_fit_the_copies_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match=r"physics: expected .*mask"):
        Case("not square", (4, 6, 1), physics="inpaint:FILE").build(tmp_path)
    with pytest.raises(InvalidArgument, match="augment: expected one of none, dihedral, got 'cyclic'"):
        Case("grey").build(tmp_path, augment="cyclic")

"""The crops of contributors: their patch in its training image, turned and continued as the index says."""

import itertools

import numpy as np
import pytest

from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from lemmse.index.images.symmetries import SYMMETRIES, apply
from tests.support.cases import smooth

IMAGES = [np.rint(255 * smooth(seed, 5, 7, 3)).astype(np.uint8) for seed in range(3)]
PAD = {"circular": "wrap", "reflect": "reflect", "valid": "reflect"}


@pytest.mark.parametrize("boundary", PAD)
@pytest.mark.parametrize("p", [2, 3])
def test_a_crop_shows_the_patch_in_its_image(tmp_path, boundary, p):
    np.save(tmp_path / "x.npy", np.stack(IMAGES))
    options = {"patch_size": p, "boundary": boundary, "augment": "dihedral"}
    lemmse = Reconstructor(open_index(build([tmp_path / "x.npy"], tmp_path / "index", **options)))
    for (symmetry, name), context in itertools.product(enumerate(SYMMETRIES), [0, 1, 9]):
        wide = context + p
        copy = apply(IMAGES[symmetry % 3], symmetry) / 255
        pixel = (copy.shape[0] // 2, copy.shape[1] // 2)
        (first,) = lemmse.explain(copy, sigma=0.01, pixel=pixel, top=1, context=context).contributors
        assert (first.image, first.symmetry) == (symmetry % 3, name)
        padded = np.pad(copy, [(wide, wide), (wide, wide), (0, 0)], mode=PAD[boundary])
        start = [at + wide - p // 2 - context for at in pixel]
        side = p + 2 * context
        expected = padded[start[0] : start[0] + side, start[1] : start[1] + side]
        np.testing.assert_allclose(first.crop, expected, atol=1e-6)
    with pytest.raises(InvalidArgument, match="context: expected crops of at most"):
        lemmse.explain(IMAGES[0], sigma=0.01, pixel=(0, 0), top=1, context=600)


def test_crops_can_be_cancelled(tmp_path):
    np.save(tmp_path / "x.npy", np.stack(IMAGES))
    lemmse = Reconstructor(open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=3)))
    asked = {"sigma": 1.0, "pixel": (0, 0), "top": 5}
    polls = []
    lemmse.explain(IMAGES[0], **asked, cancelled=lambda: polls.append(0))
    count = iter(range(100))
    with pytest.raises(Cancelled):
        lemmse.explain(IMAGES[0], **asked, context=2, cancelled=lambda: next(count) == len(polls) + 3)

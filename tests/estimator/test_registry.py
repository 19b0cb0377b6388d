"""Which of several indexes answers."""

import weakref
from dataclasses import replace

import numpy as np
import pytest

from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.contract.measurement import Measurement
from lemmse.estimator import Reconstructor, Registry
from lemmse.index import build, open_index
from lemmse.index.storage.picture_record import Pictures, Refinement
from tests.support.cases import smooth

SIGMAS = (0.02, 0.2)
BEST_DB = {"fine": (40.0, 20.0), "levels": (41.0, 22.0), "wide": (36.0, 24.0)}
OPTIONS = {"fine": {}, "levels": {"equivariance": "offset"}, "wide": {"patch_size": 5}}
Y = smooth(9, 6, 6, 1)
AMBIGUOUS = "^index: expected one of {}, got no name"
UNLIKE = f"{AMBIGUOUS}; best chooses only among calibrated indexes of the same inverse problem and channels$"


def measured(best_db) -> Pictures:
    ways = (Refinement("overlap", 0.01, 0.5),) * len(SIGMAS)
    rows = {"paper_db": (0.0, 0.0), "noisy_db": (0.0, 0.0)}
    return Pictures(1, SIGMAS, ways, best_db=best_db, **rows)


def with_pictures(index, best_db):
    pictures = None if best_db is None else measured(best_db)
    return replace(index, manifest=replace(index.manifest, pictures=pictures))


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    """Three indexes of the same images, as if calibrated; one of others, and two that are not alike."""
    folder = tmp_path_factory.mktemp("catalogue")
    np.save(folder / "images.npy", np.stack([smooth(k, 6, 6, 1) for k in range(2)]))
    np.save(folder / "others.npy", np.stack([smooth(k, 6, 6, 1) for k in range(2, 4)]))
    more = {name: (folder / "images.npy", options) for name, options in OPTIONS.items()}
    more["others"] = folder / "others.npy", {}
    np.save(folder / "colours.npy", smooth(5, 6, 6, 3)[None])
    more["colours"] = folder / "colours.npy", {}
    power = np.ones((6, 6))
    power[0] = 3
    np.save(folder / "noise.npy", power)
    more["coloured"] = folder / "images.npy", {"noise": folder / "noise.npy"}
    more["blur"] = folder / "images.npy", {"physics": "blur:gaussian:0.6"}
    return {
        name: with_pictures(
            open_index(build([source], folder / name, **{"patch_size": 3} | options)),
            BEST_DB.get(name, (50.0, 50.0)),
        )
        for name, (source, options) in more.items()
    }


def catalogue(*indexes) -> Registry:
    return Registry({index.name: Reconstructor(index, device="cpu") for index in indexes})


def chosen(among, name="", quality="best", sigma=0.02, mask=None):
    return among.choose(name, quality, Measurement.checked(Y, sigma=sigma, mask=mask)).index.name


@pytest.mark.parametrize(
    ("sigma", "expected"),
    [(0.001, "levels"), (0.02, "levels"), (0.05, "levels"), (0.15, "wide"), (0.2, "wide"), (3.0, "wide")],
)
def test_the_best_at_a_noise_is_the_one_of_the_highest_psnr(indexes, sigma, expected):
    """In decibels over the logarithm of σ, levels and wide meet at a share of 5/7 from 0.02 to 0.2."""
    assert (sigma > 0.02 * 10 ** (5 / 7)) == (expected == "wide")
    among = catalogue(*(indexes[name] for name in OPTIONS))
    assert chosen(among, sigma=sigma) == expected


def test_the_order_of_the_indexes_does_not_count(indexes):
    names = list(OPTIONS)
    for some in (names, names[::-1], names[1:] + names[:1]):
        assert chosen(catalogue(*(indexes[name] for name in some))) == "levels"


def test_an_index_that_was_named_is_taken(indexes):
    among = catalogue(*(indexes[name] for name in OPTIONS))
    for name in OPTIONS:
        for quality in ("paper", "best"):
            assert chosen(among, name, quality) == name
    with pytest.raises(NotFound, match="expected one of fine, levels, wide, got 'nope'"):
        chosen(among, "nope")


@pytest.mark.parametrize("other", ["colours", "blur", "coloured"])
def test_indexes_that_are_not_alike_are_not_compared(indexes, other):
    among = catalogue(indexes["fine"], indexes[other])
    with pytest.raises(InvalidArgument, match=UNLIKE.format(", ".join(sorted(("fine", other))))):
        chosen(among)
    assert chosen(among, other) == other


def test_an_index_that_was_not_calibrated_is_not_compared(indexes):
    among = catalogue(indexes["fine"], with_pictures(indexes["wide"], None))
    with pytest.raises(InvalidArgument, match=UNLIKE.format("fine, wide")):
        chosen(among)


def test_the_paper_takes_no_best(indexes):
    with pytest.raises(InvalidArgument, match=AMBIGUOUS.format("fine, wide") + "$"):
        chosen(catalogue(indexes["fine"], indexes["wide"]), quality="paper")


def test_the_only_index_needs_no_comparison(indexes):
    alone = catalogue(with_pictures(indexes["fine"], None))
    assert chosen(alone, quality="paper") == chosen(alone, quality="best") == "fine"


@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_masks_and_noise_maps_do_not_choose_an_index_of_levels(indexes, sigma):
    among = catalogue(indexes["fine"], with_pictures(indexes["levels"], (90.0, 90.0)), indexes["wide"])
    assert chosen(among, sigma=sigma) == "levels"
    expected = "fine" if sigma == 0.02 else "wide"
    assert chosen(among, sigma=sigma, mask=Y > 0.3) == expected
    assert chosen(among, sigma=np.full(Y.shape, sigma)) == expected
    result = among.choose("", "best", Measurement.checked(Y, sigma=sigma, mask=Y > 0.3)).reconstruct(
        Y, sigma=sigma, mask=Y > 0.3, quality="best"
    )
    assert (result.diagnostics.index, result.diagnostics.gaussian_share) == (expected, 0.5)


@pytest.mark.parametrize(
    ("asked", "argument"),
    [({"sigma": 0.0}, "sigma"), ({"sigma": "strong"}, "sigma"), ({"mask": np.ones((2, 2))}, "mask")],
)
def test_what_is_no_measurement_is_refused(indexes, asked, argument):
    with pytest.raises(InvalidArgument) as error:
        chosen(catalogue(indexes["fine"], indexes["wide"]), **asked)
    assert error.value.argument == argument


def test_one_by_one_in_the_order_of_names(indexes):
    among = catalogue(indexes["wide"], indexes["fine"])
    assert [one.index.name for one in among] == ["fine", "wide"]


def test_two_folders_of_one_name_are_refused(tmp_path):
    folders = []
    for name in "ab":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", smooth(1, 4, 4, 1)[None])
        folders.append(build([tmp_path / name / "x.npy"], tmp_path / name / "index", patch_size=3))
    with pytest.raises(InvalidArgument, match="expected folders of different names, got 'index' twice"):
        Registry.load(folders)


def test_an_index_is_put_in_place_of_another_and_removed(indexes):
    registry = catalogue(indexes["fine"], indexes["others"])
    first = registry.get("fine")
    second = Reconstructor(replace(indexes["fine"], version="2"), device="cpu")
    registry.put(second)
    assert registry.get("fine") is second
    assert [one.index.name for one in registry] == ["fine", "others"]
    assert first.reconstruct(Y, sigma=0.1).diagnostics.version == "1"  # whoever has it keeps it
    registry.put(Reconstructor(indexes["blur"], device="cpu"))
    assert [one.index.name for one in registry] == ["blur", "fine", "others"]
    for name in ("blur", "others"):
        registry.remove(name)
    assert registry.get("") is second
    with pytest.raises(NotFound, match=r"^index: expected one of fine, got 'others'$"):
        registry.remove("others")
    registry.remove("fine")
    with pytest.raises(NotFound, match=r"^index: no index is loaded, got ''$"):
        registry.get("")


def test_what_was_replaced_is_closed_when_nobody_holds_it(indexes, monkeypatch):
    closed = []
    monkeypatch.setattr(
        "lemmse.estimator.local.LocalBackend.close", lambda backend: closed.append(backend.index.version)
    )
    registry = catalogue(indexes["fine"])
    held = registry.get("fine")
    held.reconstruct(Y, sigma=0.1, estimator="e-mmse")
    registry.put(Reconstructor(replace(indexes["fine"], version="2"), device="cpu"))
    assert not closed
    backend = weakref.ref(held._backend)
    del held
    assert closed == ["1"]
    assert backend() is None
    registry.close()
    registry.close()
    assert closed == ["1", "2"]

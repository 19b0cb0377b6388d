"""Noise with a spectrum: what is read from files and estimated from frames, and the covariance it gives."""

import json
import shutil
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import torch

from lemmse.calibration import calibrate_index
from lemmse.calibration.hybrid import _queries
from lemmse.contract.errors import DataLoss, InvalidArgument, NotFound
from lemmse.estimator import Reconstructor
from lemmse.estimator.local import LocalBackend
from lemmse.index import build, open_index
from lemmse.index.physics import InverseProblem, Spectrum, read_spectrum
from lemmse.index.storage import zarr_store
from lemmse.index.storage.manifest import MANIFEST, _self_checksum, checksum
from tests.support.cases import smooth
from tests.support.commands import invoke
from tests.support.oracle import noise_covariance

KERNEL = np.array([[0.5, 0.3, 0.1], [0.2, 0.4, 0.0]])


def filtered(white):
    """White noise (N, H, W), filtered circularly to a standard deviation of 1."""
    shifted = (KERNEL[i, j] * np.roll(white, (i, j), (1, 2)) for i in range(2) for j in range(3))
    return sum(shifted) / np.sqrt(np.square(KERNEL).sum())


def power_of(height, width):
    padded = np.zeros((height, width))
    padded[:2, :3] = KERNEL
    power = np.abs(np.fft.fft2(padded)) ** 2
    return power / power.mean()


@pytest.fixture
def noise():
    """Noise of standard deviation 0.05 in frames (24, 40, 36), and the covariance in a patch of side 4."""
    white = np.random.default_rng(0).standard_normal((24, 40, 36))
    return 0.05 * filtered(white), noise_covariance(power_of(40, 36)[..., None], (4, 4))


def covariance(spectrum, p=4, channels=1):
    return InverseProblem.parse("identity", "identity", spectrum).covariance((8, 8, channels), p)


def scene(height, width):
    return 0.3 + 0.4 * np.random.default_rng(1).random((height, width))


def write_npy(folder, frames):
    np.save(folder / "frames.npy", frames)
    return folder / "frames.npy"


def write_tiff(folder, frames):
    tifffile.imwrite(folder / "frames.tif", frames.astype(np.float32), photometric="minisblack")
    return folder / "frames.tif"


def write_pictures(folder, frames):
    (folder / "frames").mkdir()
    for k, frame in enumerate(frames):
        iio.imwrite(folder / "frames" / f"{k:02}.png", np.rint(65535 * frame).astype(np.uint16))
    return folder / "frames"


@pytest.mark.parametrize("write", [write_npy, write_tiff, write_pictures])
def test_the_spectrum_of_flat_frames_is_that_of_what_differs(tmp_path, noise, write):
    frames, expected = noise
    drift = np.linspace(-0.1, 0.1, 24)[:, None, None]  # of the light, which is no noise of pixels
    told = []
    spectrum = read_spectrum(write(tmp_path, scene(40, 36) + drift + frames), notice=told.append)
    assert spectrum.size == (40, 36)
    np.testing.assert_allclose(covariance(spectrum), expected, atol=0.04)
    (line,) = told
    assert float(line.partition("standard deviation of ")[2].split()[0]) == pytest.approx(0.05, rel=0.03)


def test_frames_of_noise_alone_may_be_negative_and_of_several_channels(tmp_path, noise):
    frames, expected = noise
    white = 0.1 * np.random.default_rng(2).standard_normal(frames.shape)
    np.save(tmp_path / "noise.npy", np.stack([frames, white], axis=3))
    told = []
    spectrum = read_spectrum(tmp_path / "noise.npy", notice=told.append)
    both = covariance(spectrum, channels=2).reshape(16, 2, 16, 2)
    mean = (0.05**2 + 0.1**2) / 2
    np.testing.assert_allclose(both[:, 0, :, 0], 0.05**2 / mean * expected, atol=0.05)
    np.testing.assert_allclose(both[:, 1, :, 1], 0.1**2 / mean * np.eye(16), atol=0.05)
    np.testing.assert_array_equal(both[:, 0, :, 1], 0)
    assert np.diag(covariance(spectrum, channels=2)).mean() == pytest.approx(1)
    assert [pytest.approx(s, rel=0.05) for s in (0.05, 0.1)] == [
        float(word.strip("(,")) for word in told[0].rpartition("(")[2].split()[:2]
    ]


def test_a_flat_region_of_one_image_is_enough(tmp_path):
    size = (180, 200)
    white = np.random.default_rng(3).standard_normal((1, *size))
    y = scene(*size) + 0.02 * filtered(white)[0]
    slope = np.linspace(0, 0.2, 150)[:, None] + np.linspace(0.3, 0.1, 160)
    y[:150, 40:] = slope + 0.02 * filtered(white)[0, :150, 40:]
    expected = noise_covariance(power_of(*size)[..., None], (4, 4))
    for path, stored in (("y.npy", y), ("y.tif", y.astype(np.float32))):
        if path == "y.npy":
            np.save(tmp_path / path, stored)
        else:
            tifffile.imwrite(tmp_path / path, stored)
        spectrum = read_spectrum(tmp_path / path, ":150,40:")
        assert spectrum.name == f"{tmp_path / path}[:150, 40:]"
        assert spectrum.size == (150, 160)
        np.testing.assert_allclose(covariance(spectrum), expected, atol=0.06)


def test_large_frames_are_divided_into_segments(tmp_path, monkeypatch, noise):
    monkeypatch.setattr("lemmse.index.physics.noise_frames._SEGMENT", 16)
    frames, expected = noise
    spectrum = read_spectrum(write_npy(tmp_path, frames))
    assert spectrum.size == (16, 16)
    near = [0, 1, 4, 5]
    np.testing.assert_allclose(covariance(spectrum, 2), expected[np.ix_(near, near)], atol=0.04)


@pytest.mark.parametrize("shape", [(9, 8), (7, 12)])
def test_a_stored_spectrum_is_used_as_it_is(tmp_path, shape):
    power = power_of(*shape)
    np.save(tmp_path / "spectrum.npy", (1e9 * power).astype(np.float32))
    several = np.stack([power, np.full(shape, 0.5)], axis=2)
    np.savez(tmp_path / "spectra.npz", spectrum=several, frames=np.ones((2, 2, 2)))
    one, two = (read_spectrum(tmp_path / name) for name in ("spectrum.npy", "spectra.npz"))
    np.testing.assert_allclose(covariance(one, 3), noise_covariance(power[..., None], (3, 3)), atol=1e-6)
    np.testing.assert_allclose(
        covariance(two, 3, 2), noise_covariance(several / several.mean(), (3, 3)), atol=1e-12
    )


def test_a_filter_and_a_smaller_image_keep_the_correlation_of_neighbours():
    # Where correlations end before half of the side, the torus on which the spectrum was given is no matter.
    problems = [
        InverseProblem.parse("blur:gaussian:0.5", "wiener:0.05", Spectrum.of("x", power_of(*size)[..., None]))
        for size in ((18, 16), (40, 31))
    ]
    a, b = (problem.covariance((18, 16, 2), 4) for problem in problems)
    np.testing.assert_allclose(a, b, atol=1e-12)
    with pytest.raises(
        InvalidArgument, match="noise: expected a spectrum of the images' size, 18x17, or larger"
    ):
        problems[0].check((18, 17, 2))


def test_samples_have_the_covariance(noise):
    spectrum = Spectrum.of("x", power_of(8, 8)[..., None])
    rng = np.random.default_rng(0)
    samples = np.stack([spectrum.sample((11, 10, 2), rng)[5:9, 6:10] for _ in range(4000)])
    found = np.cov(samples.reshape(len(samples), -1).T)
    np.testing.assert_allclose(found, covariance(spectrum, channels=2), atol=0.1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1.0, np.nan]]), "expected power that is finite, >= 0 and not all 0, got nan to nan in"),
        (np.array([[1.0, np.inf]]), "expected power that is finite"),
        (np.array([[1.0, -1e-9]]), "expected power that is finite, >= 0 and not all 0, got -1e-09 to 1 in"),
        (np.zeros((4, 4)), "expected power that is finite, >= 0 and not all 0, got 0 to 0 in"),
        (
            np.arange(16.0).reshape(4, 4),
            "expected equal power at f and -f, frequency 0 first as in numpy.fft",
        ),
        (np.ones((4, 4), complex), "expected real numbers for a power spectrum, got complex128 in"),
        (
            np.array([[{}]]),
            "expected a readable file, got|expected real numbers for a power spectrum, got obj",
        ),
        (
            np.empty((0, 4)),
            r"expected a power spectrum \(h, w\) or \(h, w, C\) of at most .*, got \(0, 4\) in",
        ),
        (np.ones(4), r"expected images \(N, H, W\) or \(N, H, W, C\), got shape \(4,\) in"),
        (np.ones((1, 9, 9)), "expected 2 frames or more, or a region that is flat, got 1 frame in"),
        (np.ones((2, 9, 9)), "expected noise, got frames that do not differ in"),
        (np.full((2, 9, 9), np.nan), "expected finite intensities, got NaN or infinity in"),
        (np.ones((2, 9, 9), np.int16), "expected uint8, uint16 or float in"),
    ],
)
def test_files_that_hold_no_noise_are_refused(tmp_path, array, message):
    np.save(tmp_path / "noise.npy", array, allow_pickle=True)
    with pytest.raises(InvalidArgument, match=f"^noise: .*({message})") as caught:
        read_spectrum(tmp_path / "noise.npy")
    assert "\n" not in str(caught.value)


def test_frames_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(NotFound, match=r"^noise: no such file or folder: '.*nowhere'"):
        read_spectrum(tmp_path / "nowhere")
    with pytest.raises(
        InvalidArgument, match=r"^noise: expected a file, a folder or a sample, got an empty name"
    ):
        read_spectrum("")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY, or not")
    with pytest.raises(InvalidArgument, match=r"^noise: expected a readable file, got .*bad.npy \("):
        read_spectrum(tmp_path / "bad.npy")
    (tmp_path / "frames").mkdir()
    for k in range(2):
        iio.imwrite(tmp_path / "frames" / f"{k}.png", np.full((8 + k, 8), 9 * k, np.uint8))
    with pytest.raises(
        InvalidArgument, match=r"^noise: expected frames of one size, got 8x8 and, in 1.png, 9x8"
    ):
        read_spectrum(tmp_path / "frames")
    np.save(tmp_path / "flat.npy", np.full((32, 37), 0.3))
    with pytest.raises(InvalidArgument, match=r"^noise: expected noise, got frames that do not differ in"):
        read_spectrum(tmp_path / "flat.npy", ":,:")
    for roi, argument in (("1:2", "noise-roi"), ("9:,:", "noise")):
        with pytest.raises(InvalidArgument, match=f"^{argument}: "):
            read_spectrum(tmp_path / "frames", roi)


@pytest.fixture
def images(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([smooth(seed, 12, 12, 1) for seed in range(6)]))
    np.save(tmp_path / "noise.npy", power_of(6, 7))
    return tmp_path / "x.npy"


@pytest.mark.parametrize(
    ("power", "options", "message"),
    [
        (power_of(4, 9), {}, "noise: expected a spectrum, or frames, of 5x5 or more, got 4x9"),
        (
            np.eye(1, 81).reshape(9, 9),
            {},
            r"noise: expected noise of condition number .*; add some white noise",
        ),
        (
            power_of(9, 9),
            {"physics": "inpaint:center:2", "pre_inverse": "mask"},
            "noise: expected none for pre-inverse 'mask', got .*noise.npy; use identity",
        ),
        (
            power_of(9, 9),
            {"physics": "blur:disk:1", "pre_inverse": "wiener:0.1"},
            "noise: expected a spectrum of the images' size, 12x12, or larger for pre-inverse 'wiener:0.1'",
        ),
    ],
)
def test_noise_that_does_not_fit_the_problem_is_refused(images, tmp_path, power, options, message):
    np.save(tmp_path / "noise.npy", power)
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        build([images], tmp_path / "index", noise=tmp_path / "noise.npy", **options)
    assert not (tmp_path / "index").exists()


def test_channels_that_the_images_do_not_have_are_refused(images, tmp_path):
    np.savez(tmp_path / "noise.npz", spectrum=np.ones((9, 9, 3)))
    with pytest.raises(InvalidArgument, match=r"^noise: expected 1 channels, those of the images, got 3"):
        build([images], tmp_path / "index", noise=tmp_path / "noise.npz")
    with pytest.raises(InvalidArgument, match=r"^noise-roi: expected none without noise, got ':,:'"):
        build([images], tmp_path / "index", noise_roi=":,:")


def test_an_unfinished_build_goes_on_only_with_the_same_noise(images, tmp_path):
    def stop(stage, done, total):
        if stage == "assign patches":
            raise KeyboardInterrupt

    options = {"noise": tmp_path / "noise.npy", "patch_size": 3}
    with pytest.raises(KeyboardInterrupt):
        build([images], tmp_path / "index", progress=stop, **options)
    with pytest.raises(InvalidArgument, match=r"^noise: expected .*noise.npy to go on with the unfinished"):
        build([images], tmp_path / "index", patch_size=3)
    np.save(tmp_path / "noise.npy", power_of(9, 9))
    with pytest.raises(
        InvalidArgument, match=r"^SOURCE: expected what the unfinished build in .* began with"
    ):
        build([images], tmp_path / "index", **options)
    np.save(tmp_path / "noise.npy", power_of(6, 7))
    assert open_index(build([images], tmp_path / "index", **options)).manifest.condition > 1


def test_the_command_tells_of_the_noise(images, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "frames.npy", rng.normal(0, 0.1, (5, 16, 16)))
    arguments = ["--out", tmp_path / "index", "--noise", tmp_path / "frames.npy"]
    status, _, stderr = invoke("build", images, *arguments, "--patch-size", 3, "--no-calibrate")
    assert status == 0
    assert stderr.startswith(
        f"lemmse: note: the noise in {tmp_path / 'frames.npy'} has a standard deviation of 0."
    )
    status, stdout, _ = invoke("inspect", tmp_path / "index", "--verify", "--json")
    described = json.loads(stdout)
    assert (status, described["noise"], described["gaussians"]) == (0, str(tmp_path / "frames.npy"), 24)
    _, table, _ = invoke("inspect", tmp_path / "index")
    assert "correlated, " in table
    status, _, stderr = invoke("build", images, *arguments, "--update")
    assert (status, stderr.partition(" with")[0]) == (2, "lemmse: error: noise: expected none")


def test_calibration_measures_in_correlated_noise(images, tmp_path):
    power = np.ones((12, 12))
    power[:, 0] += 100
    np.save(tmp_path / "noise.npy", power)
    index = open_index(build([images], tmp_path / "index", noise=tmp_path / "noise.npy", patch_size=3))
    black = [np.zeros((1, 12, 12, 1), np.float32)] * 32
    local = LocalBackend(index, torch.device("cpu"))
    noise = index.strata.whiten_precisely(_queries(local, black, 1.0, np.random.default_rng(0)).u.numpy(), 0)
    np.testing.assert_allclose(noise.T @ noise / len(noise), np.eye(9), atol=0.35)
    assert len(noise) == 256


def test_the_best_refinements_are_measured_in_correlated_noise(images, tmp_path):
    power = np.ones((12, 12))
    power[:, 0] += 100
    np.save(tmp_path / "noise.npy", power)
    index = open_index(build([images], tmp_path / "index", noise=tmp_path / "noise.npy", patch_size=3))
    y = smooth(7, 12, 12, 1)
    with pytest.raises(InvalidArgument, match="quality: expected paper, since index 'index' was not calib"):
        Reconstructor(index, device="cpu").reconstruct(y, sigma=0.1, quality="best")
    _, pictures = calibrate_index(index)
    assert all(refinement.aggregate == "overlap" for refinement in pictures.refinements[:2])
    assert all(best > paper for best, paper in zip(pictures.best_db, pictures.paper_db, strict=True))
    calibrated = Reconstructor(open_index(tmp_path / "index"), device="cpu")
    found = calibrated.reconstruct(y, sigma=0.1, quality="best").diagnostics
    best = pictures.best(0.1)
    assert (found.aggregate, found.gaussian_share) == (best.aggregate, best.gaussian_share)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 2), (0, 7, 1), None])
def test_an_index_whose_spectrum_is_another_array_is_damaged(images, tmp_path, shape):
    index = build([images], tmp_path / "index", noise=tmp_path / "noise.npy", patch_size=3)
    manifest, version = open_index(index).manifest, index / "1"
    arrays = version / "arrays.zarr"
    shutil.rmtree(arrays / "physics" / "noise")
    if shape is not None:
        group = zarr_store.open_arrays(arrays, writing=True)
        if 0 in shape:
            group.create_array("physics/noise", shape=shape, dtype=np.float64)
        else:
            zarr_store.write(group, "physics/noise", np.ones(shape))
    files = {
        str(path.relative_to(version)): checksum(path)
        for path in version.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }
    replace(manifest, files=files).write(version)
    with pytest.raises(DataLoss, match="physics/noise"):
        open_index(index)


def test_an_index_that_names_no_noise_has_white_noise(images, tmp_path):
    index = build([images], tmp_path / "index", patch_size=3)
    path = index / "1" / MANIFEST
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    assert content.pop("noise") is None
    path.write_text(json.dumps(content | {"manifest_sha256": _self_checksum(content)}))
    assert open_index(index).problem.white
    content["noise"] = 3
    path.write_text(json.dumps(content | {"manifest_sha256": _self_checksum(content)}))
    with pytest.raises(DataLoss, match="noise has a value that no build writes"):
        open_index(index)

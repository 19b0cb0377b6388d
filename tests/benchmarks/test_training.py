"""Training: what is learned, and that a run which is stopped goes on as if it had not been."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.paper.networks import NETWORKS
from benchmarks.paper.tasks import Problem, Task
from benchmarks.paper.training import Schedule, Windows, read, train
from benchmarks.quality.data import Data
from lemmse.contract.errors import InvalidArgument, NotFound

pytestmark = pytest.mark.slow

SCHEDULE = Schedule(steps=12, windows=8, kept=4)


def task(problem="identity", p=5, channels=1):
    training = np.random.default_rng(2).integers(0, 256, (4, 8, 8, channels), np.uint8)
    return Task(Data("tiny", training, np.zeros(4, np.int64), [], "none"), Problem.parse(problem), p)


class Stopped(Exception):
    pass


def stop_at(part):
    def progress(done, loss):
        if done >= part:
            raise Stopped

    return progress


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("problem", ["identity", "blur:gaussian:1.0,wiener:0.05"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(name, problem, tmp_path):
    whole = train(task(problem), name, SCHEDULE, tmp_path / "whole.pt")
    with pytest.raises(Stopped):
        train(task(problem), name, SCHEDULE, tmp_path / "parts.pt", stop_at(0.5))
    parts = train(task(problem), name, SCHEDULE, tmp_path / "parts.pt")
    assert parts.losses == whole.losses
    assert parts.steps == 12
    for mine, other in zip(
        parts.network.state_dict().values(), whole.network.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other)


def test_networks_on_the_way_are_kept_by_a_run_that_was_stopped_too(tmp_path):
    schedule = replace(SCHEDULE, steps=140)
    whole = train(task(), "PatchMLP", schedule, tmp_path / "whole.pt")
    with pytest.raises(Stopped):
        train(task(), "PatchMLP", schedule, tmp_path / "parts.pt", stop_at(0.6))
    parts = train(task(), "PatchMLP", schedule, tmp_path / "parts.pt")
    assert [early.steps for early in whole.early] == [early.steps for early in parts.early] == [64, 128]
    for early, other in zip(whole.early, parts.early, strict=True):
        assert early.losses == other.losses == whole.losses[: early.steps]
        assert 0 < early.seconds < whole.seconds
        mine, others, last = (version.network.state_dict() for version in (early, other, whole))
        for name, weights in mine.items():
            assert torch.equal(weights, others[name])
        assert not all(torch.equal(weights, last[name]) for name, weights in mine.items())


def test_a_run_that_was_stopped_cannot_be_read(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(Stopped):
        train(task(), "PatchMLP", SCHEDULE, path, stop_at(0.5))
    with pytest.raises(NotFound, match="PatchMLP was not trained for tiny, 4 images, identity, p = 5"):
        read(task(), "PatchMLP", SCHEDULE, path)
    assert train(task(), "PatchMLP", SCHEDULE, path).losses == read(task(), "PatchMLP", SCHEDULE, path).losses


def test_a_finished_run_is_only_read(tmp_path):
    path = tmp_path / "run.pt"
    train(task(), "PatchMLP", SCHEDULE, path)
    written = path.read_bytes()
    train(task(), "PatchMLP", SCHEDULE, path, stop_at(0))
    assert path.read_bytes() == written


def test_seeds_differ(tmp_path):
    one = train(task(), "PatchMLP", SCHEDULE, tmp_path / "one.pt")
    other = train(task(), "PatchMLP", replace(SCHEDULE, seed=1), tmp_path / "other.pt")
    assert one.losses != other.losses


def test_a_time_ends_it(tmp_path):
    schedule = Schedule(minutes=0.2 / 60, windows=8)
    trained = train(task(), "PatchMLP", schedule, tmp_path / "run.pt")
    assert trained.seconds >= 0.2
    assert trained.steps == len(trained.losses) > 1


def test_the_length_is_told_once():
    with pytest.raises(InvalidArgument, match="one of steps and minutes"):
        Schedule(steps=1, minutes=1)
    with pytest.raises(InvalidArgument, match="one of steps and minutes"):
        Schedule()


@pytest.mark.parametrize("problem", ["identity", "inpaint:center:3,mask", "blur:gaussian:1.0,wiener:0.05"])
def test_a_window_is_a_patch_of_what_the_estimator_sees(problem):
    """Without its noise each window is cut from B A x, wrapping around, and its middle from x there."""
    own = task(problem, channels=2)
    windows = Windows(own, Schedule(steps=1, windows=30, side=2))
    seen = [own.operators.pre_invert(own.operators.measure(x / 255)) for x in own.data.training]
    places = [(k, r, c) for k in range(4) for r in range(8) for c in range(8)]

    def cut(image, row, column, side):
        return image.take(np.arange(row, row + side), 0, mode="wrap").take(
            np.arange(column, column + side), 1, mode="wrap"
        )

    middles = {
        cut(own.data.training[k] / 255, r + 2, c + 2, 2).astype(np.float32).tobytes(): (k, r, c)
        for k, r, c in places
    }
    windows.random = Quiet(windows.random)
    z, sigma, x = windows.draw()
    assert z.shape == (30, 2, 6, 6)
    for window, middle in zip(z.permute(0, 2, 3, 1).numpy(), x.permute(0, 2, 3, 1).numpy(), strict=True):
        k, r, c = middles[np.ascontiguousarray(middle).tobytes()]
        np.testing.assert_allclose(window, cut(seen[k], r, c, 6), atol=1e-6)
    assert 0 <= sigma.min() < sigma.max() <= 1


class Quiet:
    """A generator whose normal numbers are zeros."""

    def __init__(self, random):
        self.integers, self.random = random.integers, random.random

    def standard_normal(self, shape, dtype):
        return np.zeros(shape, dtype)


@pytest.mark.parametrize(("problem", "gain"), [("identity", 1.0), ("inpaint:center:8,mask", 0.0)])
def test_the_noise_goes_through_the_pre_inverse(problem, gain):
    own = task(problem)
    black = replace(own, data=replace(own.data, training=np.zeros((2, 8, 8, 1), np.uint8)))
    z, sigma, _ = Windows(black, Schedule(steps=1, windows=4000)).draw()
    assert (z / sigma[:, None, None, None]).std() == pytest.approx(gain, rel=0.02)


@pytest.mark.parametrize(
    "problem", ["identity", "inpaint:random:30,epsilon:0.1", "blur:disk:1.5,wiener:0.05"]
)
def test_noise_is_seen_as_its_images_are(problem):
    windows = Windows(task(problem, channels=2), SCHEDULE)
    e = np.random.default_rng(1).standard_normal((3, 8, 8, 2)).astype(np.float32)
    expected = [windows.operators.pre_invert(one) for one in e]
    np.testing.assert_allclose(windows.seen_noise(e), expected, atol=1e-6)


@pytest.mark.parametrize("problem", ["identity", "inpaint:center:4,mask", "blur:gaussian:1.0,wiener:0.05"])
def test_a_pixel_tells_what_its_moments_say(problem):
    """Of 4000 windows the pixels in the middle, at one σ."""
    windows = Windows(task(problem), Schedule(steps=1, windows=4000))
    pixel = windows.pixel()
    z, sigma, x = windows.draw()
    z = z[..., 2:-2, 2:-2]
    assert x.mean() == pytest.approx(pixel.mean, abs=0.01)
    assert z.mean() == pytest.approx(pixel.mean_seen, abs=0.01)
    assert x.var() == pytest.approx(pixel.variance, rel=0.03)
    expected = pixel.variance_seen + pixel.noise * sigma.square().mean().item()
    assert z.var() == pytest.approx(expected, rel=0.03)
    assert ((x - x.mean()) * (z - z.mean())).mean() == pytest.approx(pixel.covariance, abs=0.003)


def test_noise_is_learned_to_be_taken_away(tmp_path):
    """On a single grey level the posterior mean is that level, whatever the noise."""
    flat = task()
    flat = replace(flat, data=replace(flat.data, training=np.full((2, 8, 8, 1), 51, np.uint8)))
    trained = train(flat, "PatchMLP", Schedule(steps=200, windows=16), tmp_path / "run.pt")
    noisy = 0.2 + 0.3 * np.random.default_rng(0).standard_normal((8, 8, 1))
    (answer,) = trained.answer([noisy], 0.3)
    assert answer.shape == (8, 8, 1)
    assert np.sqrt(np.mean((answer - 0.2) ** 2)) < 0.03

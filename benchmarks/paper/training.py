"""How a network is trained: windows of training images, fresh noise in each step, σ uniform in [0, 1].

The loss is the mean square error to the clean image, so that the network learns the posterior mean. A network
is the same function at every position, so each window of an image can represent all of it, and many small
windows from different images are more informative per step than few whole ones.

A checkpoint has the whole state of a run. A run with a number of steps that is interrupted continues with the
same results, on a CPU bit by bit; one with a number of minutes loses the steps since its last checkpoint.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.paper.networks import NETWORKS, Network, Pixel
from benchmarks.paper.tasks import Task
from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.index.sources import intensities

Progress = Callable[[float, float], None]
"""Called after each step with the share of the training that is done, in [0, 1], and the loss of the step."""

WARM_UP = 50
"""Steps in which the learning rate rises."""
EARLY = 64
"""Steps after which an early network is stored, for comparison, and again after twice as many, and so on."""
BETAS = (0.9, 0.99)
"""Betas of AdamW: a short memory of squares, as trainings are short."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Device of training and evaluation."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length and settings of a training.

    Raises
    ------
    InvalidArgument
        Not exactly one of steps and minutes is given, or it is not positive.
    """

    steps: int | None = None
    """Length of the training, in steps."""
    minutes: float | None = None
    """Length of the training, in minutes of wall time."""
    windows: int = 128
    """Windows per step."""
    side: int = 4
    """Side of the reconstructed part of a window, in pixels."""
    rate: float = 8e-3
    """Highest learning rate; it falls to 0 along a cosine."""
    decay: float = 0.999
    """Decay of the moving average of the weights, which is the trained network."""
    seed: int = 0
    """Seed of the initial weights, the windows and the noise."""
    kept: int = 200
    """Steps between checkpoints; there is another one at the end."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise InvalidArgument.of("steps", "expected one of steps and minutes, got both or none")
        if not (self.steps or self.minutes or 0) > 0:
            raise InvalidArgument.of(
                "steps", f"expected a positive length of the training, got {self.length}"
            )

    @property
    def length(self) -> str:
        """The requested length, as text."""
        return f"{self.steps} steps" if self.steps is not None else f"{self.minutes:g} min"

    def done(self, step: int, seconds: float) -> float:
        """Return the share of the training that is done, in [0, 1]."""
        part = step / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 0))
        return min(part, 1.0)


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network and its training."""

    network: Network
    """Moving average of the network, for evaluation."""
    parameters: int
    """Number of parameters."""
    steps: int
    """Number of steps of the training."""
    seconds: float
    """Wall time of the training, in seconds."""
    device: str
    """Device of its last run, as text."""
    losses: list[float]
    """Mean square error of each step."""
    early: "Sequence[Trained]" = ()
    """The same network earlier in its training."""

    def answer(self, images: Sequence[NDArray[np.float64]], sigma: float) -> list[NDArray[np.float64]]:
        """Reconstruct images with the pre-inverse applied, (H, W, C)."""
        with torch.inference_mode():
            batches = [torch.from_numpy(z).float().permute(2, 0, 1)[None].to(DEVICE) for z in images]
            level = torch.tensor([sigma], device=DEVICE)
            return [self.network(z, level)[0].permute(1, 2, 0).double().cpu().numpy() for z in batches]


class Windows:
    """Random windows of measured training images, with the clean pixels."""

    def __init__(self, task: Task, schedule: Schedule) -> None:
        self.operators = task.operators
        clean = [intensities(image) for image in task.data.training]
        seen = [self.operators.pre_invert(self.operators.measure(x)) for x in clean]
        self.clean = np.stack(clean)  # (K, H, W, C)
        self.seen = np.stack(seen).astype(np.float32)  # B A x
        self.count, self.side, self.reach = schedule.windows, schedule.side, task.patch_size // 2
        self.random = np.random.default_rng(schedule.seed)

    def pixel(self) -> Pixel:
        """Return the statistics of a clean pixel and its pixel of B y."""
        shape = self.clean.shape[1:]
        x, v = (images.ravel().astype(np.float64) for images in (self.clean, self.seen))
        (variance, covariance), (_, variance_seen) = np.cov(x, v, bias=True)
        if self.operators.stationary:
            noise = self.operators.covariance(shape, 1)[0, 0]
        else:
            noise = np.mean(np.square(self.operators.scale(shape)))
        return Pixel(
            x.mean().item(),
            float(variance),
            v.mean().item(),
            float(variance_seen),
            float(covariance),
            float(noise),
        )

    def seen_noise(self, e: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return B e, (n, H, W, C)."""
        if self.operators.white:
            return e
        n, height, width, channels = e.shape
        if not self.operators.stationary:
            return e * self.operators.scale((height, width, channels)).astype(np.float32)
        # A convolution treats all channels alike: one call for all images.
        stacked = self.operators.pre_invert(e.transpose(1, 2, 0, 3).reshape(height, width, -1))
        noise = stacked.reshape(height, width, n, channels).transpose(2, 0, 1, 3)
        return noise.astype(np.float32)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, (n, C, side + p − 1, side + p − 1); σ, (n,); and clean pixels, (n, C, side, side)."""
        k_all, height, width, _ = self.clean.shape
        n, r = self.count, self.reach
        k = self.random.integers(k_all, size=n)
        sigma = self.random.random(n, np.float32)
        rows = _span(self.random.integers(height, size=n), self.side + 2 * r, height)
        columns = _span(self.random.integers(width, size=n), self.side + 2 * r, width)
        noise = self.seen_noise(self.random.standard_normal(self.clean[k].shape, np.float32))
        images, pixels = np.arange(n)[:, None, None], (rows[:, :, None], columns[:, None, :])
        z = self.seen[k[:, None, None], *pixels] + sigma[:, None, None, None] * noise[images, *pixels]
        inner = (rows[:, r : r + self.side, None], columns[:, None, r : r + self.side])
        x = self.clean[k[:, None, None], *inner]
        return (
            torch.from_numpy(z).permute(0, 3, 1, 2),
            torch.from_numpy(sigma),
            torch.from_numpy(x).permute(0, 3, 1, 2),
        )


class Run:
    """A training in progress, whose whole state can be saved in a checkpoint."""

    def __init__(self, task: Task, network: str, schedule: Schedule) -> None:
        self.windows = Windows(task, schedule)
        channels, pixel = task.data.training.shape[3], self.windows.pixel()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(schedule.seed)
            self.network = NETWORKS[network](task.patch_size, channels, pixel)
        self.network.to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), betas=BETAS, weight_decay=0)
        self.schedule = schedule
        self.losses: list[float] = []
        self.seconds = 0.0
        self.device = device_name()
        self.early: list[tuple[int, float, dict[str, Tensor]]] = []  # steps, seconds, averages

    @property
    def done(self) -> float:
        """Return the share of the training that is done, in [0, 1]."""
        return self.schedule.done(len(self.losses), self.seconds)

    def step(self) -> None:
        """Make one step on a batch of windows."""
        start, number = time.perf_counter(), len(self.losses) + 1
        rate = self.schedule.rate * min(1, number / WARM_UP) * (1 + math.cos(math.pi * self.done)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        z, sigma, x = (part.to(DEVICE) for part in self.windows.draw())
        loss = (self.network.inside(z, sigma) - x).square().mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        # At first the average decays faster, otherwise the initial weights would remain in it.
        decay = min(self.schedule.decay, number / (number + 9))
        learned = [weight.detach() for weight in self.network.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), learned, 1 - decay)
        self.losses.append(loss.item())
        self.seconds += time.perf_counter() - start
        if number >= EARLY and number.bit_count() == 1:
            average = {name: value.clone() for name, value in self.average.state_dict().items()}
            self.early.append((number, self.seconds, average))

    def save(self, path: Path) -> None:
        """Write a checkpoint, completely or not at all."""
        scratch = path.with_suffix(".new")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "random": self.windows.random.bit_generator.state,
                "losses": self.losses,
                "seconds": self.seconds,
                "device": self.device,
                "early": self.early,
            },
            scratch,
        )
        scratch.replace(path)

    def restore(self, path: Path) -> None:
        """Restore the state of a checkpoint."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.windows.random.bit_generator.state = state["random"]
        self.losses, self.seconds = state["losses"], state["seconds"]
        self.early = state["early"]
        if self.done == 1:
            self.device = state["device"]

    def trained(self) -> Trained:
        """Return the network and the earlier ones."""
        early = [self._version(*version) for version in self.early if version[0] < len(self.losses)]
        return self._version(len(self.losses), self.seconds, self.average.state_dict(), early)

    def _version(
        self, steps: int, seconds: float, average: dict[str, Tensor], early: Sequence[Trained] = ()
    ) -> Trained:
        network = copy.deepcopy(self.average)
        network.load_state_dict(average)
        parameters = sum(weight.numel() for weight in network.parameters())
        return Trained(network.eval(), parameters, steps, seconds, self.device, self.losses[:steps], early)


def train(
    task: Task,
    network: str,
    schedule: Schedule,
    checkpoint: Path,
    progress: Progress = lambda done, loss: None,
) -> Trained:
    """Train a network, or continue from its checkpoint; a finished training is only read.

    Parameters
    ----------
    task : Task
        Estimation problem.
    network : str
        Name in `NETWORKS`.
    schedule : Schedule
        Length and settings.
    checkpoint : Path
        File of the run.
    progress : callable
        Called after each step.
    """
    run = Run(task, network, schedule)
    if checkpoint.exists():
        run.restore(checkpoint)
    while run.done < 1:
        run.step()
        if len(run.losses) % schedule.kept == 0 or run.done == 1:
            run.save(checkpoint)
        progress(run.done, run.losses[-1])
    return run.trained()


def device_name() -> str:
    """Return the name of the device."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name(DEVICE)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}"


def read(task: Task, network: str, schedule: Schedule, checkpoint: Path) -> Trained:
    """Read a trained network.

    Raises
    ------
    NotFound
        It was not trained, or not to the end.
    """
    run = Run(task, network, schedule)
    if checkpoint.exists():
        run.restore(checkpoint)
    if run.done < 1:
        raise NotFound(f"{network} was not trained for {task}: run train with the same options first")
    return run.trained()


def _span(start: NDArray[np.int64], length: int, size: int) -> NDArray[np.int64]:
    """Return the positions from each start on, wrapping around, (n, length)."""
    return (start[:, None] + np.arange(length)) % size

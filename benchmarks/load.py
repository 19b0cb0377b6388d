"""What a server does under load: throughput and waiting times, short requests beside a long one, and a soak.

    python -m benchmarks.load --index DIR [--clients C…] [--images N] [--size S] [--sigma S] [--mode MODE]
        [--large L] [--soak N] [--out DIR] [-- SERVE OPTIONS…]

A server of the index is started for the run, in a process of its own; options after `--` are passed to it.
All clients are threads of this process, each with one request at a time.

- Throughput: N images of S×S pixels, as one batch by one client, then shared out among each number of
  clients. `of batch` is the throughput relative to that of the batch just before and after, `computing` the
  share of the time in which the images were computed, by their diagnostics, and `processor ms` the processor
  time of the server for an image. For one client, 1 / `of batch` is what a stream gains, since the server
  receives the next image and sends the last one while one is computed.
- Beside a long request: a 16×16 image in mode exact, alone and while an L×L image is computed. The request is
  to wait at most three times as long as alone, plus 100 ms.
- Overhead: the time of a call for a 2×2 image, without its computation, and that of a second server, which
  has TLS and wants a token; calls of both in turn.
- Soak: N mixed requests, of which many are cancelled, by 8 clients; memory, threads and open files of the
  server before, and after each tenth and a rest.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import numpy as np
import trustme
from numpy.typing import NDArray

from benchmarks.measures import print_rows, timed
from benchmarks.memory import resident
from lemmse.client import Client, LemmseError, Result, connect
from lemmse.client.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from lemmse.client.serving import LEMMSE
from lemmse.server.tokens import add_token

CLIENTS = (1, 4, 16, 64)
SHORT = 16
"""Side of the image that waits beside a long request, in pixels."""
REPEATS, ROUNDS = 24, 6
"""Number of times it is asked for, alone and beside the other, in so many rounds."""
CALLS = 300
"""Number of calls whose overhead is measured."""
SOAKERS = 8
REST = 12.0
"""Seconds after which a server that has nothing to do has returned freed memory."""

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Load:
    """The answers to some images, by some clients."""

    clients: str
    images_per_second: float
    of_batch: float
    computing: float
    """Sum of the seconds of their computations, relative to the time."""
    processor_ms: float
    """Processor time of the server for an image, which depends less on other work of the machine."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int


@dataclass(frozen=True, slots=True)
class Beside:
    """The times of a short request, in milliseconds."""

    mode: str
    alone_p50: float
    alone_most: float
    beside_p50: float
    beside_most: float
    allowed: float
    """Three times the median alone, plus 100 ms."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """The time of a call without its computation, in milliseconds."""

    server: str
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Soaked:
    """The state of the server after so many requests."""

    requests: int
    own_mib: float
    """Resident memory without mapped files."""
    threads: int
    files: int
    answered: int
    cancelled: int
    refused: int


@contextmanager
def served(index: Path, options: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run a server of an index, and yield its address and its process id."""
    command = [*LEMMSE, "serve", str(index), "--listen", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line.removeprefix("listening on ").strip(), process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def images(count: int, size: int, channels: int, sigma: float) -> list[Image]:
    """Return smooth images with noise."""
    rng = np.random.default_rng(0)
    coarse = rng.random((count, -(-size // 4), -(-size // 4), channels))
    clean = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :size, :size]
    noisy = clean + sigma * rng.standard_normal(clean.shape)
    return list(noisy.astype(np.float32))


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shared_out(
    client: Client, pid: int, batch: Sequence[Image], clients: int, options: dict[str, Any]
) -> Load:
    """Return the load of a batch whose images are asked for one by one, by some clients at once."""
    before = processor_seconds(pid)

    def ask(own: Sequence[Image]) -> tuple[list[float], float, int]:
        times, computing, refused = [], 0.0, 0
        for y in own:
            try:
                result, seconds = timed(partial(client.reconstruct, y, **options))
                times.append(seconds)
                computing += result.diagnostics.seconds
            except ResourceExhausted:
                refused += 1
        return times, computing, refused

    with ThreadPoolExecutor(clients) as pool:
        outcomes, seconds = timed(lambda: list(pool.map(ask, [batch[i::clients] for i in range(clients)])))
    times = [time for own, _, _ in outcomes for time in own]
    p50, p95, p99 = (1e3 * float(np.quantile(times, share)) for share in (0.5, 0.95, 0.99))
    used = 1e3 * (processor_seconds(pid) - before) / len(batch)
    computing = sum(computing for _, computing, _ in outcomes) / seconds
    refused = sum(refused for _, _, refused in outcomes)
    return Load(str(clients), len(times) / seconds, 0.0, computing, used, p50, p95, p99, refused)


def loads(client: Client, pid: int, arguments: argparse.Namespace, channels: int) -> list[Load]:
    """Return the load of one batch, and those of the same images by several clients."""
    batch = images(arguments.images, arguments.size, channels, arguments.sigma)
    options = {"sigma": arguments.sigma, "mode": arguments.mode}

    def answer_batch() -> tuple[float, float]:
        outcomes, seconds = timed(lambda: list(client.reconstruct_many(batch, **options)))
        results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
        if len(results) < len(batch):
            raise SystemExit("an image of the batch was not answered")
        return len(batch) / seconds, sum(result.diagnostics.seconds for result in results) / seconds

    list(client.reconstruct_many(batch[:4], **options))
    before = processor_seconds(pid)
    batches, rows = [answer_batch()], []
    used = 1e3 * (processor_seconds(pid) - before) / len(batch)
    for clients in arguments.clients:
        load = shared_out(client, pid, batch, clients, options)
        batches.append(answer_batch())
        speed = statistics.mean(speed for speed, _ in batches[-2:])
        rows.append(replace(load, of_batch=load.images_per_second / speed))
    speed, computing = np.mean(batches, axis=0).tolist()
    each = 1e3 / speed
    return [Load("batch", speed, 1.0, computing, used, each, each, each, 0), *rows]


def beside(address: str, arguments: argparse.Namespace, channels: int) -> Beside:
    """Return the times of a short request, alone and beside a long one in mode exact."""
    (short,) = images(1, SHORT, channels, arguments.sigma)
    (long,) = images(1, arguments.large, channels, arguments.sigma)
    ended = Event()

    def times(client: Client) -> list[float]:
        def ask() -> None:
            client.reconstruct(short, sigma=arguments.sigma, mode="exact")

        return [1e3 * timed(ask)[1] for _ in range(REPEATS // ROUNDS)]

    def ask_long(client: Client) -> None:
        try:
            client.reconstruct(long, sigma=arguments.sigma, mode="exact")
        except LemmseError:  # the client was closed
            pass
        finally:
            ended.set()

    alone, together = [], []
    with connect(f"grpc://{address}") as client:
        times(client)
        for _ in range(ROUNDS):  # by turns, as other work of the machine comes and goes
            alone += times(client)
            with connect(f"grpc://{address}") as other:
                Thread(target=ask_long, args=(other,)).start()
                time.sleep(1.0)  # it has begun
                together += times(client)
                if ended.is_set():
                    raise SystemExit("the long request has ended too early: choose a larger --large")
            ended.wait()
            ended.clear()
    p50 = statistics.median(alone)
    return Beside("exact", p50, max(alone), statistics.median(together), max(together), allowed=3 * p50 + 100)


@contextmanager
def guarded(index: Path, options: Sequence[str]) -> Iterator[Client]:
    """Run a server with TLS that wants a token, and yield a client of it."""
    with TemporaryDirectory() as name:
        folder, authority = Path(name), trustme.CA()
        pair = folder / "pair.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pair)
        token = add_token(folder / "tokens", "read")
        own = ("--tls-cert", str(pair), "--tls-key", str(pair), "--tokens", str(folder / "tokens"))
        with (
            served(index, [*options, *own]) as (address, _),
            connect(
                f"grpcs://{address}", token=token, root_certificates=authority.cert_pem.bytes()
            ) as client,
        ):
            yield client


def overheads(plain: Client, arguments: argparse.Namespace, channels: int) -> list[Overhead]:
    """Return the time of a call for a tiny image, without its computation."""
    y = np.full((2, 2, channels), 0.5, np.float32)

    def milliseconds(client: Client) -> float:
        result, seconds = timed(lambda: client.reconstruct(y, sigma=0.1, mode="topk", k=1, nprobe=1))
        return 1e3 * (seconds - result.diagnostics.seconds)

    with guarded(arguments.index, arguments.options) as secure:
        clients = {"plain": plain, "TLS and a token": secure}
        for client in clients.values():
            milliseconds(client)  # connects
        times = [[milliseconds(client) for client in clients.values()] for _ in range(CALLS)]
    columns = zip(clients, np.quantile(times, (0.5, 0.95, 0.99), axis=0).T.tolist(), strict=True)
    return [Overhead(name, *quantiles) for name, quantiles in columns]


def soak(client: Client, pid: int, requests: int, channels: int) -> list[Soaked]:
    """Return the state of a server before many requests of all kinds, and after each tenth of them."""
    tiny, small, large = (images(1, size, channels, 0.1)[0] for size in (4, 24, 500))
    kinds: list[Callable[[], object]] = [
        lambda: client.reconstruct(tiny, sigma=0.1),
        lambda: client.reconstruct(small, sigma=0.1, mode="hybrid", timeout=30),
        lambda: client.reconstruct(large, sigma=0.1, mode="exact", timeout=0.05),
        lambda: client.reconstruct(large, sigma=0.1, mode="hybrid", maps=["variance"], timeout=0.2),
        lambda: next(iter(client.reconstruct_many([tiny, large, large], sigma=0.1, mode="exact"))),
        lambda: client.explain(small, sigma=0.1, pixel=(3, 4), top=5),
        lambda: client.reconstruct(tiny, sigma=0.1, k=2, mode="topk"),
        lambda: client.reconstruct(tiny, sigma=-1),
        client.list_indexes,
    ]
    outcomes = {"answered": 0, "cancelled": 0, "refused": 0}

    def ask(kind: Callable[[], object]) -> str:
        try:
            kind()
        except DeadlineExceeded:
            return "cancelled"
        except (ResourceExhausted, InvalidArgument):
            return "refused"
        return "answered"

    rng, rows, tenth = random.Random(0), [], max(1, requests // 10)
    with ThreadPoolExecutor(SOAKERS) as pool:
        for number in range(0, requests + 1, tenth):
            for outcome in pool.map(ask, rng.choices(kinds, k=tenth) if number else ()):
                outcomes[outcome] += 1
            time.sleep(REST)
            process = Path(f"/proc/{pid}")
            rows.append(
                Soaked(
                    number,
                    resident("RssAnon", pid) / 2**20,
                    len(list((process / "task").iterdir())),
                    len(list((process / "fd").iterdir())),
                    **outcomes,
                )
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="(default 1 4 16 64)")
    parser.add_argument("--images", type=int, default=256, help="(default %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="side, in pixels (default %(default)s)")
    parser.add_argument("--large", type=int, default=512, help="side, in pixels (default %(default)s)")
    parser.add_argument("--sigma", type=float, default=0.1, help="(default %(default)s)")
    parser.add_argument("--mode", default="hybrid", help="of the throughput (default %(default)s)")
    parser.add_argument("--soak", type=int, metavar="N", help="only soak, with N requests")
    parser.add_argument("--out", type=Path, help="folder for load.json")
    parser.add_argument("options", nargs="*", help="options of lemmse serve, after --")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with served(arguments.index, arguments.options) as (address, pid), connect(f"grpc://{address}") as client:
        channels = client.get_index("").channels
        if arguments.soak:
            found["soak"] = [asdict(row) for row in soak(client, pid, arguments.soak, channels)]
        else:
            found["throughput"] = [asdict(row) for row in loads(client, pid, arguments, channels)]
            found["beside a long request, ms"] = [asdict(beside(address, arguments, channels))]
            found["overhead, ms"] = [asdict(row) for row in overheads(client, arguments, channels)]
    for title, rows in found.items():
        print_rows(rows, title)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "load.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

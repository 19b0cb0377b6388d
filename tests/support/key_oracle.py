"""The posterior of single queries over the keys that an index holds, and how far float64 resolves it."""

from dataclasses import dataclass

import numpy as np

from lemmse.estimator.image_queries import cut_queries
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.observation import Observation
from tests.support.oracle import log_weights

UNITS = 64 * 2.0**-52
"""Error of the estimator in float64, in units of Σ λ |u| |v|, generously."""


@dataclass(frozen=True)
class Answer:
    mean: np.ndarray  # (C,)
    low: np.ndarray  # least and greatest target of the keys that may have weight in float64, (C,) each
    high: np.ndarray
    error: float  # largest error of log w in float64


class KeyOracle:
    """The keys and targets of an index, in float64."""

    def __init__(self, backend: LocalBackend) -> None:
        index, self.backend = backend.index, backend
        codes, quantization = index.packed_keys.rows(0, index.manifest.distinct), index.quantization
        self.v = quantization.low + quantization.step * codes.astype(float)
        targets = index.targets(0, index.manifest.keys).astype(float)
        first = index.key_patches[:-1]
        self.n, self.t = np.diff(index.key_patches), np.add.reduceat(targets, first)
        self.low, self.high = np.minimum.reduceat(targets, first), np.maximum.reduceat(targets, first)

    def answer(self, observation: Observation, n: int) -> Answer:
        """The posterior mean at position n, for all strata that count."""
        strata, answers, log_sums = self.backend.index.strata, [], []
        for stratum, u, precision, log_norm in self._queries(observation, n):
            some = slice(*self.backend.keys.strata[stratum : stratum + 2])
            if some.start == some.stop:
                continue
            log_w, first = log_weights(u, self.v[some], precision)
            w = self.n[some] * np.exp(log_w - log_w.max())
            share = np.exp(log_w - log_w.max())
            error = UNITS * float((precision * (1 + np.abs(u - self.v[some][0]))).sum())
            near = log_w >= log_w.max() - 40 - 2 * error
            answers.append(
                (
                    share @ self.t[some] / w.sum(),
                    self.low[some][near].min(axis=0),
                    self.high[some][near].max(axis=0),
                    error + 2.0**-50 * abs(first) * (not strata.exclusive and len(strata) > 1),
                )
            )
            log_sums.append(log_norm + first + log_w.max() + np.log(w.sum()))
        error = max(error for *_, error in answers)
        counts = np.array(log_sums) >= max(log_sums) - 40 - 2 * error
        share = np.exp(np.array(log_sums) - max(log_sums))
        level = self._level(observation, n)
        return Answer(
            mean=level + sum(s * answer[0] for s, answer in zip(share, answers, strict=True)) / share.sum(),
            low=level + np.min([answer[1] for answer, on in zip(answers, counts, strict=True) if on], axis=0),
            high=level
            + np.max([answer[2] for answer, on in zip(answers, counts, strict=True) if on], axis=0),
            error=error,
        )

    def _queries(self, observation, n):
        """Stratum, query, precision and log of the normalizing constant, for each stratum that counts."""
        strata, position = self.backend.index.strata, np.array([n])
        if not observation.is_white:
            u, precision = (
                self.backend.patches(image, position)[0] for image in (observation.y, observation.precision)
            )
            return [(0, np.where(precision > 0, u, 0), precision, 0.0)]
        queries = cut_queries(self.backend, observation).queries(position)
        numbers = queries.stratum.tolist() if strata.exclusive else range(len(strata))
        rows = []
        for number in numbers:
            rank, u = strata.rank[number], strata.whiten_precisely(queries.u.cpu().numpy(), number)[0]
            log_norm = 0.5 * (rank * np.log(queries.precision / (2 * np.pi)) - strata.log_pdet[number])
            rows.append((number, u, np.full(len(u), queries.precision * (rank > 0)), log_norm))
        return rows

    def _level(self, observation, n):
        strata = self.backend.index.strata
        if strata.constants is None:
            return 0.0
        u = cut_queries(self.backend, observation).queries(np.array([n])).u.cpu().numpy()
        return strata.levels(u, 0)[0]

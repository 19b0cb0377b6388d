"""The k heaviest of keys that are scored run by run, where each run may be scored for some queries only."""

import torch
from torch import Tensor

__all__ = ["Heaviest"]


class Heaviest:
    """The k keys with the largest log w among those added, for Q queries.

    Added keys wait until there is no room for more: then those that are not among the k heaviest are dropped.

    Parameters
    ----------
    queries, k : int
        Numbers of queries and of keys to keep.
    room : int
        Number of keys that can wait, at least that of the longest run.
    device : torch.device
        Device of the results.

    Examples
    --------
    >>> heaviest = Heaviest(2, k=2, room=3, device=torch.device("cpu"))
    >>> heaviest.add(torch.tensor([0, 1]), torch.tensor([[-1.0, -3.0, -2.0], [-9.0, -7.0, -8.0]]), first=0)
    >>> heaviest.add(torch.tensor([1]), torch.tensor([[-7.5, -9.5]]), first=3)
    >>> heaviest.sorted()[1].tolist()
    [[0, 2], [1, 3]]
    """

    def __init__(self, queries: int, *, k: int, room: int, device: torch.device) -> None:
        self._k = k
        self._log_w = torch.full((queries, k + room), -torch.inf, dtype=torch.float64, device=device)
        self._key = torch.full((queries, k + room), -1, device=device)
        self._used = torch.zeros(queries, dtype=torch.int64, device=device)

    def add(self, rows: Tensor, log_w: Tensor, first: int) -> None:
        """Add the keys first … first + m − 1, with log w (n, m), for the queries with these numbers, (n,)."""
        number = torch.arange(log_w.shape[1], device=log_w.device)
        if int(self._used[rows].max()) + len(number) > self._log_w.shape[1]:
            self._drop()
        place = self._used[rows, None] + number  # (n, m)
        self._log_w[rows[:, None], place] = log_w.double()
        self._key[rows[:, None], place] = first + number
        self._used[rows] += len(number)

    def sorted(self) -> tuple[Tensor, Tensor]:
        """Return log w in descending order, float64, and the numbers of the keys, (Q, k) each."""
        log_w, order = self._log_w.topk(self._k, dim=1)
        return log_w, self._key.gather(1, order)

    def _drop(self) -> None:
        log_w, order = self._log_w.topk(self._k, dim=1, sorted=False)
        self._key[:, : self._k] = self._key.gather(1, order)
        self._key[:, self._k :] = -1
        self._log_w[:, : self._k] = log_w
        self._log_w[:, self._k :] = -torch.inf
        self._used.fill_(self._k)

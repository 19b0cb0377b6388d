"""The refinement of a request: its prior and its aggregate, from its options and the calibrated quality."""

from dataclasses import fields, replace
from typing import Any

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.options import Options
from lemmse.index import Index
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["resolve_refinement", "splits"]


def resolve_refinement(index: Index, sigma: float, options: Options, *, once: bool = False) -> Refinement:
    """Return the prior and the aggregate: from the options if given, otherwise from the requested quality.

    Parameters
    ----------
    index : Index
        The index.
    sigma : float
        Root mean square of the standard deviation of the noise.
    options : Options
        The options.
    once : bool
        Whether the answer is to be made of the posterior means of y, as it is if there are maps: then
        "overlap" takes the place of a calibrated "epll".

    Raises
    ------
    InvalidArgument
        Quality "best" is requested and the index was not calibrated, or the aggregate "epll" where the answer
        is to be made of the posterior means of y.
    """
    once = once or bool(options.maps)
    if once and options.aggregate == "epll":
        raise InvalidArgument.of(
            "aggregate", "expected centre or overlap for maps, certified errors and derivatives, got epll"
        )
    base = _of_quality(index, sigma, options)
    if base is None:
        raise InvalidArgument.of(
            "quality", f"expected paper, since index {index.name!r} was not calibrated; calibrate it"
        )
    return _refined(base, options, once)


def splits(index: Index, sigma: float, options: Options) -> bool:
    """Return whether a request that can be answered is answered with the aggregate "epll"."""
    base = _of_quality(index, sigma, options) or PAPER
    return _refined(base, options, bool(options.maps)).aggregate == "epll"


def _of_quality(index: Index, sigma: float, options: Options) -> Refinement | None:
    """Return the refinement that the options change: None if it is the best, and that was not measured."""
    if (
        options.quality != "best"
        or options.estimator != "le-mmse"
        or len(_given(options)) == len(fields(PAPER))
    ):
        return PAPER
    if not index.problem.denoises:
        return PAPER  # such an index allows no other
    pictures = index.manifest.pictures
    return None if pictures is None else pictures.best(sigma)


def _refined(base: Refinement, options: Options, once: bool) -> Refinement:
    """Return a refinement with what the options state; `once` is that of `resolve_refinement`."""
    found = replace(base, **_given(options))
    return replace(found, aggregate="overlap") if once and found.aggregate == "epll" else found


def _given(options: Options) -> dict[str, Any]:
    """Return the parts of a refinement that the options state."""
    values = {field.name: getattr(options, field.name) for field in fields(PAPER)}
    return {name: value for name, value in values.items() if value is not None}

"""What one request may ask for on this server. Beyond it, a request is invalid: it can never be served."""

from itertools import accumulate
from math import prod
from typing import Any

from lemmse.contract.chunks import Incoming
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.options import Options
from lemmse.contract.results import result_bytes
from lemmse.server.config import ServerConfig
from lemmse.v1 import reconstruction_pb2 as pb

__all__ = ["admissible_bytes", "require_fitting", "require_pixels", "require_possible"]

_FRAME = 8
"""Largest size of what surrounds a contributor in an answer, in bytes."""


def admissible_bytes(incoming: Incoming[Any], options: Options | None, config: ServerConfig) -> int:
    """Return the bytes of the tensors of a request and of its answer.

    Parameters
    ----------
    incoming : Incoming
        The request, whose tensors may still be arriving.
    options : Options or None
        Its options; None if it is not for a reconstruction.
    config : ServerConfig
        The settings.

    Raises
    ------
    InvalidArgument
        An option is above its limit, or the image is too large.
    """
    if options is not None:
        for name in ("k", "nprobe"):
            value, most = getattr(options, name), getattr(config, f"max_{name}")
            if value is not None and value > most:
                raise InvalidArgument.of(name, f"expected at most {most} on this server, got {value}")
    elif isinstance(incoming.message, pb.ExplainRequest) and incoming.message.top > config.max_contributors:
        raise InvalidArgument.of(
            "top", f"expected at most {config.max_contributors} on this server, got {incoming.message.top}"
        )
    if (excluded := len(getattr(incoming.message, "exclude", ()))) > config.max_exclude:
        raise InvalidArgument.of(
            "exclude", f"expected at most {config.max_exclude} names on this server, got {excluded}"
        )
    shape = tuple(incoming.message.y.shape)
    require_pixels(prod(shape[:2] if len(shape) < 4 else shape[:3]), config)
    nbytes = incoming.nbytes + (0 if options is None else result_bytes(shape, options.maps))
    if nbytes > config.max_bytes:
        raise InvalidArgument.of(
            "y",
            f"expected at most {config.max_bytes} bytes with the maps and the answer on this server, got "
            f"{nbytes}; cut it into tiles",
        )
    return nbytes


def require_pixels(pixels: int, config: ServerConfig) -> None:
    """Raise InvalidArgument if an image or a volume has too many pixels."""
    if pixels > config.max_pixels:
        raise InvalidArgument.of(
            "y",
            f"expected at most {config.max_pixels} pixels on this server, got {pixels}; cut it into tiles",
        )


def require_possible(work: float, config: ServerConfig) -> None:
    """Raise InvalidArgument if a request is too much work, in multiply-adds."""
    if work > config.max_work:
        raise InvalidArgument.of(
            "y",
            f"expected a request of at most {config.max_work:.3g} multiply-adds on this server, got about "
            f"{work:.3g}; ask for fewer pixels, or for a reconstruction in mode hybrid",
        )


def require_fitting(response: pb.ExplainResponse) -> None:
    """Raise InvalidArgument if an explanation does not fit into a message."""
    if response.ByteSize() <= INLINE_BYTES:
        return
    sizes = accumulate(one.ByteSize() + _FRAME for one in response.contributors)
    room = INLINE_BYTES - response.diagnostics.ByteSize()
    fitting = sum(size <= room for size in sizes)
    raise InvalidArgument.of(
        "top",
        f"expected at most {fitting} for this pixel, whose contributors have long names or large crops, got "
        f"{len(response.contributors)}: an answer has at most {INLINE_BYTES} bytes",
    )

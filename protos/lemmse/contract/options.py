"""The table of the options of a reconstruction.

Each option is one row: a field of `Options` with its default, its kind (which checks a value and words the
error), its unit, its message field and one line of help. The checks of keywords, the message fields and the
command-line flags with their help come from these rows. The public signatures repeat names and defaults;
`tests/contract/test_options.py` compares them with the table.
"""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self

from lemmse.contract.choices import AGGREGATES, ERRORS, ESTIMATORS, MAPS, MODES, QUALITIES, Choice
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import MAX_CONTRIBUTORS

__all__ = [
    "OPTIONS",
    "PRIOR_OPTIONS",
    "Count",
    "ExplainOptions",
    "ImageNames",
    "Kind",
    "Names",
    "Number",
    "OneOf",
    "Option",
    "Options",
]

_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1


class Kind(Protocol):
    """The kind of value that an option has."""

    def check(self, argument: str, value: Any) -> Any:
        """Return the value of an argument, converted to the type of the option.

        Raises
        ------
        InvalidArgument
            The value is not of this kind.
        """
        ...


@dataclass(frozen=True, slots=True)
class OneOf:
    """One name of an enumeration."""

    choice: Choice
    """The names."""

    def check(self, argument: str, value: Any) -> str:
        """Return the validated name."""
        if value not in self.choice:
            raise InvalidArgument.of(argument, f"expected one of {self.choice}, got {value!r}")
        return str(value)


@dataclass(frozen=True, slots=True)
class Names:
    """A set of names of an enumeration, possibly empty."""

    choice: Choice
    """The names."""

    def check(self, argument: str, value: Any) -> frozenset[str]:
        """Return the validated names."""
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise InvalidArgument.of(argument, f"expected a collection of names, got {value!r}")
        names = list(value)
        for name in names:
            if name not in self.choice:
                raise InvalidArgument.of(argument, f"expected names out of {self.choice}, got {name!r}")
        return frozenset(names)


@dataclass(frozen=True, slots=True)
class ImageNames:
    """A set of training images, possibly empty: each by its number >= 0, or by the name of its source."""

    def check(self, argument: str, value: Any) -> tuple[str, ...]:
        """Return the names in order; a number is the name of its decimal digits."""
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise InvalidArgument.of(
                argument, f"expected a collection of names and numbers of images, got {value!r}"
            )
        return tuple(sorted({self._name(argument, one) for one in value}))

    @staticmethod
    def _name(argument: str, value: Any) -> str:
        wrong = InvalidArgument.of(
            argument, f"expected the name or the number (>= 0) of a training image, got {str(value)[:100]!r}"
        )
        if isinstance(value, str):
            if not value or any("\ud800" <= letter <= "\udfff" for letter in value):
                raise wrong  # a message holds no surrogates
            is_number = value.isascii() and value.isdecimal()
            return value.lstrip("0") or "0" if is_number else value
        try:
            number = -1 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            raise wrong from None
        if not 0 <= number <= _UINT64:
            raise wrong
        return str(number)


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number, >= 1 unless another bound is given."""

    most: float
    """Largest value."""
    least: int = 1
    """Least value."""

    def check(self, argument: str, value: Any) -> int:
        """Return the number."""
        try:
            count = operator.index(value)
        except TypeError as error:
            expected = f"expected a whole number >= {self.least}"
            raise InvalidArgument.of(argument, f"{expected}, got {value!r}") from error
        if not self.least <= count <= self.most:
            bound = f">= {self.least}" if count < self.least else f"<= {self.most}"
            raise InvalidArgument.of(argument, f"expected a whole number {bound}, got {count}")
        return count


@dataclass(frozen=True, slots=True)
class Number:
    """A number in an interval."""

    low: float
    """Lower end."""
    high: float
    """Upper end, inclusive."""
    open: bool = False
    """Whether the lower end is exclusive."""
    unit: str = ""
    """Unit, for error messages."""

    def check(self, argument: str, value: Any) -> float:
        """Return the number."""
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            of_unit = f" of {self.unit}" if self.unit else ""
            raise InvalidArgument.of(argument, f"expected a number{of_unit}, got {value!r}") from error
        if math.isnan(number) or not self.low <= number <= self.high or (self.open and number == self.low):
            interval = f"{'(' if self.open else '['}{self.low:g}, {self.high:g}]"
            what = self.unit or "a number"
            raise InvalidArgument.of(argument, f"expected {what} in {interval}, got {number:g}")
        return number


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the table."""

    name: str
    """Name of the keyword, of the attribute of `Options` and, with hyphens, of the command-line flag."""
    default: Any
    """Default value; None leaves the choice to the index or the server."""
    kind: Kind
    """Kind of its values."""
    path: str
    """Path of its field in `lemmse.v1.ReconstructRequest`."""
    metavar: str | None
    """Placeholder of the value in the help of the command; None if the kind implies it."""
    help: str
    """Help text, one line."""


def _row(kind: Kind, *, help: str, path: str | None = None, metavar: str | None = None) -> dict[str, Any]:
    """Return the row of an option as metadata of its field; the path defaults to the name of the option."""
    return {"kind": kind, "path": path, "metavar": metavar, "help": help}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a reconstruction, validated when they are created.

    Raises
    ------
    InvalidArgument
        A value is invalid for its option, or two options exclude each other.

    Examples
    --------
    >>> options = Options(mode="hybrid", accuracy_db=60, maps=["ess"])
    >>> options.accuracy_db, options.maps, options.quality
    (60.0, frozenset({'ess'}), 'paper')
    >>> Options(gaussian_share=2)
    Traceback (most recent call last):
    ...
    lemmse.contract.errors.InvalidArgument: gaussian_share: expected a number in [0, 1], got 2
    """

    estimator: str = field(
        default="le-mmse",
        metadata=_row(
            OneOf(ESTIMATORS),
            help="Weights on patches (le-mmse), translated images (e-mmse) or images (mmse).",
        ),
    )
    mode: str = field(
        default="auto",
        metadata=_row(
            OneOf(MODES),
            help="Sum all keys (exact), the k nearest (topk), or as many as the accuracy takes (hybrid); "
            "auto chooses by cost.",
        ),
    )
    k: int | None = field(
        default=None,
        metadata=_row(
            Count(_UINT32),
            path="topk.k",
            help="Neighbours to sum in mode topk, which is exact from a tenth of the keys.  [default: 1000]",
        ),
    )
    nprobe: int | None = field(
        default=None,
        metadata=_row(
            Count(_UINT32),
            path="topk.nprobe",
            help="Cells to search in mode topk.  [default: 32]",
        ),
    )
    accuracy_db: float | None = field(
        default=None,
        metadata=_row(
            Number(0, 120, open=True, unit="dB"),
            path="hybrid.accuracy_db",
            metavar="DB",
            help="Agreement with mode exact that modes hybrid and auto aim at, PSNR in dB.  [default: 50]",
        ),
    )
    budget: int | None = field(
        default=None,
        metadata=_row(
            Count(_UINT64),
            path="hybrid.budget",
            help="Keys to sum at most for a patch in mode hybrid.  [default: no limit]",
        ),
    )
    maps: frozenset[str] = field(
        default=frozenset(),
        metadata=_row(
            Names(MAPS),
            metavar="NAMES",
            help=f"Maps to write beside the image: {','.join(MAPS)}.",
        ),
    )
    error: str = field(
        default="estimated",
        metadata=_row(
            OneOf(ERRORS),
            help="Map error: bounds the difference from mode exact for 95 % of pixels, or for all.",
        ),
    )
    quality: str = field(
        default="paper",
        metadata=_row(
            OneOf(QUALITIES),
            help="The unmodified formula, or the options that calibration found best at this noise; of "
            "several indexes, the best one for each image.",
        ),
    )
    aggregate: str | None = field(
        default=None,
        metadata=_row(
            OneOf(AGGREGATES),
            help="Estimate of a pixel: from the patch centred at it; the mean of the estimates from all "
            "patches that contain it; or of the image whose patches are likely (more work, no maps).",
        ),
    )
    bandwidth: float | None = field(
        default=None,
        metadata=_row(
            Number(0, 1e6),
            metavar="T",
            help="Standard deviation of a Gaussian around each patch of the prior, where white is 1.",
        ),
    )
    gaussian_share: float | None = field(
        default=None,
        metadata=_row(
            Number(0, 1),
            metavar="G",
            help="Share of the prior that a mixture of Gaussians has beside the training patches.",
        ),
    )
    exclude: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            ImageNames(),
            metavar="NAME",
            help="Training image to leave out, by the name of its source or its number; may be repeated.",
        ),
    )

    def __post_init__(self) -> None:
        for option in OPTIONS:
            value = getattr(self, option.name)
            if value is not None or option.default is not None:
                object.__setattr__(self, option.name, option.kind.check(option.name, value))
        if self.mode == "topk" and "error" in self.maps:
            raise InvalidArgument.of("maps", "expected other maps than error for mode topk, which has none")

    @property
    def certified(self) -> bool:
        """Whether a certified error map is requested."""
        return "error" in self.maps and self.error == "certified"

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the options contained in the arguments of a call, for example in its `locals()`."""
        return cls(**{option.name: arguments[option.name] for option in OPTIONS if option.name in arguments})


OPTIONS = tuple(
    Option(
        name=row.name,
        default=row.default,
        kind=row.metadata["kind"],
        path=row.metadata["path"] or row.name,
        metavar=row.metadata["metavar"],
        help=row.metadata["help"],
    )
    for row in fields(Options)
)
"""The table of options."""


PRIOR_OPTIONS = tuple(
    option
    for option in OPTIONS
    if option.name in ("quality", "aggregate", "bandwidth", "gaussian_share", "exclude")
)
"""Those that say what is computed by LE-MMSE, not how: the options of a derivative."""

_PIXEL = "expected (row, column), or (plane, row, column) in a volume"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """The options of an explanation."""

    pixel: tuple[int, ...]
    """Row and column of the pixel in the image, or plane, row and column in the volume, each >= 0."""
    top: int
    """Number of contributors to return, >= 1."""
    context: int | None = None
    """Pixels around the patch of each contributor that its crop shows on each side; None for no crops."""
    exclude: tuple[str, ...] = ()
    """Training images to leave out, as in `Options`."""

    @classmethod
    def checked(
        cls,
        shape: tuple[int, ...],
        *,
        pixel: Any,
        top: Any,
        context: Any = None,
        exclude: Any = (),
        most: float = MAX_CONTRIBUTORS,
    ) -> Self:
        """Return validated options for an image (H, W, …) or a volume (D, H, W, …).

        There are at most `most` contributors.

        Raises
        ------
        InvalidArgument
            The pixel is not in the image, the number of contributors is out of range, or `exclude` does not
            consist of names and numbers.
        """
        try:
            place = tuple(operator.index(x) for x in pixel)
        except TypeError as error:
            raise InvalidArgument.of("pixel", f"{_PIXEL}, got {pixel!r}") from error
        if len(place) not in (2, 3) or len(place) > len(shape):
            raise InvalidArgument.of("pixel", f"{_PIXEL}, got {pixel!r}")
        if not all(0 <= x < length for x, length in zip(place, shape, strict=False)):
            raise InvalidArgument.of(
                "pixel", f"expected numbers >= 0 and below {shape[: len(place)]}, got {place}"
            )
        return cls(
            pixel=place,
            top=Count(most).check("top", top),
            context=None if context is None else Count(_UINT32, least=0).check("context", context),
            exclude=ImageNames().check("exclude", exclude),
        )

    def require_axes(self, count: int) -> None:
        """Raise InvalidArgument unless the pixel has so many numbers: 2 in an image, 3 in a volume."""
        if len(self.pixel) != count:
            place = "(row, column)" if count == 2 else "(plane, row, column) in a volume"
            raise InvalidArgument.of("pixel", f"expected {place}, got {self.pixel}")

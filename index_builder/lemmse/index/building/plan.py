"""The plan of a build. Equal plans and equal images give equal indexes."""

import json
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path

from lemmse.contract.errors import InvalidArgument, UnsupportedFormat
from lemmse.index.storage.durable import write_atomically
from lemmse.index.storage.manifest import FORMAT

__all__ = ["BuildPlan"]

_FILE = "plan.json"
_NAMES = ("base_sources", "remove", "sources")
"""Fields that are tuples of names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """The arguments of a build, and all else on which the index depends."""

    remove: tuple[str, ...] = ()
    """Names of the images of the version to update that are left out."""
    refit: bool = True
    """Whether cells, PCA basis and Gaussians are fitted, or those of the version to update are taken."""
    base_sources: tuple[str, ...] = ()
    """Sources of the images of the version to update."""
    base_version: str | None = None
    """The version to update; None for a new index."""
    sources: tuple[str, ...]
    """Sources of the images to read."""
    patch_size: int
    patch_depth: int
    physics: str
    pre_inverse: str
    noise: str | None
    """Name of the spectrum of the noise; None if it is white."""
    boundary: str
    equivariance: str
    augment: str
    stride: int
    axes: str | None
    range: tuple[float, float] | None
    roi: str | None
    limit: int | None
    seed: int
    memory: int
    """Memory limit of each process of the build, in bytes."""
    version: str = ""
    """Version to build; it is chosen when the build begins."""
    format: int = FORMAT
    lemmse: str = metadata.version("lemmse")

    def write(self, folder: Path) -> None:
        """Write the plan to the folder of a build."""
        write_atomically(folder / _FILE, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> "BuildPlan | None":
        """Read the plan from the folder of a build; return None if there is none.

        Raises
        ------
        UnsupportedFormat
            The plan was written by another version of lemmse.
        """
        try:
            content = json.loads((folder / _FILE).read_text())
        except FileNotFoundError:
            return None
        if content.keys() != {field.name for field in fields(cls)}:
            raise UnsupportedFormat(
                f"expected an unfinished build of format {FORMAT} in {folder}, got one of format "
                f"{content.get('format')} by lemmse {content.get('lemmse')}; remove that folder to begin anew"
            )
        content |= {name: tuple(content[name]) for name in _NAMES}
        content["range"] = None if content["range"] is None else tuple(content["range"])
        return cls(**content)

    def require_same(self, unfinished: "BuildPlan", folder: Path) -> None:
        """Raise InvalidArgument unless an unfinished build has the same plan.

        Raises
        ------
        InvalidArgument
            An argument differs from that of the unfinished build.
        """
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(unfinished, field.name)
            if ours != theirs:
                ours, theirs = (
                    " ".join(map(str, x)) or "none" if isinstance(x, tuple) else x for x in (ours, theirs)
                )
                raise InvalidArgument.of(
                    field.name.replace("_", "-"),
                    f"expected {theirs} to go on with the unfinished build in {folder}, got {ours}; "
                    "remove that folder to begin anew",
                )

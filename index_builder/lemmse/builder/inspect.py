"""The command `lemmse inspect`."""

from pathlib import Path

import click

from lemmse.builder.tables import describe, list_images
from lemmse.builder.zarr_errors import silence_zarr
from lemmse.client.progress import report_progress
from lemmse.index.reading import open_index, open_unverified, verify

__all__ = ["inspect"]


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.option(
    "--verify",
    "verified",
    is_flag=True,
    help="Read everything: check the SHA-256 of every file, decode every chunk, compare the FAISS indexes.",
)
@click.option("--images", "lists", is_flag=True, help="List the training images instead.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Describe the index in JSON, or each image in a line, and report the progress of --verify on stderr "
    "in lines of JSON.",
)
def inspect(index: Path, verified: bool, lists: bool, as_json: bool) -> None:
    """Describe an index.

    The checksum of the manifest is verified, and every file must exist and have its length.
    """
    silence_zarr()
    if verified:
        with report_progress(as_json=as_json, unit="bytes") as progress:
            opened = open_index(index, progress)
            verify(opened, progress)
    else:
        opened = open_unverified(index)
    if lists:
        list_images(opened, as_json)
    else:
        describe(opened, as_json, verified=verified)

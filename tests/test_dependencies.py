"""The bounds of pyproject.toml: what is installed and what is pinned keeps to them."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.extending import register_jitable
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lemmse.estimator.hybrid import simd

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*extras: str) -> dict[str, Requirement]:
    """The requirements of an installation with these extras, by name, without our own."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    found = {canonicalize_name(parsed.name): parsed for parsed in map(Requirement, lines)}
    return {name: parsed for name, parsed in found.items() if name != "lemmse"}


@pytest.mark.parametrize("name", requirements("server", "demo", "dask", "dev"))
def test_what_is_installed_keeps_to_the_bounds(name):
    specifier = requirements("server", "demo", "dask", "dev")[name].specifier
    assert specifier.contains(version(name)), f"{name} {version(name)} is installed, expected {specifier}"


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        ("constraints.txt", [extra for extra in EXTRAS if extra not in ("deepinv", "napari")]),
        ("constraints-integrations.txt", ["server", "deepinv", "napari"]),
    ],
)
def test_pinned_versions_keep_to_the_bounds(file, extras):
    lines = [line for line in (ROOT / file).read_text().splitlines() if "==" in line]
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines)}
    for name, parsed in requirements(*extras).items():
        assert name in pins, f"{file} has no pin of {name}"
        assert parsed.specifier.contains(pins[name]), f"{name} {pins[name]}: expected {parsed.specifier}"


def test_numba_is_bounded_above():
    """The compiled loops use an option and a builder of instructions that numba does not document."""
    operators = {bound.operator for bound in requirements("server")["numba"].specifier}
    assert operators == {">=", "<"}


def test_the_parts_of_numba_that_it_does_not_document():
    @register_jitable(_nrt=False, forceinline=True)
    def dot(a, b):
        return simd.dot(a, 0, b, 0)

    @numba.njit
    def product(a, b):
        return dot(a, b)

    a = np.arange(simd.LANES, dtype=np.float32)
    assert product(a, a) == (a * a).sum()

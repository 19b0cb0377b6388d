"""Explanations that do not fit into a message."""

import pytest

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import MESSAGE_BYTES
from lemmse.server.limits import require_fitting
from lemmse.v1.reconstruction_pb2 import Contributor, Diagnostics, ExplainResponse


def explanation(contributors, name):
    one = Contributor(image=3, source=name, row=7, column=9, weight=0.25, value=[0.5], symmetry="identity")
    return ExplainResponse(contributors=[one] * contributors, diagnostics=Diagnostics(index="photos"))


@pytest.mark.parametrize("length", [1000, 1200, 4000, 60_000])
def test_says_how_many_fit(length):
    """Names of files count: a folder in a folder may have a long one."""
    with pytest.raises(InvalidArgument) as refused:
        require_fitting(explanation(4096, "x" * length))
    assert refused.value.argument == "top"
    most = int(refused.value.expected.split("at most ")[1].split()[0])
    fits = explanation(most, "x" * length)
    require_fitting(fits)
    assert 0.95 * MESSAGE_BYTES - length < fits.ByteSize() < MESSAGE_BYTES


def test_short_names_fit():
    require_fitting(explanation(4096, "photos/0001.png"))

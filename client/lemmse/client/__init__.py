"""The client: `connect` to a server or to an index folder, and reconstruct.

Importing this package imports neither the estimator nor its dependencies.
"""

from lemmse.client.connecting import connect
from lemmse.client.interface import Client
from lemmse.contract.errors import LemmseError
from lemmse.contract.results import Contributor, Diagnostics, IndexInfo, NoiseEstimate, Result

__all__ = [
    "Client",
    "Contributor",
    "Diagnostics",
    "IndexInfo",
    "LemmseError",
    "NoiseEstimate",
    "Result",
    "connect",
]

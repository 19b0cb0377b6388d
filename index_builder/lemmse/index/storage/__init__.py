"""The files of an index: folder and versions, manifest, Zarr arrays, shards, FAISS inverted lists."""

from lemmse.index.storage.calibration_record import Calibration, OperatingPoint
from lemmse.index.storage.manifest import FORMAT, FileEntry, Manifest, checksum
from lemmse.index.storage.packing import LANES, Packed
from lemmse.index.storage.picture_record import PAPER, Pictures, Refinement
from lemmse.index.storage.quantization import Quantization, quantizations

__all__ = [
    "FORMAT",
    "LANES",
    "PAPER",
    "Calibration",
    "FileEntry",
    "Manifest",
    "OperatingPoint",
    "Packed",
    "Pictures",
    "Quantization",
    "Refinement",
    "checksum",
    "quantizations",
]

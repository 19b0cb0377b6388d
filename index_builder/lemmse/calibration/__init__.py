"""Calibration of an index on held-out images: accuracy and cost of mode hybrid, and best refinements."""

from lemmse.calibration.held_out import HeldOut, hold_out
from lemmse.calibration.hybrid import SIGMAS, THRESHOLDS, calibrate
from lemmse.calibration.pictures import PICTURE_SIGMAS, measure_pictures
from lemmse.calibration.store import calibrate_index

__all__ = [
    "PICTURE_SIGMAS",
    "SIGMAS",
    "THRESHOLDS",
    "HeldOut",
    "calibrate",
    "calibrate_index",
    "hold_out",
    "measure_pictures",
]

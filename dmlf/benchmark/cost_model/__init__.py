"""Alpha, beta and gamma of a transport, fitted from collectives, and how well they predict."""

from dmlf.benchmark.cost_model.collectives import samples_of
from dmlf.benchmark.cost_model.fit import Calibration, choose_knee, fit
from dmlf.benchmark.cost_model.held_out import Errors, errors
from dmlf.benchmark.cost_model.samples import Coefficients, CollectiveSample, coefficients

__all__ = [
    "Calibration",
    "Coefficients",
    "CollectiveSample",
    "Errors",
    "choose_knee",
    "coefficients",
    "errors",
    "fit",
    "samples_of",
]

"""Curvature of a loss: which parameters, which loss, Hessian and Gauss-Newton products, checks."""

from spectra.curvature.checks import (
    Checks,
    check_determinism,
    check_difference,
    check_symmetry,
    measure_product_error,
    reference_product,
    run_checks,
)
from spectra.curvature.fake_quantized import FakeQuantized, fake_quantized
from spectra.curvature.family import Curvature
from spectra.curvature.ggn import GGNOperator, ggn
from spectra.curvature.hessian import HessianOperator, hessian
from spectra.curvature.operator import CurvatureOperator
from spectra.curvature.params import Selection, select_parameters
from spectra.curvature.structural import LayerZeros, StructuralZeros, structural_zeros
from spectra.curvature.surface import Surface

__all__ = [
    "Checks",
    "Curvature",
    "CurvatureOperator",
    "FakeQuantized",
    "GGNOperator",
    "HessianOperator",
    "LayerZeros",
    "Selection",
    "StructuralZeros",
    "Surface",
    "check_determinism",
    "check_difference",
    "check_symmetry",
    "fake_quantized",
    "ggn",
    "hessian",
    "measure_product_error",
    "reference_product",
    "run_checks",
    "select_parameters",
    "structural_zeros",
]

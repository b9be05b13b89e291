"""Quantization-aware linear layers: grids with straight-through estimators, noise, resets."""

from spectra.quant.activations import quantize_activations
from spectra.quant.layer import QuantLinear
from spectra.quant.model import (
    QuantizedWeight,
    advance_histories,
    amax_histories,
    bypassed,
    quantized_state,
    reset_,
    set_noise,
)
from spectra.quant.noise import Noise, NoiseState
from spectra.quant.quantizer import Quantizer
from spectra.quant.registry import get_quantizer, parse_options, quantizer_names, register
from spectra.quant.saved import SavedQuantization, read_saved
from spectra.quant.spec import QuantSpec, spec
from spectra.quant.swap import convert, prepare, quant_layers

__all__ = [
    "Noise",
    "NoiseState",
    "QuantLinear",
    "QuantSpec",
    "QuantizedWeight",
    "Quantizer",
    "SavedQuantization",
    "advance_histories",
    "amax_histories",
    "bypassed",
    "convert",
    "get_quantizer",
    "parse_options",
    "prepare",
    "quant_layers",
    "quantize_activations",
    "quantized_state",
    "quantizer_names",
    "read_saved",
    "register",
    "reset_",
    "set_noise",
    "spec",
]

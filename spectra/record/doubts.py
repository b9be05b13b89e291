"""What a record's own numbers give reason to doubt: each is named, and stays with the record.

breakdown           β_m ≤ 4 ε₆₄ max(α, β): the Krylov space of a probe is exhausted before its
steps are. Its quadrature is exact; more steps would say no more.
lost orthogonality  max |QᵀQ − I| above √ε of the vectors (ε of what the basis is stored in,
where that is coarser). Converged eigenvalues come back as ghosts.
asymmetry           ε_sym (spectra.curvature.checks) above what the error δ of products alone
makes of it, δ/√(tr H²/n), and above 100 ε: the matrix itself is not
symmetric. In float32 it lies at 0.01 to 0.05 of that floor [measured on
quantized and float models of 0.2M to 1M parameters].
other data          the records of one series were made with different text
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spectra.record.spectrum import Spectrum, probe_dim

BREAKDOWN, ORTHOGONALITY, ASYMMETRY = "breakdown", "lost orthogonality", "asymmetry"
DATA = "other data"
UNMEASURED = "the product error was not measured"
HEADS = (BREAKDOWN, ORTHOGONALITY, ASYMMETRY, DATA, UNMEASURED)
BROKEN = 4 * float(np.finfo(np.float64).eps)
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
ROUNDING_UNITS = 100.0


def doubts(spectrum: Spectrum) -> list[str]:
    """Return what a record gives reason to doubt, a sentence each that begins with one of `HEADS`.

    Args:
        spectrum: A record with at least one finished probe.
    """
    if spectrum.exact:
        return []
    found = (_breakdown(spectrum), _orthogonality(spectrum), _asymmetry(spectrum))
    return [words for words in found if words]


def heads(warnings: list[Any]) -> list[str]:
    """Return the names of the doubts among a record's warnings."""
    return [head for head in HEADS if any(str(w).startswith(head) for w in warnings)]


def _breakdown(spectrum: Spectrum) -> str:
    ended = []
    for b, p in np.argwhere(spectrum.steps > 0):
        m = int(spectrum.steps[b, p])
        alphas, betas = spectrum.alphas[b, p, :m], spectrum.betas[b, p, :m]
        largest = max(float(np.abs(alphas).max()), float(betas.max()))
        if betas[-1] <= BROKEN * largest and m < probe_dim(spectrum.metadata):
            ended.append(m)
    if not ended:
        return ""
    return (
        f"{BREAKDOWN}: {len(ended)} of {spectrum.finished} runs ended by themselves, the first "
        f"after {min(ended)} steps: the Krylov space of the probe is exhausted, its quadrature is "
        "exact, and more steps would say no more"
    )


def _orthogonality(spectrum: Spectrum) -> str:
    loss = spectrum.metadata.get("checks", {}).get("orthogonality_loss")
    estimator = spectrum.metadata.get("estimator", {})
    work, stored = (EPS.get(str(estimator.get(n))) for n in ("vector_dtype", "basis_dtype"))
    if loss is None or work is None or stored is None:
        return ""
    allowed = max(work**0.5, stored)
    if loss <= allowed:
        return ""
    return (
        f"{ORTHOGONALITY}: max |QᵀQ − I| is {loss:.2g}, at most {allowed:.2g} is rounding: "
        "converged eigenvalues may appear several times; bounds stay valid, counts do not"
    )


def _asymmetry(spectrum: Spectrum) -> str:
    checks = spectrum.metadata.get("checks", {})
    error, delta = checks.get("symmetry_error"), checks.get("product_error")
    eps = EPS.get(str(spectrum.metadata.get("estimator", {}).get("dtype")))
    if error is None or delta is None or eps is None:
        return ""
    ran = spectrum.steps > 0
    squares = spectrum.alphas[ran, 0] ** 2 + spectrum.betas[ran, 0] ** 2
    rms = float(np.sqrt(squares.mean()))
    floor = max(delta / rms if rms > 0 else np.inf, ROUNDING_UNITS * eps)
    if error <= floor:
        return ""
    return (
        f"{ASYMMETRY}: relative {error:.2g}, above the noise floor {floor:.2g} of the products: "
        "the matrix is not quite symmetric, and the eigenvalues are those of its symmetric part "
        f"to within about {error * rms:.2g}"
    )

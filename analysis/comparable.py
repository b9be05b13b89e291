"""Which two records may be subtracted, and what must be said when they are.

A difference is a statement about one change, that of the weights. So everything else that decides
what is measured has to be the same: data, parameters, surface, average, kind of curvature. How
well it was measured (probes, seed, steps, precision) may differ, since the interval of each record
already answers for that; where a checkpoint was evaluated may differ, as that is a question one
may ask. Both are told.

*Structural zeros* depend on the number of tokens, not on the weights. A clip mask covers some of
them: a record with the share s of structural zeros beside masked coordinates, f, had between s and
s + f before masking. Two records whose ranges do not meet are not of the same tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.labels import is_reference, known, point_label, section
from spectra.errors import UsageError
from spectra.record.spectrum import Spectrum

STRUCTURAL_ROUNDING = 5e-4  # a rank may differ by one here and there; shares are shown to 0.1 %
CURES = {
    "data.sha256": "estimate both on the same data, seq_len, batch_size and num_batches",
    "tokens": "estimate both on the same batches",
    "surface": "estimate both with the same --surface",
    "reduce": "estimate both with the same --reduce",
    "params": "estimate both with the same --params",
    "dim": "estimate both with the same --params, of checkpoints of one architecture",
    "curvature": "estimate both with the same --curvature",
}
NOTED = ("seed", "num_probes", "lanczos_steps", "dtype", "vector_dtype", "basis", "basis_dtype")


def check_comparable(a: Spectrum, b: Spectrum) -> list[str]:
    """Return notes on what differs and may.

    Raises:
        UsageError: If the two cannot be subtracted; says which key differs, and the cure.
    """
    for name, one in (("A", a), ("B", b)):
        _check_alone(name, one)
    first, second = _identity(a), _identity(b)
    for key, value in first.items():
        if value != second[key]:
            raise UsageError(
                f"{key} differs{_shown(value, second[key])}: a difference would not be one of the "
                f"weights; {CURES[key]}."
            )
    return _structural(a.metadata, b.metadata) + _notes(a, b)


def setting_of(one: Spectrum) -> dict[str, str]:
    """Return, in words, what records that are to be subtracted have in common, bits apart."""
    meta, identity = one.metadata, _identity(one)
    checkpoint, data = section(meta, "checkpoint"), section(meta, "data")
    names = identity["params"]
    params = section(meta, "params").get("select")
    digest = hashlib.sha256(repr(names).encode()).hexdigest()[:6]
    a_bits = checkpoint.get("a_bits")
    batches = len(identity["tokens"])
    words = "1 batch" if batches == 1 else f"{batches} batches"
    count = f"{sum(identity['tokens']):,} tokens in {words}"
    text = f"{data.get('source')}, seq_len {data.get('seq_len')}, {count}"
    return {
        "quantizer": str(checkpoint.get("quantizer")),
        "a_bits": f"{float(a_bits):g}" if known(a_bits) else "16",
        "params": f"{params} ({identity['dim']} of them, {digest})",
        "reduce": str(identity["reduce"]),
        "curvature": str(identity["curvature"]),
        "data": f"{text} ({str(identity['data.sha256'])[:6]})",
    }


def _check_alone(name: str, one: Spectrum) -> None:
    estimator = section(one.metadata, "estimator")
    if is_reference(one.metadata):
        raise UsageError(
            f"protocol of {name} is 'winq', the reference procedure, whose numbers have no error "
            "to compare with; estimate without --protocol."
        )
    if estimator.get("probe_kind", "sphere") != "sphere":
        raise UsageError(
            f"probe_kind of {name} is {estimator['probe_kind']!r}, which serves traces only; "
            "estimate with probe_kind='sphere'."
        )
    if not one.finished:
        raise UsageError(f"{name} has no finished probe; go on with it: spectra estimate --resume.")


def _identity(one: Spectrum) -> dict[str, Any]:
    """Return what must be equal, the most telling first."""
    meta = one.metadata
    params = meta.get("params")
    return {
        "surface": meta.get("surface"),
        "curvature": section(meta, "estimator").get("curvature"),
        "reduce": meta.get("reduce"),
        "dim": meta.get("dim"),
        "params": params.get("names") if isinstance(params, dict) else params,
        "data.sha256": section(meta, "data").get("sha256"),
        "tokens": [int(count) for count in one.tokens],
    }


def _shown(a: Any, b: Any) -> str:
    if isinstance(a, list) or isinstance(b, list):
        return ""
    words = [str(value)[:12] + ("…" if len(str(value)) > 12 else "") for value in (a, b)]
    return f" ({words[0]} in A, {words[1]} in B)"


def _structural(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    found = [section(meta, "checks").get("structural_zero_fraction") for meta in (a, b)]
    shares = [float(share) for share in found if known(share)]
    if len(shares) < 2:
        return ["structural zeros are known of one of the two only"] if shares else []
    masked = [float(meta.get("masked_fraction") or 0.0) for meta in (a, b)]
    low, high = max(shares), min(s + f for s, f in zip(shares, masked, strict=True))
    if low > high + STRUCTURAL_ROUNDING:
        raise UsageError(
            f"structural_zero_fraction differs ({shares[0]:.4g} in A, {shares[1]:.4g} in B) by "
            "more than clip masks explain: few tokens, not weights, decide these zeros; estimate "
            "both on the same, and more, tokens."
        )
    return []


def _notes(a: Spectrum, b: Spectrum) -> list[str]:
    first, second = section(a.metadata, "estimator"), section(b.metadata, "estimator")
    notes = [
        f"{key} differs: {first.get(key)} in A, {second.get(key)} in B"
        for key in NOTED
        if first.get(key) != second.get(key)
    ]
    points = [point_label(one.metadata) or "the checkpoint itself" for one in (a, b)]
    if points[0] != points[1]:
        notes.append(f"A evaluated at {points[0]}, B at {points[1]}")
    for name, one in (("A", a), ("B", b)):
        if not known(section(one.metadata, "checks").get("product_error")):
            notes.append(f"product error of {name} not measured, taken for that of float64")
    if not known(section(a.metadata, "data").get("sha256")):
        notes.append("neither record names its data: that it is the same is taken on trust")
    return notes


def common_batches(a: Spectrum, b: Spectrum) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which batches have a finished probe in both, (B,).

    Raises:
        UsageError: If there is none.
    """
    counts = np.minimum(a.steps.max(axis=1), b.steps.max(axis=1))
    both: np.ndarray[Any, np.dtype[np.bool_]] = counts > 0
    if not both.any():
        raise UsageError(
            "no batch is finished in both records; go on with them: spectra estimate --resume."
        )
    return both

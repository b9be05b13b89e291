"""Which split of the same products over batches and steps knows soft shares best.

    python default_protocol.py RECORD

RECORD has many batches of many steps; runs of fewer batches and steps are parts of it, so all
splits are compared on the same products. Printed: median width over the choices of batches of the
population interval and of the interval for the batches used.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys

import numpy as np

import spectra
from spectra.quadrature import resolution, soft_mass

PRODUCTS = 1000
SPLITS = (10, 8, 6, 5, 4, 3)
TAUS = (0.03, 0.1, 0.3, 1.0)
MOST = 60  # choices of batches

whole = spectra.load(sys.argv[1])
most = whole.alphas.shape[2]
print("batches steps  resolved  " + "  ".join(f"τ={tau:g}: population, these" for tau in TAUS))
for batches in SPLITS:
    steps = min(PRODUCTS // batches, most)
    choices = list(itertools.combinations(range(whole.alphas.shape[0]), batches))
    picks = np.random.default_rng(0).permutation(len(choices))[:MOST]
    widths, known = [], []
    for pick in picks:
        chosen = np.isin(np.arange(whole.alphas.shape[0]), choices[pick])
        kept = dataclasses.replace(whole, steps=np.where(chosen[:, None], whole.steps, 0))
        measure = kept.measure.first(steps)
        widths.append(
            [
                soft_mass(measure, tau, scope=scope).width
                for tau in TAUS
                for scope in ("population", "batches")
            ]
        )
        found = resolution(measure)
        known.append(np.inf if found is None else found[0])
    shown = np.median(widths, axis=0).reshape(len(TAUS), 2)
    cells = "  ".join(f"{a:14.4f} {b:7.4f}   " for a, b in shown)
    print(f"{batches:7d} {steps:5d} {np.median(known):9g}  {cells}")

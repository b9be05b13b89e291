"""Soft shares on random operators with known spectra: coverage, bands, and the steps they need."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from spectra.linalg import BasisPolicy, Lanczos, SymmetricOperator, probe
from spectra.quadrature import Measure, Run, mean_magnitude, resolution, smoothed_density, soft_mass
from spectra.quadrature.smoothed import SmoothedDensity
from spectra.quadrature.soft import soft_bounds
from spectra.quadrature.steps import sharp_steps, soft_steps
from spectra.quadrature.windows import ORDERS, window, window_bounds
from spectra.record.files import load
from tests.quadrature.prescribed import run_lanczos

TRIALS = pytest.mark.parametrize("trials", [140, pytest.param(1400, marks=pytest.mark.slow)])
WAYS = ("float64", "scaled up", "scaled down", "float32", "float32, no basis", "wrong by δ", "mask")
FAMILIES = ("outliers", "atom", "power law", "cauchy", "rank one", "semicircle", "clusters")
DELTA = 1e-3  # declared, in units of the spectrum's spread


def spectrum(family: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n eigenvalues of a family, largest magnitude about 1 to 100."""
    if family == "outliers":
        lam = np.concatenate([0.05 * rng.standard_normal(n - 8), rng.uniform(1, 20, 8)])
    elif family == "atom":
        lam = np.where(rng.random(n) < rng.uniform(0.2, 0.9), 0.0, rng.laplace(size=n))
    elif family == "power law":
        lam = np.arange(1, n + 1.0) ** -rng.uniform(0.5, 2) * rng.choice([-1, 1], n)
    elif family == "cauchy":
        lam = np.clip(0.05 * rng.standard_cauchy(n), -100, 100)
    elif family == "rank one":
        lam = np.zeros(n)
        lam[0] = 5.0
    elif family == "semicircle":
        lam = 2 * rng.beta(1.5, 1.5, n) - 1
    else:
        lam = np.where(rng.random(n) < 0.6, -1.0, 2.0) + 1e-3 * rng.standard_normal(n)
    return np.sort(lam)


def measured(
    lam: np.ndarray, way: str, steps: int, probes: int, seed: int
) -> tuple[Measure, np.ndarray, np.ndarray]:
    """Return a measure, the eigenvalues it is of (masked zeros included), and those of no mask."""
    n = lam.size
    scale = {"scaled up": 1e25, "scaled down": 1e-25}.get(way, 1.0)
    lam = lam * scale
    size = float(np.abs(lam).max())
    dtype = torch.float32 if way.startswith("float32") else torch.float64
    values = torch.from_numpy(lam).to(dtype)
    draw = np.random.default_rng([seed, 9])
    delta = 0.0
    if way == "wrong by δ":
        delta = DELTA * size

    def product(v: torch.Tensor) -> torch.Tensor:
        if not delta:
            return values * v
        e = torch.from_numpy(draw.standard_normal(n))
        return values * v + delta * float(v.norm() / e.norm()) * e

    if dtype == torch.float32:
        delta = 4 * float(torch.finfo(dtype).eps) * size
    where: Literal["none", "device"] = "none" if way.endswith("no basis") else "device"
    operator = SymmetricOperator.from_matvec(product, n, dtype=dtype)
    starts = torch.stack([probe(n, seed=seed, probe=p, dtype=dtype) for p in range(probes)])
    lanczos = Lanczos(operator, starts, basis=BasisPolicy(where), vector_dtype=dtype).extend(steps)
    runs = tuple(
        Run(lanczos.alphas[p, :m], lanczos.betas[p, :m])
        for p, m in enumerate(lanczos.steps.tolist())
    )
    masked = n // 4 if way == "mask" else 0
    every = np.append(lam, np.zeros(masked))
    return Measure((runs,), n + masked, n, product_error=delta), every, lam


def draws(trials: int):
    for seed in range(trials):
        rng = np.random.default_rng([seed, 3])
        family, way = FAMILIES[seed % len(FAMILIES)], WAYS[seed // len(FAMILIES) % len(WAYS)]
        lam = spectrum(family, int(rng.integers(100, 700)), rng)
        steps, probes = int(rng.integers(4, 70)), int(rng.integers(1, 4))
        measure, every, bare = measured(lam, way, min(steps, lam.size), probes, seed)
        yield rng, measure, every, bare


@TRIALS
def test_intervals_hold_the_exact_shares(trials: int) -> None:
    hits: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}

    def add(name: str, lower: float, true: float, upper: float, unit: float = 1.0) -> None:
        slack = 1e-9 * max(abs(true), unit * 1e-3)
        hits.setdefault(name, []).append(lower - slack <= true <= upper + slack)
        widths.setdefault(name, []).append((upper - lower) / max(unit, abs(true)))

    for rng, measure, every, _ in draws(trials):
        size = float(np.abs(every).max())
        tau = size * 10 ** rng.uniform(-2.5, 0)
        for order in ORDERS:
            found = soft_mass(measure, tau, order)
            add(f"soft, order {order}", found.lower, window(every, tau, order).mean(), found.upper)
        rest = np.abs(every).mean()
        found = mean_magnitude(measure)
        add("mean |λ|", found.lower, rest, found.upper, size)
        known = resolution(measure, 0.2)
        if known is not None:
            found = soft_mass(measure, *known, simultaneous=True)
            true = window(every, *known).mean()
            add("at the resolution", found.lower, true, found.upper)
    for name, held in hits.items():
        print(f"{name}: {sum(held)} of {len(held)}, median width {np.median(widths[name]):.3g}")
        assert np.mean(held) >= 0.95, name
    assert np.median(widths["soft, order 1"]) < 0.2


@TRIALS
def test_the_band_alone_holds_what_the_probes_see_every_time(trials: int) -> None:
    """Without the probes' error: the shares that the very probes see, no exception."""
    for seed in range(trials // 7):
        rng = np.random.default_rng([seed, 4])
        lam = spectrum(FAMILIES[seed % len(FAMILIES)], 400, rng)
        run, seen = run_lanczos(lam, int(rng.integers(2, 90)), seed)
        taus = float(np.abs(lam).max()) * 10 ** rng.uniform(-4, 0, 6)
        for order in ORDERS:
            low, high = window_bounds(run.alphas, run.betas, taus, order)
            true = np.array([seen.masses @ window(seen.lam, tau, order) for tau in taus])
            assert (low <= true + 1e-10).all()
            assert (true <= high + 1e-10).all()


@pytest.mark.parametrize("trials", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_smoothed_densities_hold_at_every_point_at_once(trials: int) -> None:
    held = 0
    for rng, measure, every, bare in draws(trials):
        size = float(np.abs(every).max())
        x = np.linspace(-1.1 * size, 1.1 * size, 41)
        width = None if rng.random() < 0.5 else size * 10 ** rng.uniform(-2, 0)
        found: SmoothedDensity = smoothed_density(measure, x, width)
        eta = found.width[:, None]
        true = (eta / math.pi / ((x[:, None] - bare) ** 2 + eta**2)).mean(axis=1)
        true *= bare.size / every.size
        slack = 1e-9 * true
        held += bool((found.lower - slack <= true).all() and (true <= found.upper + slack).all())
    print(f"bands: {held} of {trials}")
    assert held >= 0.95 * trials


def test_steps_said_are_near_the_steps_needed() -> None:
    """From half of them: within 1.5 in the median, never more than 2.5 off."""
    ratios: dict[str, list[float]] = {"soft": [], "sharp": []}
    for seed in range(24):
        rng = np.random.default_rng([seed, 5])
        family = ("outliers", "cauchy", "semicircle", "clusters")[seed % 4]
        lam = spectrum(family, 3000, rng)
        if family == "clusters":
            lam = lam + 0.2 * rng.standard_normal(lam.size)
        run, _ = run_lanczos(lam, 240, seed)
        whole = Measure(((run,),), lam.size, lam.size)
        parts = {k: whole.first(k) for k in range(1, 241)}

        def soft(k: int, tau: float, parts: dict[int, Measure] = parts) -> float:
            low, high = soft_bounds(parts[k], np.array([tau]), 2)
            return float((high - low)[0, 0])

        def sharp(k: int, tau: float, parts: dict[int, Measure] = parts) -> float:
            low, high = parts[k].runs[0][0].bounds(np.array([-tau, tau]))
            return float(min(high[1] - low[0], 1.0) - max(low[1] - high[0], 0.0))

        for level in (0.3, 0.6):
            tau = float(np.quantile(np.abs(lam), level))
            for name, width, target in (("soft", soft, 0.05), ("sharp", sharp, 0.1)):
                needed = next((k for k in range(1, 241, 2) if width(k, tau) <= target), 0)
                if needed >= 32:
                    few = parts[needed // 2]
                    said = (
                        soft_steps(few, tau, 2, target)
                        if name == "soft"
                        else sharp_steps(few, -tau, tau, target)
                    )
                    ratios[name].append(float(said or math.inf) / needed)
    for name, found in ratios.items():
        print(name, len(found), np.round(np.percentile(found, [0, 25, 50, 75, 100]), 2))
        assert len(found) >= 10
        assert 1 / 1.5 <= np.median(found) <= 1.5
        assert min(found) >= 1 / 2.5
        assert max(found) <= 2.5


def test_steps_said_hold_on_the_kept_records() -> None:
    """On real Hessians, from a quarter of the steps."""
    study = Path(__file__).parents[2] / "notebooks" / "study"
    ratios = []
    for path in sorted(study.glob("near-zero-w*/spectra/*/*/spectrum.npz"))[::2]:
        whole = load(path.parent).measure

        def width(k: int, tau: float, one: Measure = whole) -> float:
            low, high = soft_bounds(one.first(k), np.array([tau]), 2)
            return float((high - low).mean())

        for tau in (0.1, 0.3):
            first, last = 1, whole.steps
            if width(last, tau) > 0.05:
                continue
            while last - first > 1:
                middle = (first + last) // 2
                first, last = (first, middle) if width(middle, tau) <= 0.05 else (middle, last)
            ratios.append(float(soft_steps(whole.first(last // 4), tau, 2, 0.05) or 0) / last)
    print(len(ratios), np.round(np.percentile(ratios, [0, 25, 50, 75, 100]), 2))
    assert len(ratios) >= 20
    assert 1 / 1.5 <= np.median(ratios) <= 1.5
    assert min(ratios) >= 1 / 2.5
    assert max(ratios) <= 2.5

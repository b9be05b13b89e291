"""From Lanczos coefficients to numbers with errors: quadrature, bounds, functionals (no torch)."""

from spectra.quadrature.bands import Band, cdf_band, mass_band
from spectra.quadrature.density import density, log_density
from spectra.quadrature.difference import Difference, differences
from spectra.quadrature.eigenvalues import Eigenvalues
from spectra.quadrature.estimates import Estimate
from spectra.quadrature.extremes import extremes
from spectra.quadrature.gauss import GaussRule, gauss_rule
from spectra.quadrature.histogram import Histogram, resolved_histogram
from spectra.quadrature.logarithmic import log_determinant, mean_magnitude
from spectra.quadrature.mass import cdf, mass, node_sum
from spectra.quadrature.measure import Measure, Run
from spectra.quadrature.moments import moment
from spectra.quadrature.outliers import find_outliers, pooled_outliers
from spectra.quadrature.padded import as_runs
from spectra.quadrature.population import assumption
from spectra.quadrature.quantiles import quantile
from spectra.quadrature.radau import RadauMasses, radau_masses, radau_rule
from spectra.quadrature.smoothed import SmoothedDensity, smoothed_density
from spectra.quadrature.soft import (
    SoftBand,
    effective_dimension,
    resolution,
    soft_band,
    soft_mass,
)
from spectra.quadrature.steps import sharp_steps, soft_steps
from spectra.quadrature.stieltjes import sharp_bounds
from spectra.quadrature.summary import soft_summary, summarize
from spectra.quadrature.weyl import weyl_disc

__all__ = [
    "Band",
    "Difference",
    "Eigenvalues",
    "Estimate",
    "GaussRule",
    "Histogram",
    "Measure",
    "RadauMasses",
    "Run",
    "SmoothedDensity",
    "SoftBand",
    "as_runs",
    "assumption",
    "cdf",
    "cdf_band",
    "density",
    "differences",
    "effective_dimension",
    "extremes",
    "find_outliers",
    "gauss_rule",
    "log_density",
    "log_determinant",
    "mass",
    "mass_band",
    "mean_magnitude",
    "moment",
    "node_sum",
    "pooled_outliers",
    "quantile",
    "radau_masses",
    "radau_rule",
    "resolution",
    "resolved_histogram",
    "sharp_bounds",
    "sharp_steps",
    "smoothed_density",
    "soft_band",
    "soft_mass",
    "soft_steps",
    "soft_summary",
    "summarize",
    "weyl_disc",
]

"""From Lanczos coefficients to numbers with errors: quadrature, bounds, functionals (no torch)."""

from spectra.quadrature.bands import Band, cdf_band, mass_band
from spectra.quadrature.density import density, log_density
from spectra.quadrature.difference import Difference, differences
from spectra.quadrature.estimates import Estimate
from spectra.quadrature.extremes import extremes
from spectra.quadrature.gauss import GaussRule, gauss_rule
from spectra.quadrature.mass import cdf, mass, node_sum
from spectra.quadrature.measure import Measure, Run, as_runs
from spectra.quadrature.moments import moment
from spectra.quadrature.outliers import find_outliers, pooled_outliers
from spectra.quadrature.quantiles import quantile
from spectra.quadrature.radau import RadauMasses, radau_masses, radau_rule
from spectra.quadrature.stieltjes import sharp_bounds
from spectra.quadrature.summary import summarize

__all__ = [
    "Band",
    "Difference",
    "Estimate",
    "GaussRule",
    "Measure",
    "RadauMasses",
    "Run",
    "as_runs",
    "cdf",
    "cdf_band",
    "density",
    "differences",
    "extremes",
    "find_outliers",
    "gauss_rule",
    "log_density",
    "mass",
    "mass_band",
    "moment",
    "node_sum",
    "pooled_outliers",
    "quantile",
    "radau_masses",
    "radau_rule",
    "sharp_bounds",
    "summarize",
]

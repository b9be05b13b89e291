"""Several processes of one command: who they are, what they tell each other."""

from spectra.parallel.group import Group, world
from spectra.parallel.launched import Place

__all__ = ["Group", "Place", "world"]

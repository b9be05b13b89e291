"""Several processes of one command: who they are, what they tell each other."""

from spectra.parallel.group import Group, world

__all__ = ["Group", "world"]

"""Widths with a meaning of their own."""

from __future__ import annotations

FULL_BITS = 16  # no quantization
TERNARY = 1.58  # three levels

"""Formats other than those of transformers, one file each."""

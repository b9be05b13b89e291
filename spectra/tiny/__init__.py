"""The built-in model; `make` trains it, `model/` holds it."""

"""Runs that are killed, starved and lied to: what of them survives.

    python -m tests.torture --kills 200 --seed 0

Every verb that computes for long is run on toys and killed by `kill -9` at instants drawn uniformly
over its uninterrupted time, again and again until it ends by itself; then what it has made must be
what an uninterrupted run makes, bit for bit. Then faults are put where they may occur: writes that
fail, a full disk, NaN, memory that runs out, a batch that cannot be evaluated.
"""

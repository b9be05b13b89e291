"""What a product costs, beside other tools, and how it grows: `python -m spectra.benchmarks`.

Every comparison is made in one process run after run in turns, and reported as a ratio: a busy
machine slows all of them alike. Nothing here is imported by the rest of the package.
"""

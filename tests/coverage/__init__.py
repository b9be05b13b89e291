"""Coverage of every interval that is printed, over families of spectra; see `__main__`."""

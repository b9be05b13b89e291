"""`python -m spectra`, so that launchers like torchrun can start the command line."""

from spectra.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

"""`spectra VERB …`: finds the verb, runs it, turns errors into one sentence and an exit code.

Exit codes: 0 done, 1 failure, 2 usage, 130 Ctrl-C, 143 SIGTERM. Results and paths go to stdout,
progress and messages to stderr. Nothing heavy is imported before the verb is known.

Under torchrun `estimate` and `train` are run by all processes and told by one; the other verbs
refuse.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from spectra import __version__
from spectra.cli import signals, streams
from spectra.errors import SpectraError, SpectraWarning, UsageError, nearest, printable
from spectra.parallel.launched import place, report

SHARED = ("estimate", "train")  # what several processes can run
VERBS = {
    "estimate": "the Hessian spectrum of a checkpoint, with an error on every number",
    "train": "quantization-aware training, with WinQ, CAGE or neither, by transformers.Trainer",
    "sample": "text drawn from a float model, to train a quantized one on",
    "info": "what a checkpoint is, and what an estimate of it would cost; runs nothing",
    "table": "records as a table, in the terminal or as CSV",
    "plot": "records as figures",
    "compare": "what differs between two records of the same batches, with its interval",
    "reproduce": "the whole study: train, estimate, compare, report",
    "report": "one self-contained HTML file from results",
}

USAGE = """usage: spectra VERB [options]    (spectra VERB --help for the options of a verb)

Hessian spectra of language models and their quantized checkpoints.

verbs:
{verbs}

  --version   print the version
  --debug     with any verb: show the full traceback of an error

example:
  spectra estimate --ckpt tiny --data stdlib --output results/tiny
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with streams.saying_everything():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:<10}  {text}" for name, text in VERBS.items())
        print(USAGE.format(verbs=lines))
        return 0
    if arguments[0] == "--version":
        print(f"spectra {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        known = ", ".join(VERBS)
        guess = nearest(verb, VERBS)
        asked = printable(verb, longest=200)
        print(f"spectra: {asked!r} is not a verb; the verbs are {known}{guess}", file=sys.stderr)
        return 2
    return _run(verb, rest, debug=debug)


def _run(verb: str, arguments: list[str], *, debug: bool) -> int:
    logging.basicConfig(stream=sys.stderr, format="spectra: %(message)s")
    try:
        here = place()
    except UsageError as error:
        print(f"spectra {verb}: {error}", file=sys.stderr)
        return error.exit_code
    logging.getLogger("spectra").setLevel(logging.INFO if here.speaks else logging.ERROR)
    if here.size == 1 or verb == "train":  # transformers has its own ways there
        return _guarded(verb, arguments, debug=debug, speaks=True)
    code = 1
    try:
        code = _guarded(verb, arguments, debug=debug, speaks=here.speaks)
        return code
    finally:
        if code:
            _leave()


def _guarded(verb: str, arguments: list[str], *, debug: bool, speaks: bool) -> int:
    """Run the verb; what `SpectraError` says is said by the process that speaks."""
    out = streams.Escaped(sys.stdout)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        signals.as_exceptions(launched=place().size > 1),
    ):
        warnings.showwarning = _show_warning if speaks else _show_nothing
        warnings.simplefilter("always", SpectraWarning)
        try:
            if place().size > 1 and verb not in SHARED:
                raise UsageError(
                    f"{verb} runs in one process, and {place().size} were launched; start it "
                    "without torchrun."
                )
            module = importlib.import_module(f"spectra.cli.{verb}")
            return int(module.run(arguments))
        except SpectraError as error:
            if debug:
                raise
            if speaks:
                print(f"spectra {verb}: {error}", file=sys.stderr, flush=True)
            report(f"spectra {verb}: {error}")
            return error.exit_code
        except KeyboardInterrupt as error:
            if debug:
                raise
            if speaks:
                how = "terminated" if isinstance(error, signals.TerminatedError) else "interrupted"
                print(f"spectra {verb}: {how}.", file=sys.stderr, flush=True)
            return signals.exit_code(error)
        except UnicodeEncodeError as error:  # of a name; streams spell out what they lack
            if debug:
                raise
            print(
                f"spectra {verb}: {error.object!r} cannot be the name of a file where names are in "
                f"{error.encoding}; set PYTHONUTF8=1, or choose another.",
                file=sys.stderr,
                flush=True,
            )
            return 2
        except BrokenPipeError:  # the reader of stdout has gone; nothing is left to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
            return 1
        except OSError as error:
            if debug:
                raise
            what = repr(error.filename) if error.filename else "a file"
            print(
                f"spectra {verb}: {what} cannot be read or written ({error.strerror or error}); "
                "make room or see to the permissions, then repeat the command to go on.",
                file=sys.stderr,
                flush=True,
            )
            return 1


def _leave() -> None:
    """See that the process that speaks has spoken before the launcher ends it."""
    from spectra.parallel import world

    with contextlib.suppress(SpectraError):
        world().leave()


def _show_nothing(*_: Any, **__: Any) -> None:
    """Show no warning: another process does."""


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, SpectraWarning):
        print(f"spectra: note: {message}", file=sys.stderr)
    # What the libraries below warn of is theirs to fix, not the user's.

"""SIGTERM and Ctrl-C: what is kept is said, with the command that goes on; codes as shells have."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

import spectra
from spectra.cli import signals
from spectra.cli.main import main
from spectra.cli.signals import TerminatedError, as_exceptions, exit_code


@pytest.fixture(autouse=True)
def _in_the_foreground():
    """Let Ctrl-C mean what it means: a process that a shell put into the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with as_exceptions():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [(signal.SIGTERM, TerminatedError, 143), (signal.SIGINT, KeyboardInterrupt, 130)],
)
def test_signals_are_exceptions_in_the_block_and_what_they_were_after(number, kind, code):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, as_exceptions():
        os.kill(os.getpid(), number)
    assert (type(caught.value), exit_code(caught.value)) == (kind, code)
    assert signal.getsignal(number) is before


def test_a_signal_that_comes_twice_at_once_is_one():
    said = []

    def twice():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            said.append("kept")

    with pytest.raises(TerminatedError), as_exceptions():
        twice()
    assert said == ["kept"]


@pytest.mark.parametrize("launched", [True, False])
def test_a_second_signal_ends_at_once_unless_a_launcher_sees_to_that(launched):
    """In a child, because it ends."""
    pid = os.fork()
    if pid == 0:
        signals.SAME = -1.0
        code = 1
        try:
            with as_exceptions(launched=launched):
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)
                    code = 7
        except KeyboardInterrupt:
            pass
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (7 if launched else -signal.SIGTERM)


def test_outside_the_main_thread_nothing_is_changed():
    before, found = signal.getsignal(signal.SIGTERM), []

    def look():
        with as_exceptions():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_terminated_estimate_says_how_to_go_on_and_goes_on(checkpoint, tokens, tmp_path):
    output = tmp_path / "a run"
    places = ["--ckpt", str(checkpoint), "--data", str(tokens), "--output", str(output)]
    sizes = ["--seq_len", "16", "--num_batches", "2", "--num_probes", "40"]
    sizes += ["--lanczos_steps", "10", "--no_figure"]
    process = subprocess.Popen(
        [sys.executable, "-m", "spectra", "estimate", *places, *sizes],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (output / "spectrum.npz").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert said.rstrip().endswith("spectra estimate: terminated.")
    assert "Traceback" not in said
    kept = spectra.load(output).finished
    assert f"{kept} finished probes are kept in {output}; go on with: spectra estimate" in said
    names = {p.name for p in output.iterdir()}  # the readable copy is written second
    assert {"spectrum.npz"} <= names <= {"spectrum.json", "spectrum.npz"}
    command = shlex.split(said.split("go on with: spectra ")[1].splitlines()[0])
    command[command.index("--num_probes") + 1] = "41"  # one more shows that the others were kept
    assert main(command) == 0
    assert spectra.load(output).complete


def test_a_second_process_is_refused(checkpoint, tokens, tmp_path, capsys):
    from spectra.record import holding

    with holding(tmp_path / "run"):
        code = main(["estimate", "--ckpt", str(checkpoint), "--data", str(tokens),
                     "--output", str(tmp_path / "run")])  # fmt: skip
    assert code == 2
    assert f"in use by process {os.getpid()} on" in capsys.readouterr().err

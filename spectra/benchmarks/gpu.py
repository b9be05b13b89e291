"""A Llama end to end on one device: products, memory, precisions and a whole density.

Written for a GPU and the shape of Llama-3.2-1B (random weights, vocabulary 128k, 2,048 tokens,
linear parameters); it runs on the CPU with a small shape as well. What a device cannot do has a row
that says "unmeasured" and why; nothing is left out in silence.

    graphs      seconds a product, share of the rate of a plain matrix product in the same type,
                and peak memory, with the graph kept, recomputed, and block by block
    precisions  δ against float64 and seconds a product: float32, TF32, bfloat16
    several     seconds a vector, 4 at once and one at a time
    captured    seconds a product as a CUDA graph, against launching its kernels one by one
    density     60 steps with the basis that the plan chooses and with none: what
                reorthogonalization takes, as a share of the products
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from typing import Any

import torch

from spectra.benchmarks.flops import flops
from spectra.benchmarks.subject import Subject
from spectra.benchmarks.timing import in_turns, once
from spectra.curvature import Curvature, hessian
from spectra.curvature.captured import capture
from spectra.curvature.checks import measure_product_error
from spectra.estimation import slq
from spectra.estimation.cost import matmul_rate
from spectra.estimation.peak import PeakMemory
from spectra.linalg import probe

Row = dict[str, Any]
SEVERAL = 4
PRECISIONS = (("float32", "highest"), ("float32", "high"), ("bfloat16", "highest"))


def measure(subject: Subject, rounds: int, steps: int) -> list[Row]:
    """Return the rows of every part; a part that fails has one row with the reason."""
    parts: list[tuple[str, Callable[[], Row]]] = [
        (f"graph {graph}", lambda graph=graph: _graph(subject, graph, rounds))  # type: ignore[misc]
        for graph in ("keep", "recompute", "blocks")
    ]
    parts += [
        (
            f"{dtype}, matmuls {name}",
            lambda dtype=dtype, name=name: _precision(subject, dtype, name, rounds),  # type: ignore[misc]
        )
        for dtype, name in PRECISIONS
    ]
    parts += [
        (f"{SEVERAL} vectors at once", lambda: _several(subject, rounds)),
        ("product as a CUDA graph", lambda: _captured(subject, rounds)),
        (f"density of {steps} steps", lambda: _density(subject, steps)),
    ]
    return [_guarded(name, part, subject.device) for name, part in parts]


def _guarded(name: str, part: Callable[[], Row], device: torch.device) -> Row:
    try:
        return {"part": name} | part()
    except Exception as error:  # one part must not cost the others
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        return {"part": name, "told": f"unmeasured: {reason}"}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _operator(subject: Subject, **options: Any) -> tuple[Curvature, torch.Tensor]:
    H = hessian(subject.model, [subject.batches[0]], **options)
    H.mean.captured_products = False  # measured on its own
    return H, probe(H.dim, seed=0, dtype=H.dtype, device=H.device)


def _graph(subject: Subject, graph: str, rounds: int) -> Row:
    with PeakMemory(subject.device) as peak:
        H, v = _operator(subject, graph=graph)
        H.matvec(v)
        times = in_turns({"product": lambda: H.matvec(v)}, rounds, H.device)["product"]
    seconds, made = statistics.median(times), flops(lambda: H.matvec(v))
    rate = matmul_rate(H.device, H.dtype)
    return {
        "parameters": H.dim,
        "tokens": subject.batches[0].input_ids.numel(),
        "graph": H.mean.graph,  # not the one asked for, where memory ended
        "seconds": seconds,
        "tflops": made / seconds / 1e12,
        "share_of_rate": made / seconds / rate,
        "peak_bytes": peak.bytes,
        "told": "; ".join(H.mean.notes),
    }


def _precision(subject: Subject, dtype: str, name: str, rounds: int) -> Row:
    H, v = _operator(subject, dtype=dtype, matmul_precision=name)
    q = H.matvec(v).float()
    q = (q / q.norm()).to(H.dtype)
    times = in_turns({"product": lambda: H.matvec(q)}, rounds, H.device)["product"]
    size = float(H.matvec(q).float().norm())
    seconds = statistics.median(times)
    H.release()
    delta = measure_product_error(H, q)  # the float64 graph is rebuilt in its product
    told = "" if H.device.type == "cuda" or name == "highest" else "the CPU has no TF32"
    return {"seconds": seconds, "delta": delta, "relative": delta / size, "told": told}


def _several(subject: Subject, rounds: int) -> Row:
    H, v = _operator(subject, graph="keep")
    V = torch.stack([probe(H.dim, seed=0, probe=k, dtype=v.dtype, device=v.device)
                     for k in range(SEVERAL)])  # fmt: skip

    def together(at_once: bool) -> Callable[[], object]:
        def work() -> object:
            H.mean.batched_products = at_once
            return H.matvecs(V)

        return work

    times = in_turns({"at once": together(True), "alone": together(False)}, rounds, H.device)
    at_once, alone = (statistics.median(times[name]) / SEVERAL for name in ("at once", "alone"))
    return {"seconds": at_once, "seconds_alone": alone, "told": "; ".join(H.mean.notes)}


def _captured(subject: Subject, rounds: int) -> Row:
    if subject.device.type != "cuda":
        return {"told": "unmeasured: needs CUDA"}
    H, v = _operator(subject, graph="keep")
    expected, eager = H.matvec(v), H.mean._graphs
    graphs = capture(H.mean)

    def with_graphs(which: Any) -> Callable[[], object]:
        def work() -> object:
            H.mean._graphs = which
            return H.matvec(v)

        return work

    times = in_turns({"eager": with_graphs(eager), "graph": with_graphs(graphs)}, rounds, H.device)
    gap = float((H.matvec(v) - expected).norm() / expected.norm())
    return {
        "seconds": statistics.median(times["graph"]),
        "seconds_alone": statistics.median(times["eager"]),
        "relative": gap,
        "told": "relative: difference from the eager product",
    }


def _density(subject: Subject, steps: int) -> Row:
    def run(basis: str) -> tuple[float, int, Any]:
        H, _ = _operator(subject)
        found = []
        with PeakMemory(H.device) as peak:
            options: dict[str, Any] = {"lanczos_steps": steps, "check": False, "progress": False}
            seconds = once(lambda: found.append(slq(H, basis=basis, **options)), H.device)
        return seconds, peak.bytes, found[0].metadata["estimator"]

    run("none")  # warm
    bare, _, _ = run("none")
    whole, peak, estimator = run("auto")
    return {
        "seconds": whole,
        "seconds_alone": bare,
        "reorthogonalization": (whole - bare) / bare,
        "peak_bytes": peak,
        "told": f"basis {estimator['basis']}, {estimator['basis_dtype']}, "
        f"{estimator['basis_bytes'] / 1e9:.1f} GB; alone: no basis; reorthogonalization: share "
        "of the time without",
    }

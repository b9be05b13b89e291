"""What one product costs: in gradients, and against the flops it has to make."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from spectra import curvature
from spectra.benchmarks.peers import prepare
from spectra.benchmarks.subject import Subject
from spectra.benchmarks.timing import Work, in_turns, ratio
from spectra.estimation.cost import matmul_rate


def measure(subject: Subject, rounds: int) -> dict[str, Any]:
    """Return gradients a product, and the shares of a plain matrix product's rate both reach."""
    device = subject.device
    prepare(subject.model)
    H = curvature.hessian(subject.model, [subject.batches[0]], graph="keep")
    v = torch.randn(H.dim, device=device, dtype=H.dtype)
    v /= v.norm()
    point, loss, batch = H.point, H.loss_function, H.mean.batches[0]

    def gradient() -> Any:
        leaves = point.leaves()
        return point.call(lambda model: torch.autograd.grad(loss(model, batch)[0], leaves), leaves)

    work: dict[str, Work] = {"gradient": gradient, "product": lambda: H.matvec(v)}
    flops = {}
    for name, once in work.items():
        once()
        with FlopCounterMode(display=False) as counter:
            once()
        flops[name] = counter.get_total_flops()
    times = in_turns(work, rounds, device)
    rate = matmul_rate(device, H.dtype)
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "model": subject.name,
        "parameters": H.dim,
        "tokens": batch.input_ids.numel(),
        "gradient_seconds": medians["gradient"],
        "product_seconds": medians["product"],
        "gradients_a_product": ratio(times, "product", "gradient"),
        "gradients_a_product_flops": flops["product"] / flops["gradient"],
        "gradient_share_of_rate": flops["gradient"] / medians["gradient"] / rate,
        "product_share_of_rate": flops["product"] / medians["product"] / rate,
        "matmul_rate": rate,
    }

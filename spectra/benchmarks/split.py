"""Study: float32 accuracy from products of bfloat16 parts, as tensor cores would make them.

A float32 a is cut into parts of p = 8 bits, a = a_1 + a_2 + a_3 + (a rounding of 2^{-8k}), each
part the bfloat16 nearest to what is left. A product of two parts is exact in float32 (16 bits), and
tensor cores add such products up in float32. So with k parts

    A B ≈ Σ_{i+j ≤ k+1} A_i B_j          k = 1: 1 product, k = 2: 3 products, k = 3: 6 products

with relative errors of about 2^{-8}, 2^{-16}, 2^{-24} next to the rounding of the sums (after
Ozaki, Ogita, Oishi & Rump 2012; Markidis et al. 2018). TF32 (11 bits) likewise: 2^{-11}, and
2^{-22} with two parts and 3 products.

What is emulated here is exact: the parts are float32 tensors whose values are bfloat16 (TF32)
numbers, so a float32 product of two of them rounds nothing but the sums, as the hardware does. The
error δ is that of whole Hessian products against float64, in which every matrix product of forward
and both backwards is replaced (a dispatch mode below autograd).

Whether it pays is a matter of time. Rates of dense products on an H100 by NVIDIA's data sheet:
float32 67, TF32 495, bfloat16 990 TFLOP/s. 3 bfloat16 products of 16 bits are at best 330, 6 of 24
bits at best 165, before the parts are made and added up; `seconds` measures that where there is a
GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spectra.benchmarks.subject import Subject
from spectra.benchmarks.timing import in_turns
from spectra.curvature import hessian
from spectra.linalg import probe

Tensor = torch.Tensor

KINDS: dict[str, tuple[str, int]] = {
    "float32": ("float32", 1),
    "bfloat16": ("bfloat16", 1),
    "2 bfloat16 parts, 3 products": ("bfloat16", 2),
    "3 bfloat16 parts, 6 products": ("bfloat16", 3),
    "TF32": ("tf32", 1),
    "2 TF32 parts, 3 products": ("tf32", 2),
}
_TF32_BITS = 13  # of float32's 23 that TF32 leaves out


def rounded(x: Tensor, kind: str) -> Tensor:
    """Return float32 `x` rounded to the nearest number of `kind`, as float32."""
    if kind == "bfloat16":
        return x.to(torch.bfloat16).to(torch.float32)
    if kind == "tf32":  # round half away from zero, on the bits
        bits = x.contiguous().view(torch.int32) + (1 << (_TF32_BITS - 1))
        return (bits & -(1 << _TF32_BITS)).view(torch.float32)
    return x


def parts(x: Tensor, kind: str, count: int) -> list[Tensor]:
    """Return `count` tensors of numbers of `kind` whose sum is near `x`."""
    found, rest = [], x
    for _ in range(count):
        found.append(rounded(rest, kind))
        rest = rest - found[-1]
    return found


def split_product(
    multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, kind: str, count: int
) -> Tensor:
    """Return `multiply(a, b)` from parts, the small terms added up first."""
    left, right = parts(a, kind, count), parts(b, kind, count)
    pairs = [(i, j) for i in range(count) for j in range(count) if i + j < count]
    total: Tensor | None = None
    for i, j in sorted(pairs, key=lambda pair: -sum(pair)):
        term = multiply(left[i], right[j])
        total = term if total is None else total.add_(term)
    assert total is not None
    return total


class SplitProducts(TorchDispatchMode):
    """Replaces every float32 matrix product, below autograd."""

    def __init__(self, kind: str, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind, self.count, self.replaced = kind, count, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        packet, aten = func._overloadpacket, torch.ops.aten
        if packet in (aten.mm, aten.bmm) and args[0].dtype == torch.float32:
            self.replaced += 1
            return split_product(func, args[0], args[1], self.kind, self.count)
        if packet in (aten.addmm, aten.baddbmm) and args[1].dtype == torch.float32:
            self.replaced += 1
            multiply = aten.mm.default if packet is aten.addmm else aten.bmm.default
            product = split_product(multiply, args[1], args[2], self.kind, self.count)
            return args[0] * kwargs.get("beta", 1) + product * kwargs.get("alpha", 1)
        return func(*args, **kwargs)


def measure(subject: Subject, rounds: int) -> list[dict[str, Any]]:
    """Return a row a kind: δ of a Hessian product, absolute and relative, and a product's time.

    The vector is one Hessian product of a random one, so that it has a share in outliers.
    """
    batches = [subject.batches[0]]
    exact = hessian(subject.model, batches, dtype="float64", graph="recompute")
    q = exact.matvec(probe(exact.dim, seed=0, dtype=torch.float64, device=exact.device))
    q /= q.norm()
    q = q.to(torch.float32)
    truth = exact.matvec(q.double())
    rows = []
    for name, (kind, count) in KINDS.items():
        H = hessian(subject.model, batches, dtype="float32", graph="recompute")
        with SplitProducts(kind, count) as mode:
            found = H.matvec(q)
        delta = float((found.double() - truth).norm())
        rows.append(
            {
                "products as": name,
                "matrix_products": count * (count + 1) // 2,
                "replaced": mode.replaced,
                "delta": delta,
                "relative": delta / float(truth.norm()),
                **_seconds(name, kind, count, subject.device, rounds),
            }
        )
    return rows


def _seconds(name: str, kind: str, count: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Return the rate of a square product on a GPU, in types it has; nothing is timed elsewhere."""
    if device.type != "cuda":
        return {"tflops": None, "told": "unmeasured: emulated, a rate needs a GPU"}
    size = 8192
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    precision = "high" if kind == "tf32" else "highest"

    def real() -> Tensor:
        left, right = parts(a, kind, count), parts(b, kind, count)
        total = torch.zeros(size, size, device=device)
        for i in range(count):
            for j in range(count - i):
                total += left[i].to(dtype) @ right[j].to(dtype)
        return total

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        times = in_turns({name: real}, rounds, device)[name]
    finally:
        torch.set_float32_matmul_precision(before)
    return {"tflops": 2e-12 * size**3 / statistics.median(times), "told": "parts made on the spot"}

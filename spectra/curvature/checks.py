"""Is the operator what Lanczos takes it for? Deterministic, symmetric, a derivative, how exact.

determinism  loss and gradient evaluated twice. Dropout left on, noise injection or a sampled loss
             make H v a random variable; a GPU's atomic sums differ by rounding alone.
symmetry     ε = √n max |u·Hv − v·Hu| / (‖Hu‖ + ‖Hv‖) over pairs of random unit vectors. For
             H = S + A with antisymmetric A, |u·Av| shrinks like ‖A‖/n and ‖Hu‖ like ‖H‖/√n, so ε
             is of the order of ‖A‖/‖H‖ (Frobenius). Weights together with the step sizes of a
             quantizer are such a case.
difference   ‖H d − (g(θ + hd) − g(θ − hd))/2h‖ / ‖H d‖ in float64 with d along H u: a custom
             kernel whose backward is not differentiable can make H silently incomplete and leave
             it symmetric.
             Where weights are quantized it is taken in Q(W), quantizer bypassed: the estimator's
             gradient is piecewise constant in W. With quantized activations it is left out.
product      δ = ‖(H_work − H_64) q‖₂ for unit q, H_64 the same operator in true float64. It widens
             every band of the spectrum; a random symmetry probe would underestimate it by √n. Where
             activations are quantized both are taken with activations as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from spectra.curvature.failures import give_back, told
from spectra.curvature.family import Curvature
from spectra.curvature.operator import CurvatureOperator
from spectra.errors import NumericalError
from spectra.linalg.probes import probe
from spectra.linalg.space import DenseSpace

Operator = Curvature | CurvatureOperator

# Largest relative errors that rounding explains, with room; what they catch is of order .01 to 1.
_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
_LOW_PRECISION = 0.2
DIFFERENCE = 0.05
STEP = 1e-6  # of the weight norm: truncation 1e-12, rounding 1e-10 in float64
# Where eigenvalues are millions (a language model at its first 2-bit step) gradients turn around
# within a millionth of the weights: each smaller step is off by a hundredth of the one before.
SHRINK = (1.0, 0.1, 0.01, 1e-3, 1e-4)
_SAME = 1e-9
_PAIRS = ((0, 1), (0, 2), (1, 2))
_NOT_FINITE = "a product is not finite; check the weights, or try dtype=float64."
_ROUNDED = "left out: quantized activations make the gradient piecewise constant"


@dataclass(frozen=True)
class Checks:
    """What `run_checks` measured; each number is relative, but for `product_error`.

    Attributes:
        determinism_error: Change of loss or gradient between two evaluations.
        symmetry_error: ε of the module's docstring.
        difference_error: Distance of a product from a difference of gradients; None where the
            operator is no Hessian, activations are quantized, or it was not asked for.
        product_error: δ, absolute; None where not asked for.
        difference_note: Why a Hessian has no difference check, if one was asked for.
    """

    determinism_error: float
    symmetry_error: float
    difference_error: float | None
    product_error: float | None
    difference_note: str | None = None


def run_checks(operator: Operator, *, seed: int = 0, float64: bool = True) -> Checks:
    """Run the checks on `operator`; its `product_error` is set where measured.

    Cost: 2 gradients and 5 products, and with `float64` there 2 gradients and one product with its
    graph (3 gradients), the parameters cast meanwhile.

    Args:
        operator: What to check.
        seed: Of the random vectors.
        float64: Whether to run the difference and product checks.

    Raises:
        NumericalError: If it is not deterministic, not symmetric, or no derivative.
    """
    determinism = check_determinism(operator)
    symmetry = check_symmetry(operator, seed=seed)
    if not float64:
        return Checks(determinism, symmetry, None, None)
    q = _direction(_single(operator), seed)
    if _rounds_activations(_single(operator)):
        return Checks(determinism, symmetry, None, _unrounded_error(operator, q), _ROUNDED)
    reference = reference_product(operator, q)
    apart, note = None, None
    if _single(operator).kind == "Hessian":
        apart = _difference(_single(operator), q, reference)
        note = _ROUNDED if apart is None else None
    return Checks(determinism, symmetry, apart, _product_error(operator, q, reference), note)


def check_determinism(operator: Operator) -> float:
    """Return the relative change of loss and gradient between two evaluations of the first batch.

    Raises:
        NumericalError: If it is more than rounding.
    """
    single = _single(operator)
    change = 0.0
    for _ in single.batches[:1]:  # none where there are fewer sequences than processes
        first, second = (single._graph(0, second_order=False) for _ in range(2))
        zero = torch.zeros((), dtype=single.dtype, device=single.device)
        one, two = (single.selection.flatten(g.gradient(), like=zero) for g in (first, second))
        change = max(
            _relative(abs(first.loss - second.loss), abs(first.loss)),
            _relative(_norm(one - two), _norm(one)),
        )
    change = max(single.group.gather(change))
    if not change <= _allowed(single):
        raise NumericalError(
            f"loss or gradient changed by {change:.2g} (relative) between two evaluations of one "
            "batch; Lanczos needs one fixed matrix: turn off dropout, noise and sampling in the "
            "model and the loss."
        )
    return change


def check_symmetry(operator: Operator, *, seed: int = 0) -> float:
    """Return the relative asymmetry ε from three random vectors.

    Raises:
        NumericalError: If it is more than rounding.
    """
    single = _single(operator)
    vectors = [_probe(single, seed, number) for number in range(3)]
    products = [single.matvec(v) for v in vectors]
    dot = DenseSpace().dot  # accumulates in float64 without float64 copies
    worst = 0.0
    for i, j in _PAIRS:
        gap = abs(float(dot(vectors[i], products[j])) - float(dot(vectors[j], products[i])))
        scale = _norm(products[i]) + _norm(products[j])
        worst = max(worst, _relative(math.sqrt(single.dim_unmasked) * gap, scale))
    if not worst <= _allowed(single):
        raise NumericalError(
            f"the {single.kind} of {single.selection.params!r} is not symmetric (relative "
            f"asymmetry {worst:.2g}); its eigenvalues are not those of a Hessian: select "
            "parameters whose gradients are true gradients (weights without quantizer step sizes)."
        )
    return worst


def check_difference(operator: Operator, *, seed: int = 0) -> float | None:
    """Return the relative distance of a product from a central difference, both in float64.

    None where activations are quantized: the gradient then jumps, and has no such difference.

    Raises:
        NumericalError: If they differ by more than a twentieth.
    """
    q = _direction(_single(operator), seed)
    return _difference(_single(operator), q, reference_product(operator, q))


def reference_product(operator: Operator, v: torch.Tensor) -> torch.Tensor:
    """Return the product with `v`, (n,), in true float64 on the same batches; graphs are freed."""
    single = _single(operator)
    single.release()  # two graphs at once, one in float64, would be the peak of a whole run
    product = single.with_dtype(torch.float64).matvec(v.to(single.device, torch.float64))
    give_back(single.device)
    return product


def measure_product_error(operator: Operator, v: torch.Tensor) -> float:
    """Return δ for the direction of `v`, (n,), and raise `operator.product_error` to it.

    At float64 the reference is the operator itself; δ is then at least the rounding of the product.
    """
    q = v.to(operator.device, operator.dtype)
    if _rounds_activations(_single(operator)):
        return _unrounded_error(operator, q)
    return _product_error(operator, q, reference_product(operator, q))


def _unrounded_error(operator: Operator, q: torch.Tensor) -> float:
    """Return δ with activations as they are, in both precisions.

    Next to a tie the precision of the forward decides the code: in float64 some codes are others,
    and so is the operator. The bounds need how far products are off those of one linear map.
    """
    single = _single(operator)
    with single.point.surface.activations_unrounded():
        reference = reference_product(operator, q)
        product = single.with_dtype(single.dtype).matvec(q)
        give_back(single.device)
    return _product_error(operator, q, reference, product)


def _product_error(
    operator: Operator,
    q: torch.Tensor,
    reference: torch.Tensor,
    product: torch.Tensor | None = None,
) -> float:
    scale = _norm(q) or 1.0
    floor = torch.finfo(torch.float64).eps * _norm(reference)
    product = operator.matvec(q) if product is None else product
    gap = _norm(product.double() - reference)
    if not math.isfinite(gap):  # NaN would be lost in a maximum
        raise NumericalError(_NOT_FINITE)
    delta = max(gap, floor) / scale
    operator.product_error = max(operator.product_error or 0.0, delta)
    return delta


def _direction(operator: CurvatureOperator, seed: int) -> torch.Tensor:
    """Return a random unit vector after one product, which has a share in outliers, if any."""
    v = _probe(operator, seed, 0)
    product = operator.matvec(v).double()
    norm = _norm(product)
    return (product / norm).to(operator.dtype) if 0 < norm < math.inf else v


def _difference(
    operator: CurvatureOperator, q: torch.Tensor, reference: torch.Tensor
) -> float | None:
    wide = operator.with_dtype(torch.float64)
    if _rounds_activations(wide):
        return None
    # A sharp bend puts the difference off by the square of its step; a missing term stays missing.
    apart = math.inf
    for shrink in SHRINK:
        step = STEP * (operator.weight_norm or 1.0) * shrink
        apart_by = _gradient_at(wide, q.double() * step)
        apart_by.sub_(_gradient_at(wide, q.double() * -step)).div_(2 * step).sub_(reference)
        apart = min(apart, _relative(_norm(apart_by), _norm(reference)))
        if apart <= DIFFERENCE:
            return apart
    raise NumericalError(
        f"a product with the Hessian is {apart:.2g} (relative) away from a difference of "
        "gradients; an operation's second derivative is missing or wrong: replace custom or "
        "fused kernels by plain torch operations."
    )


def _rounds_activations(operator: CurvatureOperator) -> bool:
    """Whether bypassing the quantizers of activations too would change the loss."""
    point = operator.point
    if point.surface.name == "latent":
        return False
    changes = False
    for batch in operator.batches[:1]:
        rounded, whole = (
            float(
                point.call(operator.loss_function, point.leaves(), batch, grad=False, bypass=what)[
                    0
                ]
            )
            for what in ("weights", "all")
        )
        changes = not abs(rounded - whole) <= _SAME * abs(whole)  # eight bits change it by little
    return any(operator.group.gather(changes))


def _single(operator: Operator) -> CurvatureOperator:
    return operator.mean if isinstance(operator, Curvature) else operator


def _probe(operator: CurvatureOperator, seed: int, number: int) -> torch.Tensor:
    dtype, device, keep = operator.dtype, operator.device, operator.keep
    return probe(operator.dim, seed=seed, probe=number, dtype=dtype, device=device, keep=keep)


def _gradient_at(operator: CurvatureOperator, offset: torch.Tensor) -> torch.Tensor:
    """Return the gradient with `offset` added to the selected parameters, as the surface has it."""
    point, selection = operator.point, operator.selection
    inside = point.surface.restrict(offset)
    shifted = tuple(
        (leaf.detach() + block).requires_grad_()
        for leaf, block in zip(point.leaves(), selection.split(inside), strict=True)
    )
    total, terms = torch.zeros_like(offset), 0.0
    for piece in operator.pieces:
        with told("a gradient in float64"):
            count, blocks = operator.gradient_of(piece, shifted)
            total.add_(selection.flatten(blocks, like=offset), alpha=count)
        terms += count
    operator.group.sum_(total)
    terms = math.fsum(operator.group.gather(terms))
    return point.surface.shift_(point.surface.restrict_(total.div_(terms)), offset)


def _norm(v: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(v, dtype=torch.float64))


def _relative(gap: float, scale: float) -> float:
    if gap == 0:
        return 0.0
    return gap / scale if scale > 0 else math.inf


def _allowed(operator: CurvatureOperator) -> float:
    return _ROUNDING.get(operator.dtype, _LOW_PRECISION)

"""The same Hessian through other tools, each used as its documentation says.

All of them get the loss of the same batch, the same selected weights, attention without fused
kernels (which have no second derivative), and `requires_grad` on the selected weights alone. A tool
that is not installed, or fails on the model, is listed with the reason.

*reference*: the procedure of arXiv 2605.17471 as its notebooks run it: one forward a batch, the
gradient's graph built anew in each product, bfloat16 model and vectors, no reorthogonalization.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import torch

from spectra import curvature
from spectra.benchmarks.subject import Subject
from spectra.curvature import select_parameters
from spectra.estimation import slq
from spectra.estimation.reference import SETTINGS


class Tool(Protocol):
    """One way to the Hessian of a subject's first batch."""

    dim: int

    def product(self, v: torch.Tensor) -> object:
        """Make one product."""

    def density(self, steps: int) -> object:
        """Estimate the density from one probe."""


class Spectra:
    """This package, with the graph kept or rebuilt."""

    def __init__(self, subject: Subject, graph: str = "keep") -> None:
        self.subject, self.graph = subject, graph
        self.H = self._operator()
        self.dim, self.product = self.H.dim, self.H.matvec

    def _operator(self) -> Any:
        return curvature.hessian(
            self.subject.model,
            [self.subject.batches[0]],
            graph=self.graph,  # type: ignore[arg-type]
        )

    def density(self, steps: int) -> object:
        """Estimate the density from one probe."""
        self.H.release()  # the graph is part of the work
        return slq(self._operator(), lanczos_steps=steps, check=False, progress=False)


class _Peer:
    """What the other tools are given: model, parameters, batch, loss."""

    def __init__(self, subject: Subject) -> None:
        model = subject.model
        self.names = select_parameters(model, "linear").names
        parameters = dict(model.named_parameters())
        self.parameters = [parameters[name] for name in self.names]
        self.dim = sum(p.numel() for p in self.parameters)
        prepare(model)
        self.model, device = model, subject.device
        self.ids = subject.batches[0].input_ids.to(device)
        self.labels = subject.batches[0].labels.to(device)

    def logits_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean next-token loss."""
        flat = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
        return torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1))

    def loss(self, model: Any, batch: Any = None) -> torch.Tensor:
        """Return the mean loss of the one batch there is."""
        del batch
        return self.logits_loss(model(input_ids=self.ids).logits, self.labels)

    def split(self, v: torch.Tensor) -> list[torch.Tensor]:
        """Return the blocks of a flat vector."""
        pieces = v.split([p.numel() for p in self.parameters])
        return [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]


class HessianEigenthings(_Peer):
    """hessian-eigenthings: everything recomputed in each product."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        operators = importlib.import_module("hessian_eigenthings")
        wanted = set(self.names)
        self.operator = operators.HessianOperator(
            self.model, [{"ids": self.ids}], self.loss, param_filter=lambda n, _: n in wanted
        )
        self.product = self.operator.matvec

    def density(self, steps: int) -> object:
        """Estimate the density from one probe."""
        algorithms = importlib.import_module("hessian_eigenthings")
        return algorithms.spectral_density(
            self.operator, num_runs=1, lanczos_steps=steps, num_grid_points=1000, seed=0
        )


class _Logits(torch.nn.Module):
    """A language model as a map from token ids to logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


class _Predictions(_Logits):
    """A language model as a map from token ids to the rows of logits that are scored."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = super().forward(ids)
        return logits[:, :-1].reshape(-1, logits.shape[-1])


class PyHessian(_Peer):
    """PyHessian on one batch: gradient graph kept, vectors as lists of tensors."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.library = importlib.import_module("pyhessian")
        self.hessian = self._build()

    def _build(self) -> Any:
        self.model.zero_grad()
        return self.library.hessian(
            _Logits(self.model),
            self.logits_loss,
            data=(self.ids, self.labels),
            cuda=self.ids.is_cuda,
        )

    def product(self, v: torch.Tensor) -> object:
        """Make one product."""
        product = importlib.import_module("pyhessian.utils").hessian_vector_product
        return product(self.hessian.gradsH, self.hessian.params, self.split(v))

    def density(self, steps: int) -> object:
        """Estimate the density from one probe."""
        self.hessian = None
        self.hessian = self._build()
        return self.hessian.density(iter=steps, n_v=1)


class Curvlinops(_Peer):
    """curvlinops: forward-over-reverse; its loss must be one of torch.nn's."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        library = importlib.import_module("curvlinops")
        self.operator = library.HessianLinearOperator(
            _Predictions(self.model),
            torch.nn.CrossEntropyLoss(),
            self.parameters,
            [(self.ids, self.labels[:, 1:].reshape(-1))],
            check_deterministic=False,
            num_data=1,
        )

    def product(self, v: torch.Tensor) -> object:
        """Make one product."""
        return self.operator @ v

    def density(self, steps: int) -> object:
        """Estimate the density from one probe."""
        traces = importlib.import_module("curvlinops.papyan2020traces.spectrum")
        return traces.lanczos_approximate_spectrum(self.operator, ncv=steps, num_repeats=1)


class Reference(_Peer):
    """The reference procedure's product and recurrence, for one probe."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self.model = self.model.to(torch.bfloat16)

    def product(self, v: torch.Tensor) -> torch.Tensor:
        """Make one product."""
        loss = self.loss(self.model)
        gradients = torch.autograd.grad(loss, self.parameters, create_graph=True)
        vectors = self.split(v.to(torch.bfloat16))
        dot = torch.stack([(g * u).sum() for g, u in zip(gradients, vectors, strict=True)]).sum()
        blocks = torch.autograd.grad(dot, self.parameters)
        return torch.cat([block.reshape(-1) for block in blocks])

    def density(self, steps: int) -> object:
        """Estimate the density from one probe."""
        q = torch.randn(self.dim, dtype=torch.bfloat16, device=self.ids.device)
        q /= q.norm()
        previous, beta, alphas, betas = torch.zeros_like(q), 0.0, [], []
        for _ in range(steps):
            w = self.product(q) - beta * previous
            alpha = torch.dot(w, q).item()
            w -= alpha * q
            beta = w.norm().item()
            previous, q = q, w / beta
            alphas.append(alpha)
            betas.append(beta)
        return alphas, betas


TOOLS: dict[str, Callable[[Subject], Tool]] = {
    "spectra": Spectra,
    "spectra, graph rebuilt": lambda subject: Spectra(subject, "recompute"),
    "hessian-eigenthings": HessianEigenthings,
    "PyHessian": PyHessian,
    "curvlinops": Curvlinops,
    "reference procedure": Reference,
}
REFERENCE_PROBES = int(SETTINGS["num_probes"])


def prepare(model: Any) -> None:
    """Give a model what every tool needs: plain attention, gradients of the selected alone."""
    wanted = set(select_parameters(model, "linear").names)
    model.config._attn_implementation = "eager"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)

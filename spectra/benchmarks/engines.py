"""Second derivatives through PyTorch's own ways to shard weights: `python -m …benchmarks.engines`.

Two gloo processes, a chain of residual blocks in float64, a product with the Hessian against plain
autograd on one process: relative errors of gradient and product, and how much of the weights the
graph of the gradient keeps whole on each process, in those of the model.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn

WIDTH, BLOCKS, ROWS = 32, 8, 2
Result = dict[str, Any]


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x + self.down(torch.nn.functional.silu(self.up(x)))
        return found


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[_Block() for _ in range(BLOCKS)]).double()


def _drawn(shape: Sequence[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _loss(model: nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(_drawn((ROWS, WIDTH), 1)).pow(2).mean().log()
    return found


def _vectors(parameters: Sequence[Any]) -> list[torch.Tensor]:
    return [_drawn(p.shape, 10 + k) for k, p in enumerate(parameters)]


def _judge(
    gradients: Sequence[torch.Tensor | None],
    parameters: Sequence[torch.Tensor],
    vectors: Sequence[torch.Tensor],
) -> Result:
    """Differentiate once more and compare with one process; a sentence where that fails."""
    missing = sum(g is None for g in gradients)
    if missing:
        return {"fails": f"{missing} of {len(gradients)} gradients are None"}
    found = [g for g in gradients if g is not None]
    free = sum(not g.requires_grad for g in found)
    if free:
        return {"fails": f"{free} of {len(found)} gradients have no graph"}
    product = torch.autograd.grad(found, parameters, vectors, retain_graph=True)
    plain = list(_model().parameters())
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept):
        slopes = torch.autograd.grad(_loss_of(plain), plain, create_graph=True)
        truth = torch.autograd.grad(slopes, plain, _vectors(plain))
    return {"gradient_error": _apart(found, slopes), "product_error": _apart(product, truth)}


def _loss_of(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    model = _model()
    names = [name for name, _ in model.named_parameters()]
    values = dict(zip(names, parameters, strict=True))
    x = torch.func.functional_call(model, values, (_drawn((ROWS, WIDTH), 1),))
    found: torch.Tensor = x.pow(2).mean().log()
    return found


def _apart(found: Sequence[Any], truth: Sequence[torch.Tensor]) -> float:
    whole = [f.full_tensor() if hasattr(f, "full_tensor") else f for f in found]
    gap = torch.cat([(a - b).reshape(-1) for a, b in zip(whole, truth, strict=True)])
    size = torch.cat([b.reshape(-1) for b in truth])
    return float(gap.detach().norm() / size.detach().norm())


def _fsdp(mesh: Any, *, reshard: bool, toward_whole: bool) -> Result:
    from torch.distributed.fsdp import fully_shard

    model = _model()
    for block in model:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    model.set_reshard_after_backward(reshard)  # type: ignore[operator]
    loss = _loss(model)
    if toward_whole:  # the weights that the modules hold after the forward
        blocks: Any = model
        held: list[Any] = [layer.weight for block in blocks for layer in (block.up, block.down)]
        gradients = torch.autograd.grad(loss, held, create_graph=True, allow_unused=True)
        return _judge(gradients, held, _vectors(held))
    loss.backward(create_graph=True)
    parameters = list(model.parameters())
    return _judge([p.grad for p in parameters], parameters, _halved(_vectors(parameters), mesh))


def _halved(tensors: Sequence[torch.Tensor], mesh: Any) -> list[torch.Tensor]:
    from torch.distributed.tensor import Shard, distribute_tensor

    return [distribute_tensor(t.detach(), mesh, [Shard(0)]) for t in tensors]


def _dtensor(mesh: Any) -> Result:
    from torch.distributed.tensor import Replicate, distribute_tensor

    model = _model()
    names = [name for name, _ in model.named_parameters()]
    leaves = [t.requires_grad_() for t in _halved(list(model.parameters()), mesh)]
    del model
    shell = _model().to("meta")
    whole = [leaf.redistribute(placements=[Replicate()]) for leaf in leaves]  # type: ignore[attr-defined]
    x = distribute_tensor(_drawn((ROWS, WIDTH), 1), mesh, [Replicate()])
    found = torch.func.functional_call(shell, dict(zip(names, whole, strict=True)), (x,))
    gradients = torch.autograd.grad(found.pow(2).mean().log(), leaves, create_graph=True)
    return _judge(gradients, leaves, _halved(_vectors(leaves), mesh))


def _tensor_parallel(mesh: Any) -> Result:
    from torch.distributed.tensor import distribute_tensor
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    model = _model()
    for block in model:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    parameters: list[Any] = list(model.parameters())
    gradients = torch.autograd.grad(_loss(model), parameters, create_graph=True)
    vectors = [
        distribute_tensor(v, mesh, p.placements)
        for v, p in zip(_vectors(parameters), parameters, strict=True)
    ]
    return _judge(gradients, parameters, vectors)


WAYS: dict[str, Callable[[Any], Result]] = {
    "fully_shard": lambda mesh: _fsdp(mesh, reshard=True, toward_whole=False),
    "fully_shard, toward whole weights": lambda mesh: _fsdp(mesh, reshard=True, toward_whole=True),
    "fully_shard, never resharded": lambda mesh: _fsdp(mesh, reshard=False, toward_whole=False),
    "fully_shard, never resharded, toward whole weights": lambda mesh: _fsdp(
        mesh, reshard=False, toward_whole=True
    ),
    "DTensor, redistributed on use": _dtensor,
    "tensor parallel (column, row)": _tensor_parallel,
}


def measure() -> list[Result]:
    """Return a row for each way, run in two processes of this machine."""
    rows: Any = processes.get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn: Any = processes.spawn  # type: ignore[attr-defined]
    spawn(_process, (rows, port), nprocs=2)
    return [rows.get() for _ in WAYS]


def _process(rank: int, rows: Any, port: int) -> None:
    warnings.simplefilter("ignore")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    weights = sum(8 * p.numel() for p in _model().parameters())
    for name, way in WAYS.items():
        saved: dict[int, int] = {}

        def pack(tensor: Any, saved: dict[int, int] = saved) -> Any:
            held = getattr(tensor, "_local_tensor", tensor)
            if held.ndim == 2 and held.shape[0] >= WIDTH:  # a weight or its transpose, whole
                saved[held.data_ptr()] = held.numel() * held.itemsize
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            try:
                row = way(mesh)
            except RuntimeError as error:
                row = {"fails": str(error).splitlines()[0][:90]}
        row["weights_kept"] = sum(saved.values()) / weights
        dist.barrier()
        if rank == 0:
            rows.put({"way": name} | row)
    dist.destroy_process_group()


if __name__ == "__main__":
    from spectra.benchmarks.__main__ import _table

    print(_table(measure()))

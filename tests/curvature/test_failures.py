"""What torch says when memory ends or a derivative is missing becomes one sentence."""

import gc

import pytest
import torch

from spectra.curvature import hessian
from spectra.curvature.failures import free_bytes, told, used_bytes
from spectra.errors import OutOfMemoryError, SpectraError
from tests.curvature.models import batch, llama


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ],
)
def test_memory_ends_with_a_cure(error):
    with pytest.raises(OutOfMemoryError, match="lower seq_len or batch_size"), told("the Hessian"):
        raise error


def test_missing_derivatives_are_named_and_other_errors_pass():
    missing = RuntimeError("derivative for aten::_flash_backward is not implemented")
    with pytest.raises(SpectraError, match="_flash_backward has no second"), told("the Hessian"):
        raise missing
    with pytest.raises(RuntimeError, match="mat1 and mat2"), told("the Hessian"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_full_device_stops_a_product(monkeypatch):
    H = hessian(llama(), [batch(1, 4)])

    def full(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(H.mean, "_build", full)
    monkeypatch.setattr(H.mean, "_build_blocks", full)
    with pytest.raises(OutOfMemoryError, match="Hessian of batch 0"):
        H.matvec(torch.ones(H.dim))


def test_memory_is_counted():
    device = torch.device("cpu")
    before = used_bytes(device)
    held = torch.ones(2**25)
    assert used_bytes(device) - before >= 2**26
    assert free_bytes(device) > 0
    del held


def test_a_freed_graph_leaves_no_cycle_behind():
    """A cycle would keep every graph of a recomputing run alive until the garbage collector."""
    operator = hessian(llama(), [batch(2, 8)]).operator(0)
    gc.collect()
    gc.disable()
    try:
        operator.matvec(torch.ones(operator.dim))
        operator.with_dtype(torch.float64).matvec(torch.ones(operator.dim, dtype=torch.float64))
        operator.release()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        held = [thing for thing in gc.garbage if isinstance(thing, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert held == []

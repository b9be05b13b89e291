"""What torch says when memory ends or a derivative is missing becomes one sentence."""

import pytest
import torch
from models import batch, llama

from spectra.curvature import hessian
from spectra.curvature.failures import free_bytes, told, used_bytes
from spectra.errors import OutOfMemoryError, SpectraError


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
    with pytest.raises(OutOfMemoryError, match="Hessian of batch 0"):
        H.matvec(torch.ones(H.dim))


def test_memory_is_counted():
    device = torch.device("cpu")
    before = used_bytes(device)
    held = torch.ones(2**25)
    assert used_bytes(device) - before >= 2**26
    assert free_bytes(device) > 0
    del held

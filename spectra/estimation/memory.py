"""Memory: how much there is, what the Lanczos vectors take, where the basis can live.

The basis is steps × n × itemsize bytes and decides. "auto" takes the first that fits beside the
graph, the vectors and a reserve:

    on a GPU   device in the working type; device in float16 (stored as √n q, costs no measurable
               accuracy); host; none
    on the CPU device in the working type; none (half-precision storage is slow there: there is no
               mixed-type matrix product, and upcasting each use costs more than the products)

Where a basis of all steps does not fit, as many vectors are kept as do; from there on a run goes on
with the converged Ritz vectors among them, and nothing more is stored
(`spectra.linalg.Lanczos.condense`). So it is in an adaptive run, which does not know its number of
steps. Without any basis ghosts appear: the bounds stay valid and become wider.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from spectra.errors import OutOfMemoryError
from spectra.estimation.settings import SLQSettings
from spectra.linalg import BasisPolicy
from spectra.parallel.launched import place

WORK_VECTORS = 6  # current, previous, product, its flat result, and two held for the checks
RESERVE = 0.85  # share of the free memory a plan may use
CONDENSED = (
    "a basis of {kept:,} vectors fits: steps beyond them are orthogonalized against those of its "
    "Ritz vectors that have converged; bounds stay valid"
)
FEW_KEPT = 32  # vectors below which an adaptive run keeps no basis at all


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes the Lanczos run will take beside model and graph, and the basis policy decided."""

    policy: BasisPolicy
    basis_bytes: int
    vector_bytes: int
    available: int
    note: str = ""
    kept: int | None = None  # vectors, where that is not every one


def shared_bytes(device: torch.device) -> int:
    """Return this process's share of what is free: a machine's memory is that of all its ranks."""
    free = available_bytes(device)
    return free // place().local_size if device.type == "cpu" else free


def available_bytes(device: torch.device) -> int:
    """Return the bytes free on `device`, within the container's limit where there is one."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    free = int(psutil.virtual_memory().available)
    limit = _container_limit()
    if limit is not None:
        free = min(free, limit)
    return free


def _container_limit() -> int | None:
    """Return what is left under a cgroup (v2, then v1) memory limit, None without one."""
    for limit_file, usage_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            limit, usage = Path(limit_file).read_text(), Path(usage_file).read_text()
            return max(0, int(limit) - int(usage))
        except (OSError, ValueError):
            continue
    return None


def plan_memory(
    settings: SLQSettings,
    dim: int,
    operator_dtype: torch.dtype,
    device: torch.device,
    kept: int | None = None,
) -> MemoryPlan:
    """Decide where the basis lives; the model and its graph are taken to be loaded already.

    Args:
        settings: What is run.
        dim: Length of a vector.
        operator_dtype: That of the products.
        device: Where they are made.
        kept: How many vectors were kept in the part of the run that is done, if not all.

    Raises:
        OutOfMemoryError: If a policy that was asked for by name, or even the bare vectors, do not
            fit; the message says what would.
    """
    dtype = settings.working_dtype(operator_dtype)
    runs = min(settings.block_size, settings.num_probes)
    steps = min(settings.lanczos_steps, dim)
    vectors = WORK_VECTORS * runs * dim * dtype.itemsize
    free = available_bytes(device)
    if settings.max_memory is not None:
        free = min(free, settings.max_memory)
    room = int(RESERVE * free) - vectors
    if room < 0:
        raise OutOfMemoryError(
            f"{vectors / 1e9:.1f} GB of Lanczos vectors for {dim:,} parameters do not fit the "
            f"{free / 1e9:.1f} GB free on {device}; select fewer parameters with --params."
        )

    stored = steps if kept is None else min(steps, kept)

    def need(policy: BasisPolicy) -> int:
        return runs * policy.nbytes(dim, stored, dtype)

    def planned(policy: BasisPolicy, note: str = "") -> MemoryPlan:
        return MemoryPlan(policy, need(policy), vectors, free, note, kept)

    if settings.basis != "auto":
        policy = settings.policy(settings.basis)
        if policy.where == "device" and need(policy) > room:
            fit = max(0, room // max(1, need(policy) // stored))
            raise OutOfMemoryError(
                f"a basis of {stored} vectors takes {need(policy) / 1e9:.1f} GB, "
                f"{max(room, 0) / 1e9:.1f} GB are left on {device}; pass --basis none or host, or "
                f"at most --lanczos_steps {fit}."
            )
        return planned(policy)
    plain = settings.policy("device")
    if need(plain) <= room:
        return planned(plain)
    size = f"{need(plain) / 1e9:.1f} GB"
    if device.type == "cuda":
        half = BasisPolicy("device", torch.float16)
        if settings.basis_dtype == "auto" and need(half) <= room:
            return planned(half, f"a basis of {size} does not fit: stored in float16")
        host = settings.policy("host")
        if need(host) <= RESERVE * shared_bytes(torch.device("cpu")):
            return planned(host, f"a basis of {size} does not fit the device: kept on the host")
    part = _part(settings, dim, dtype, device, room // runs, steps)
    if part is not None:
        policy, kept = part
        bytes_kept = runs * policy.nbytes(dim, kept, dtype)
        return MemoryPlan(policy, bytes_kept, vectors, free, CONDENSED.format(kept=kept), kept)
    return planned(
        BasisPolicy("none"),
        f"a basis of {size} does not fit the {room / 1e9:.1f} GB left: no reorthogonalization; "
        "bounds stay valid, outliers appear as several nodes",
    )


def _part(
    settings: SLQSettings,
    dim: int,
    dtype: torch.dtype,
    device: torch.device,
    room: int,
    steps: int,
) -> tuple[BasisPolicy, int] | None:
    """Return the policy of a basis that is kept in part, and how many vectors fit in `room`."""
    policy = settings.policy("device")
    if device.type == "cuda" and settings.basis_dtype == "auto":
        policy = BasisPolicy("device", torch.float16)
    kept = min(steps, room // policy.nbytes(dim, 1, dtype))
    return (policy, kept) if kept >= min(FEW_KEPT, steps) else None


def plan_basis(
    settings: SLQSettings,
    dim: int,
    operator_dtype: torch.dtype,
    device: torch.device,
    kept: int | None = None,
) -> MemoryPlan:
    """Decide where the basis lives, and how many of `lanczos_steps` vectors are kept.

    To be called when the graph is in memory: the basis may take what is left.

    Args:
        settings: Its `lanczos_steps` are the most that any run may take.
        dim: Length of a vector.
        operator_dtype: That of the products.
        device: Where they are made.
        kept: How many vectors were kept in the part of the run that is done; None to decide.

    Raises:
        OutOfMemoryError: If the bare vectors do not fit.
    """
    dtype = settings.working_dtype(operator_dtype)
    most = min(settings.lanczos_steps, dim)
    bare = plan_memory(settings.with_changes(basis="none"), dim, operator_dtype, device)
    place = torch.device("cpu") if settings.basis == "host" else device
    free = bare.available if place == device else available_bytes(place)
    room = int(RESERVE * free) - (bare.vector_bytes if place == device else 0)
    where = "device" if settings.basis == "auto" else settings.basis
    policy = settings.policy(where)
    if where == "none":
        return replace(bare, kept=0)
    half = BasisPolicy("device", torch.float16)
    if (
        settings.basis == settings.basis_dtype == "auto"
        and device.type == "cuda"
        and policy.nbytes(dim, most, dtype) > room
    ):
        policy = half
    if kept is None:
        kept = min(most, room // policy.nbytes(dim, 1, dtype))
        kept = kept if kept >= min(FEW_KEPT, most) else 0
    note = ""
    if kept < most:
        note = CONDENSED.format(kept=kept)
    if kept == 0:
        policy = BasisPolicy("none")
        note = "no basis fits: bounds stay valid, outliers appear as several nodes"
    size = policy.nbytes(dim, kept, dtype)
    return MemoryPlan(policy, size, bare.vector_bytes, bare.available, note, kept)

"""An estimate whose every operator is shared by several ranks: data, Lanczos vectors and basis.

    share="places"   a rank has whole (batch, probe) places to itself: the same bits as one process,
                     and no exchange; each rank holds model, graph, vectors and basis of a place
    share="vectors"  all ranks work on one place after the other: each differentiates its share of
                     the sequences (spectra.curvature.spread) and holds its slice of the vectors and
                     of the basis (spectra.linalg.sliced)

    share="parameters"  like the second, and the weights of the blocks are in parts too, gathered
                     while a block is worked on (spectra.curvature.gathered)

The second is for a basis, or batches, that do not fit one device, and for a `mean` over batches,
which is one operator; the third for weights that do not fit. Their sums over ranks have another
order than those of one process, so records agree to rounding and not bit for bit, as with another
number of threads; it is the same estimate, and any of them may resume another.
"""

from __future__ import annotations

import math

from spectra.curvature.family import Curvature
from spectra.curvature.sharded import ShardedCurvature
from spectra.errors import OutOfMemoryError, UsageError
from spectra.estimation.memory import MemoryPlan, plan_memory, shared_bytes
from spectra.estimation.settings import SLQSettings
from spectra.estimation.sharing import agree_on_memory
from spectra.linalg import SymmetricOperator
from spectra.parallel import Group
from spectra.parallel.launched import Place

WHOLE_VECTORS = 4  # of a product: gathered, its blocks, its flat result, and that on its way out


def arrange(
    operator: SymmetricOperator, settings: SLQSettings, ranks: Group
) -> tuple[SymmetricOperator, Group | None, Group]:
    """Return the operator, the ranks that slice its vectors, and those that share its places."""
    if settings.share == "places" or ranks.size == 1:
        return operator, None, ranks
    if settings.share == "parameters":
        if not isinstance(operator, Curvature):
            raise UsageError("share='parameters' needs a model's Hessian; pass share='vectors'.")
        if not isinstance(operator, ShardedCurvature):
            operator = ShardedCurvature(operator, ranks, operator.device)
    elif isinstance(operator, Curvature):
        operator = operator.spread(ranks)
    return operator, ranks, Group(Place(rank=ranks.rank))


def room_for_slices(
    operator: SymmetricOperator, settings: SLQSettings, slices: Group
) -> tuple[SLQSettings, int]:
    """Return the settings with the memory of the rank that has least, and the length of a slice.

    Raises:
        OutOfMemoryError: If the whole vectors of a product do not fit.
    """
    free = shared_bytes(operator.device)
    if settings.max_memory is not None:
        free = min(free, settings.max_memory)
    whole = WHOLE_VECTORS * operator.dim * operator.dtype.itemsize
    if isinstance(operator, ShardedCurvature):
        whole = 0
    least = min(slices.gather(free))
    if least <= whole:
        raise OutOfMemoryError(
            f"a product holds {whole / 1e9:.1f} GB of whole vectors on every rank, and one of them "
            f"has {least / 1e9:.1f} GB free; select fewer parameters with --params."
        )
    width = math.ceil(operator.dim / slices.size)
    length = max(width, min(settings.lanczos_steps, operator.dim))
    return settings.with_changes(max_memory=least - whole), length


def planned(
    operator: SymmetricOperator,
    settings: SLQSettings,
    ranks: Group,
    slices: Group | None,
    kept: int | None,
) -> MemoryPlan:
    """Return one memory plan for all ranks; see `spectra.estimation.memory.plan_memory`."""
    dim, dtype, device = operator.dim, operator.dtype, operator.device
    if slices is None:
        return agree_on_memory(
            operator, settings, ranks, lambda s: plan_memory(s, dim, dtype, device, kept)
        )
    least, length = room_for_slices(operator, settings, slices)
    return slices.first(lambda: plan_memory(least, length, dtype, device, kept))

"""From a checkpoint and text to a record on disk: the main job.

checkpoint -> token batches -> curvature operators -> probes -> record, written after every probe.

Under torchrun every process does the same and runs its share of the probes
(spectra.estimation.sharing); each returns the whole record, and the first one writes it.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spectra import curvature
from spectra.checkpoint import Checkpoint, load_checkpoint
from spectra.checkpoint.placement import parse_device
from spectra.curvature.family import Curvature
from spectra.curvature.sharded import ShardedCurvature
from spectra.data import TokenBatches, token_batches
from spectra.errors import InputWarning, SpectraError, UsageError
from spectra.estimation import engine
from spectra.estimation.choice import WAYS, GraphPlan, choose_graph
from spectra.estimation.cost import shape_of
from spectra.estimation.halfway import check_every
from spectra.estimation.memory import shared_bytes
from spectra.estimation.output import open_output
from spectra.estimation.request import (
    Request,
    as_said,
    displaced,
    protocol_changes,
    resolve,
    settings,
    targeted,
    what_to_read,
)
from spectra.estimation.settings import DTYPES
from spectra.estimation.sharing import refuse_adaptive
from spectra.parallel import world
from spectra.record import Spectrum, holding

log = logging.getLogger(__name__)

DEFAULT_SEQ_LEN = 512


@dataclass(frozen=True)
class Opened:
    """A checkpoint at the point of evaluation, with its data.

    Attributes:
        request: What was asked, resolved.
        checkpoint: The model, its weights moved as the request says.
        batches: The data.
        displacement: What moving the weights did, for the record.
        notes: What a reader should know about it.
    """

    request: Request
    checkpoint: Checkpoint
    batches: TokenBatches
    displacement: dict[str, Any]
    notes: list[str]


def estimate(ckpt: str | Path | Request, *, progress: bool = True, **options: Any) -> Spectrum:
    """Estimate the spectrum of one checkpoint and return (and, with `output`, write) its record.

    Args:
        ckpt: A checkpoint, or a whole `Request`.
        progress: Whether to show a progress bar.
        **options: The other fields of `Request`.

    Raises:
        SpectraError: Whatever is wrong with the input, in one sentence.
    """
    with world().together():
        if isinstance(ckpt, Request):
            request = resolve(replace(ckpt, **options))
        else:
            request = resolve(Request(str(ckpt), **options))
        check(request)
        output = None if request.output is None else Path(request.output)
        with _held(output):
            earlier = _earlier(request, output)
            return _run(open_checkpoint(request), output, earlier, progress=progress)


def estimate_part(
    opened: Opened, params: str, facts: dict[str, Any], output: Path, *, progress: bool = True
) -> Spectrum:
    """Estimate the spectrum of some parameters of an opened checkpoint, and write its record.

    Args:
        opened: What the parts share.
        params: Globs over names, as in `Request.params`.
        facts: What the record's section `params` says of the part.
        output: Directory of the record.
        progress: Whether to show a progress bar.

    Raises:
        SpectraError: Whatever is wrong, in one sentence.
    """
    with world().together():
        if opened.request.share == "parameters":
            raise UsageError(
                "share='parameters' uses up the model for one record; pass --share vectors with "
                "--per."
            )
        part = replace(opened, request=replace(opened.request, params=params))
        with _held(output):
            earlier = _earlier(opened.request, output)
            return _run(part, output, earlier, progress=progress, facts=facts)


def check(request: Request) -> None:
    """Refuse settings of a resolved request that no checkpoint can be estimated with."""
    settings(request), displaced(request)
    check_every(request.save_state_every)
    if request.save_state_every is not None and request.share != "places":
        raise UsageError(
            f"save_state_every={request.save_state_every} writes whole vectors, which no process "
            f"has with share={request.share!r}; leave it out."
        )
    if _sharded(request) and (request.micro_batch or request.graph not in ("auto", "blocks")):
        raise UsageError(
            f"share='parameters' works block by block on whole batches; leave out graph="
            f"{request.graph!r} and micro_batch={request.micro_batch}, or pass --share vectors."
        )
    target = targeted(request)
    refuse_adaptive(target if request.share == "places" else None, world())


def open_checkpoint(request: Request) -> Opened:
    """Load the checkpoint and data of a request, and move the weights where it says."""
    with world().together():
        request = resolve(request)
        displacement = displaced(request)
        checkpoint = load(request)
        batches = read_data(request, checkpoint)
        moved, notes = displacement.apply_(checkpoint.model, request.params)
    return Opened(request, checkpoint, batches, moved, notes)


@contextmanager
def _held(output: Path | None) -> Iterator[None]:
    """Hold the output directory, on the rank that writes the record."""
    if output is None or not world().speaks:
        yield
        return
    with holding(output):
        yield


def _earlier(request: Request, output: Path | None) -> Spectrum | None:
    if output is None:
        return None
    return world().first(
        lambda: open_output(output, resume=request.resume, overwrite=request.overwrite)
    )


def _run(
    opened: Opened,
    output: Path | None,
    earlier: Spectrum | None,
    *,
    progress: bool,
    facts: dict[str, Any] | None = None,
) -> Spectrum:
    request, meta = opened.request, opened.checkpoint.meta
    said = as_said(request) | ({"params": facts["select"]} if facts else {})
    operator = build_operator(_held_before(request, earlier), opened.checkpoint, opened.batches)
    operator.point.notes += opened.notes
    if _sharded(request):
        device = parse_device(world().device(request.device))
        operator = ShardedCurvature(operator, world(), device)
    description = Path(meta.path).name
    if output is not None and facts:
        description += f" {output.name}"
    return engine.run(
        operator,
        settings(request),
        target=targeted(request),
        metadata={
            "checkpoint": meta.metadata(),
            "data": opened.batches.metadata(),
            "point": opened.displacement,
            "params": facts or {},
            "request": said,
            "estimator": {
                "protocol": request.protocol,
                "protocol_changes": protocol_changes(request),
                "num_batches": len(opened.batches),
            },
        },
        output=output,
        earlier=earlier,
        save_state_every=request.save_state_every if output is not None else None,
        progress=progress,
        description=description,
        ranks=world(),
    )


def _sharded(request: Request) -> bool:
    return request.share == "parameters" and world().size > 1


def load(request: Request) -> Checkpoint:
    """Load the checkpoint of a resolved request."""
    return load_checkpoint(
        request.ckpt,
        tokenizer=request.tokenizer,
        device="cpu" if _sharded(request) else world().device(request.device),
        dtype=request.dtype or "float32",
        **what_to_read(request),
    )


def read_data(request: Request, checkpoint: Checkpoint) -> TokenBatches:
    """Read the token batches of a resolved request."""
    longest = getattr(checkpoint.model.config, "max_position_embeddings", None)
    usual = min(DEFAULT_SEQ_LEN, longest or DEFAULT_SEQ_LEN)
    seq_len = usual if request.seq_len is None else request.seq_len
    if longest is not None and seq_len > longest:
        warnings.warn(
            f"seq_len={seq_len} exceeds the {longest} positions this model was built for; its loss "
            "beyond them is not that of a trained model.",
            InputWarning,
            stacklevel=2,
        )
    return token_batches(
        request.data,
        checkpoint.tokenizer,
        seq_len=seq_len,
        batch_size=1 if request.batch_size is None else request.batch_size,
        num_batches=1 if request.num_batches is None else request.num_batches,
        vocab_size=checkpoint.model.get_input_embeddings().num_embeddings,
    )


def _held_before(request: Request, earlier: Spectrum | None) -> Request:
    """Return the request with graphs held as in the part of the run that is done.

    A run that goes on then rounds alike, and does not run out of memory a second time.
    """
    if earlier is None or earlier.metadata["estimator"].get("share") == "parameters":
        return request
    before = earlier.metadata["estimator"]
    graph, rows = before.get("graph"), before.get("micro_batch")
    if request.graph == "auto" and graph in WAYS:
        request = replace(request, graph=graph)
    return request if request.micro_batch or not rows else replace(request, micro_batch=rows)


def plan_graph(request: Request, checkpoint: Checkpoint, batches: TokenBatches) -> GraphPlan | None:
    """Return how the graphs of a resolved request are to be held; None where it cannot be said."""
    model, ranks = checkpoint.model, world()
    if _sharded(request):
        return None
    try:
        chosen = curvature.select_parameters(model, "linear")
        linear = dict(zip(chosen.names, chosen.shapes, strict=True))
        shape = shape_of(model.config, linear, sum(p.numel() for p in model.parameters()))
    except SpectraError:
        return None
    sizes = [batch.input_ids.shape for batch in batches]
    rows = max(size[0] for size in sizes)
    length = max(size[1] for size in sizes)
    whole = sum(size.numel() for size in sizes) if request.reduce == "mean" else rows * length
    if request.share == "vectors":  # which share the sequences
        whole = math.ceil(whole / length / ranks.size) * length
        rows = min(rows, math.ceil(whole / length))
    limit, device = settings(request).max_memory, next(model.parameters()).device
    if ranks.size > 1:  # one choice for all, which fits the one with the least memory
        mine = shared_bytes(device)
        limit = min(ranks.gather(mine if limit is None else min(mine, limit)))
    return choose_graph(
        request.graph,  # type: ignore[arg-type]
        shape,
        tokens=whole,
        seq_len=length,
        piece=length * (rows if request.micro_batch is None else min(rows, request.micro_batch)),
        dtype=DTYPES[request.dtype or "float32"],
        device=device,
        kind="GGN" if request.curvature == "ggn" else "Hessian",
        limit=limit,
    )


def build_operator(request: Request, checkpoint: Checkpoint, batches: TokenBatches) -> Curvature:
    """Return the curvature family of a resolved request."""
    build = curvature.hessian if request.curvature == "hessian" else curvature.ggn
    plan = plan_graph(request, checkpoint, batches)
    # What the plan takes to fit is measured once more by an operator over several batches.
    graph = request.graph if plan is None or plan.graph == "keep" else plan.graph
    family = build(
        checkpoint,
        batches,
        params=request.params,
        surface=request.surface,
        reduce=request.reduce,
        graph=graph,  # type: ignore[arg-type]
        micro_batch=request.micro_batch,
        dtype=request.dtype,
        matmul_precision=request.matmul_precision,
        proximal=request.proximal or 0.0,
    )
    if plan is not None:
        family.point.notes += [plan.note] if plan.note else []
        log.info(
            "weights %.2f GB; graph %s (%s)",
            plan.cost.weight_bytes / 1e9,
            plan.graph,
            ", ".join(f"{way} {cost.graph_bytes / 1e9:.2f} GB" for way, cost in plan.costs.items()),
        )
    return family

"""From a checkpoint and text to a record on disk: the main job.

checkpoint -> token batches -> curvature operators -> probes -> record, written after every probe.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectra import curvature
from spectra.checkpoint import Checkpoint, load_checkpoint
from spectra.curvature.family import Curvature
from spectra.data import TokenBatches, token_batches
from spectra.errors import InputWarning
from spectra.estimation import engine
from spectra.estimation.output import open_output
from spectra.estimation.request import (
    Request,
    displaced,
    protocol_changes,
    resolve,
    settings,
    targeted,
)
from spectra.record import Spectrum

DEFAULT_SEQ_LEN = 512


def estimate(ckpt: str | Path | Request, *, progress: bool = True, **options: Any) -> Spectrum:
    """Estimate the spectrum of one checkpoint and return (and, with `output`, write) its record.

    Args:
        ckpt: A checkpoint, or a whole `Request`.
        progress: Whether to show a progress bar.
        **options: The other fields of `Request`.

    Raises:
        SpectraError: Whatever is wrong with the input, in one sentence.
    """
    if isinstance(ckpt, Request):
        request = resolve(replace(ckpt, **options))
    else:
        request = resolve(Request(str(ckpt), **options))
    asked, target, displacement = settings(request), targeted(request), displaced(request)
    earlier = None
    if request.output is not None:
        earlier = open_output(
            Path(request.output), resume=request.resume, overwrite=request.overwrite
        )
    checkpoint = load(request)
    batches = read_data(request, checkpoint)
    point, notes = displacement.apply_(checkpoint.model, request.params)
    operator = build_operator(request, checkpoint, batches)
    operator.point.notes += notes
    return engine.run(
        operator,
        asked,
        target=target,
        metadata={
            "checkpoint": checkpoint.meta.metadata(),
            "data": batches.metadata(),
            "point": point,
            "estimator": {
                "protocol": request.protocol,
                "protocol_changes": protocol_changes(request),
                "num_batches": len(batches),
            },
        },
        output=None if request.output is None else Path(request.output),
        earlier=earlier,
        progress=progress,
        description=Path(checkpoint.meta.path).name,
    )


def load(request: Request) -> Checkpoint:
    """Load the checkpoint of a resolved request."""
    return load_checkpoint(
        request.ckpt,
        revision=request.revision,
        tokenizer=request.tokenizer,
        device=request.device,
        dtype=request.dtype or "float32",
        trust_remote_code=request.trust_remote_code,
        quantizer=request.quantizer,
        w_bits=request.w_bits,
        a_bits=request.a_bits,
        kv_bits=request.kv_bits,
        initialize_scales=request.initialize_scales,
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


def build_operator(request: Request, checkpoint: Checkpoint, batches: TokenBatches) -> Curvature:
    """Return the curvature family of a resolved request."""
    build = curvature.hessian if request.curvature == "hessian" else curvature.ggn
    return build(
        checkpoint,
        batches,
        params=request.params,
        surface=request.surface,
        reduce=request.reduce,
        graph=request.graph,  # type: ignore[arg-type]
        dtype=request.dtype,
        proximal=request.proximal or 0.0,
    )

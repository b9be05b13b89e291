"""`spectra info`: what a checkpoint is and what an estimate of it would take; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from spectra import checkpoint
from spectra.checkpoint.plan import in_words
from spectra.cli.arguments import parse
from spectra.curvature.params import select_parameters
from spectra.errors import OutOfMemoryError, UsageError
from spectra.estimation import Request
from spectra.estimation.choice import choose_graph
from spectra.estimation.cost import EFFICIENCY, Cost, matmul_rate, shape_of
from spectra.estimation.memory import WORK_VECTORS, available_bytes, plan_memory
from spectra.estimation.pipeline import DEFAULT_SEQ_LEN
from spectra.estimation.request import resolve, settings, what_to_read
from spectra.estimation.settings import DTYPES
from spectra.estimation.target import DEFAULT_MAX_HVPS
from spectra.quant.quantizer import TERNARY

DESCRIPTION = """\
What a checkpoint is, and the memory and time an estimate with these settings would take. Reads
headers and configuration, no weights; times one matrix product for a fifth of a second."""


@dataclass(frozen=True)
class Arguments(Request):
    """The fields of `Request`; the checkpoint may also be given without a flag."""

    ckpt: str = field(
        default="", metadata={"help": "Checkpoint: 'tiny', a hub id, a directory, a GGUF file."}
    )


def run(arguments: Sequence[str]) -> int:
    """Run the verb."""
    listed = list(arguments)
    if listed and not listed[0].startswith("-"):
        listed = ["--ckpt", *listed]
    asked = parse(Arguments, listed, prog="spectra info", description=DESCRIPTION)
    if not asked.ckpt:
        raise UsageError("no checkpoint given; pass one, as in: spectra info tiny")
    found = checkpoint.describe(asked.ckpt, **what_to_read(asked))
    for name, value in _facts(found):
        print(f"{name:<12}{value}")
    if found.refusal:
        print(f"{'refused':<12}{found.refusal}")
        return 0
    request = resolve(asked)
    if request.tol is not None:
        request = _at_most(request)
    selection = select_parameters(found.skeleton, request.params)
    print()
    for line in _cost_lines(request, found, selection.dim):
        print(line)
    return 0


def _at_most(request: Request) -> Request:
    """Return the estimate of as many steps as an adaptive one may take at most."""
    spent = DEFAULT_MAX_HVPS if request.max_hvps is None else request.max_hvps
    operators = 1 if request.reduce == "mean" else request.num_batches or 1
    steps = max(1, spent // operators)
    print(f"{'adaptive':<12}at most {spent:,} products; what follows is the cost of all of them")
    return replace(request, tol=None, tau=None, max_hvps=None, num_probes=1, lanczos_steps=steps)


def _facts(found: checkpoint.Description) -> list[tuple[str, str]]:
    size = f"{found.weight_bytes / 1e6:,.1f} MB, {found.stored_dtype}"
    shape = f"{found.layers} blocks, width {found.hidden}, vocabulary {found.vocab}"
    facts = [
        ("checkpoint", found.path),
        ("model", f"{found.architecture}, {found.parameters:,} parameters ({shape})"),
        ("weights", f"{found.format}, {size}"),
        ("step", "unknown" if found.step is None else str(found.step)),
        ("tokenizer", "yes" if found.tokenizer else "none: pass --tokenizer, or token ids as data"),
    ]
    if found.qat is not None:
        facts += _quantization(found.qat)
        facts.append(("told by", found.why))
    return facts + [("note", note) for note in found.notes]


def _quantization(qat: checkpoint.Qat) -> list[tuple[str, str]]:
    scales = {
        "stored": "scales stored",
        "initial": "scales derived from the weights on loading",
        None: "no learned scales",
    }
    by = {"spectra": "this package", "winq": "WinQ's code", "paretoq": "ParetoQ's code"}
    by |= {"efficientqat": "EfficientQAT's code", "bitnet": "BitNet's", "torchao": "torchao"}
    by |= {"compressed-tensors": "nobody: quantized after training by llm-compressor"}
    by |= {"llm-qat": "LLM-QAT's code", "initial": "nobody yet: a float checkpoint"}
    facts = [
        ("quantized", f"{_words(qat)}; {scales[qat.scales]}"),
        ("trained by", by[qat.source]),
    ]
    if qat.spec.options:
        facts.append(("options", ", ".join(f"{n}={value}" for n, value in qat.spec.options)))
    told = [qat.method or "", "" if qat.step is None else f"step {qat.step}"]
    if qat.resets:
        told.append(f"{qat.resets} resets")
    if qat.steps_since_reset is not None:
        told.append(f"{qat.steps_since_reset} steps since the last reset")
    return [*facts, ("method", ", ".join(filter(None, told)) or "unknown")]


def _words(qat: checkpoint.Qat) -> str:
    if qat.packed_bits is None:
        return in_words(qat.spec)
    kind = "ternary" if qat.packed_bits == TERNARY else f"{qat.packed_bits:g}-bit"
    return in_words(qat.spec).replace("16-bit weights", f"packed {kind} weights")


def _cost_lines(request: Request, found: checkpoint.Description, dim: int) -> list[str]:
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu")
        if request.device == "auto"
        else request.device
    )
    dtype = DTYPES[request.dtype or "float32"]
    asked = settings(request)
    context = found.context or DEFAULT_SEQ_LEN
    usual = min(DEFAULT_SEQ_LEN, context)
    seq_len = usual if request.seq_len is None else request.seq_len
    batches, size = request.num_batches or 1, request.batch_size or 1
    mean = request.reduce == "mean"
    tokens = seq_len * size * (batches if mean else 1)
    rows = size if request.micro_batch is None else min(size, request.micro_batch)
    shape = shape_of(found.skeleton.config, found.linear, found.parameters)
    plan = choose_graph(
        request.graph,  # type: ignore[arg-type]
        shape,
        tokens=tokens,
        seq_len=seq_len,
        piece=rows * seq_len,
        dtype=dtype,
        device=device,
        quantized=0 if found.qat is None else shape.linear,
        kind="GGN" if request.curvature == "ggn" else "Hessian",
        loaded=False,
        limit=asked.max_memory,
    )
    cost = plan.cost
    operators = 1 if mean else batches
    products = operators * asked.num_probes * min(asked.lanczos_steps, dim)
    seconds = products * cost.flops / (EFFICIENCY * matmul_rate(device, dtype))
    lines = [
        f"an estimate of {request.params} ({dim:,} parameters) in {request.dtype} on {device}:",
        f"  products  {operators} operators × {asked.num_probes} probes × "
        f"{min(asked.lanczos_steps, dim)} steps = {products:,}, {cost.flops / 1e9:,.1f} GFLOP each",
        f"  time      about {_duration(seconds)} in one process; torchrun shares the probes among "
        f"up to {operators * asked.num_probes}",
        f"  weights   {_size(cost.weight_bytes)}",
        f"  graph     {plan.graph}: about {_size(cost.graph_bytes)} for {tokens:,} tokens"
        + ("" if rows == size else f", {rows} sequences at a time"),
        "            " + ", ".join(f"{w} {_size(c.graph_bytes)}" for w, c in plan.costs.items()),
        f"  checks    about {_size(cost.reference_bytes)} for one product in float64",
    ]
    lines += [f"  note      {plan.note}"] if plan.note else []
    return lines + _memory_lines(request, dim, dtype, device, cost)


def _memory_lines(
    request: Request, dim: int, dtype: torch.dtype, device: torch.device, cost: Cost
) -> list[str]:
    free = available_bytes(device)
    left = max(1, free - cost.weight_bytes - cost.graph_bytes)
    try:
        plan = plan_memory(settings(request).with_changes(max_memory=left), dim, dtype, device)
    except OutOfMemoryError as error:
        return [f"  memory    does not fit: {error}"]
    total = cost.weight_bytes + cost.graph_bytes + plan.vector_bytes + plan.basis_bytes
    lines = [
        f"  vectors   {_size(plan.vector_bytes)}",
        f"  basis     {plan.policy.describe()}: {_size(plan.basis_bytes)}",
        f"  memory    about {_size(total)} of {_size(free)} free on {device}",
    ]
    every = request.save_state_every
    if every is not None:
        size = _size(plan.basis_bytes + plan.vector_bytes * 2 // WORK_VECTORS)
        lines.append(f"  state     up to {size} on disk every {every} steps, twice while written")
    return lines + ([f"  note      {plan.note}"] if plan.note else [])


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

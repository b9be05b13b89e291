"""`--per layer|module`: the diagonal blocks of one Hessian, a record each.

The parts are those of `--params`: with `linear`, the weights of each transformer block, or of each
linear module. The checkpoint is loaded, and its weights moved (--toward_grid, --noisy_weights),
once: all parts are blocks of the same matrix at the same point, with the same batches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spectra.checkpoint import Checkpoint
from spectra.curvature import select_parameters
from spectra.data import TokenBatches
from spectra.errors import UsageError, nearest
from spectra.estimation import Request, engine, pipeline
from spectra.estimation.output import open_output
from spectra.estimation.request import (
    displaced,
    protocol_changes,
    resolve,
    settings,
    targeted,
)
from spectra.record import Spectrum

KINDS = ("layer", "module")
_BLOCK = re.compile(r"(?P<list>.*?)\.(?P<layer>\d+)\.(?P<rest>.+)")
_SPECIAL = re.compile(r"([*?[])")


@dataclass(frozen=True)
class Part:
    """Some of the selected parameters.

    Attributes:
        name: Directory of its record: layer-03, layer-03-self_attn.q_proj, model.norm.
        names: Its parameters.
        layer: Index of the transformer block, None outside the blocks.
        module: Name of the module within its block; None for a whole block.
    """

    name: str
    names: tuple[str, ...]
    layer: int | None
    module: str | None

    @property
    def params(self) -> str:
        """The parameters as globs that match nothing else."""
        return ",".join(_SPECIAL.sub(r"[\1]", name) for name in self.names)


@dataclass(frozen=True)
class Opened:
    """A checkpoint at the point of evaluation, with its data; shared by its parts."""

    request: Request
    checkpoint: Checkpoint
    batches: TokenBatches
    point: dict[str, Any]
    notes: list[str]

    def parts(self, per: str) -> list[Part]:
        """Return the parts of the request's parameters."""
        model = self.checkpoint.model
        return split(select_parameters(model, self.request.params).names, per)


def check_kind(per: str | None) -> None:
    """Refuse a kind of part that is not known."""
    if per is not None and per not in KINDS:
        raise UsageError(f"per={per!r} is not one of {', '.join(KINDS)}{nearest(per, KINDS)}")


def check_request(request: Request) -> None:
    """Refuse settings that no checkpoint can be estimated with, before the first is loaded."""
    asked = resolve(request)
    settings(asked), targeted(asked), displaced(asked)


def split(names: Sequence[str], per: str) -> list[Part]:
    """Return the parts of a selection, in its order.

    A parameter's block is the first number in its name. What lies outside the blocks (embedding,
    last norm, head) makes a part a module.

    Args:
        names: Parameters, as in `named_parameters`.
        per: "layer" or "module".
    """
    groups: dict[tuple[str, int | None, str | None], list[str]] = {}
    for name in names:
        found = _BLOCK.fullmatch(name)
        if found is None:
            key: tuple[str, int | None, str | None] = ("", None, _module(name))
        else:
            inside = _module(found["rest"]) if per == "module" else None
            key = (found["list"], int(found["layer"]), inside)
        groups.setdefault(key, []).append(name)
    lists = {key[0] for key in groups if key[1] is not None}
    width = max((len(str(key[1])) for key in groups if key[1] is not None), default=0)
    parts = []
    for (where, layer, module), members in groups.items():
        words = [f"layer-{layer:0{max(width, 2)}d}"] if layer is not None else []
        if len(lists) > 1 and layer is not None:
            words.insert(0, where)  # an encoder's blocks beside a decoder's
        parts.append(
            Part("-".join([*words, *filter(None, [module])]), tuple(members), layer, module)
        )
    return parts


def _module(name: str) -> str:
    return name.rpartition(".")[0] or name


def open_checkpoint(request: Request) -> Opened:
    """Load what the parts of a request share."""
    request = resolve(request)
    displacement = displaced(request)
    checkpoint = pipeline.load(request)
    batches = pipeline.read_data(request, checkpoint)
    point, notes = displacement.apply_(checkpoint.model, request.params)
    return Opened(request, checkpoint, batches, point, notes)


def estimate_part(
    opened: Opened, part: Part, per: str, output: Path, *, progress: bool = True
) -> Spectrum:
    """Estimate the spectrum of one part and write its record to `output`.

    Raises:
        SpectraError: Whatever is wrong, in one sentence.
    """
    request = opened.request
    earlier = open_output(output, resume=request.resume, overwrite=request.overwrite)
    operator = pipeline.build_operator(
        replace(request, params=part.params), opened.checkpoint, opened.batches
    )
    operator.point.notes += opened.notes
    meta = opened.checkpoint.meta
    return engine.run(
        operator,
        settings(request),
        target=targeted(request),
        metadata={
            "checkpoint": meta.metadata(),
            "data": opened.batches.metadata(),
            "point": opened.point,
            "params": {
                "select": request.params,
                "per": per,
                "layer": part.layer,
                "module": part.module,
                "weight_norm": weight_norm(opened.checkpoint.model, part.names),
            },
            "estimator": {
                "protocol": request.protocol,
                "protocol_changes": protocol_changes(request),
                "num_batches": len(opened.batches),
            },
        },
        output=output,
        earlier=earlier,
        progress=progress,
        description=f"{Path(meta.path).name} {part.name}",
    )


def weight_norm(model: Any, names: Sequence[str]) -> float:
    """Return ‖W‖ of the named parameters together."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return math.sqrt(sum(float(parameters[n].detach().double().square().sum()) for n in names))

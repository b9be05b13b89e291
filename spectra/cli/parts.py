"""`--per layer|module`: the diagonal blocks of one Hessian, a record each.

The parts are those of `--params`: with `linear`, the weights of each transformer block, or of each
linear module. The checkpoint is loaded, and its weights moved (--toward_grid, --noisy_weights),
once: all parts are blocks of the same matrix at the same point, with the same batches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectra.curvature import select_parameters
from spectra.errors import UsageError, nearest
from spectra.estimation import pipeline
from spectra.estimation.pipeline import Opened
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


def check_kind(per: str | None) -> None:
    """Refuse a kind of part that is not known."""
    if per is not None and per not in KINDS:
        raise UsageError(f"per={per!r} is not one of {', '.join(KINDS)}{nearest(per, KINDS)}")


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


def parts_of(opened: Opened, per: str) -> list[Part]:
    """Return the parts of the parameters that were asked for."""
    return split(select_parameters(opened.checkpoint.model, opened.request.params).names, per)


def estimate_part(
    opened: Opened, part: Part, per: str, output: Path, *, progress: bool = True
) -> Spectrum:
    """Estimate the spectrum of one part and write its record to `output`.

    Raises:
        SpectraError: Whatever is wrong, in one sentence.
    """
    facts = {
        "select": opened.request.params,
        "per": per,
        "layer": part.layer,
        "module": part.module,
    }
    return pipeline.estimate_part(opened, part.params, facts, output, progress=progress)

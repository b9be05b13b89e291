"""Which parameters: `linear`, `embedding`, `all`, or globs over names.

    linear     the weight of every nn.Linear, GPT-2 style Conv1D and fake-quantized layer inside the
               transformer blocks (the ModuleLists of the base model); head and biases excluded. A
               module without blocks: the weight of every such layer.
    embedding  the input embedding's weight (of a plain module: every nn.Embedding's).
    all        every floating-point parameter, those of quantizers aside.
    globs      "model.layers.0.*,*.mlp.*": names as in `named_parameters`, `*`, `?` and `[...]`.

A tied parameter is one parameter under several names and is selected once, so a tied embedding
carries both of its paths. Quantizers' own parameters (step sizes, noise) are no coordinates: the
usual straight-through functions have no symmetric second derivative in weights and step sizes
together, and where they have, rows and columns of the step sizes carry the factor that scales their
gradients. `all` and globs that end in `*` leave them out and note it; a glob that names them is
refused. `requires_grad` says how a model was trained, not which Hessian is asked
for; the selection ignores it. Whatever the order of the globs, parameters come in the order of
`named_parameters`: equal selections have equal coordinates.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spectra.curvature.fake_quantized import is_fake_quantized, quantizer_parameters
from spectra.errors import UsageError, nearest

KEYWORDS = ("linear", "embedding", "all")
_LEFT_OUT = "parameters of the quantizers (step sizes, noise) are left out"
_FUSED_NDIM = 3  # experts stacked into one tensor: (experts, out, in)


@dataclass(frozen=True)
class Selection:
    """An ordered choice of parameters, and the flat vector (dim,) they form one after another.

    Attributes:
        params: What was asked for, as one string.
        names: First name of each selected parameter, in the order of `named_parameters`.
        shapes: Their shapes.
        aliases: Every name of each (more than one where weights are tied).
        notes: What was left out.
    """

    params: str
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    aliases: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of coordinates of each parameter."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def dim(self) -> int:
        """Number of coordinates in all."""
        return sum(self.sizes)

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Yield each parameter's name and its place in the flat vector."""
        start = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            yield name, slice(start, start + size)
            start += size

    def norm(self, model: nn.Module) -> float:
        """Return the Euclidean norm of these parameters of `model`, whatever stands in for them."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        norms = (
            torch.linalg.vector_norm(parameters[name].detach(), dtype=torch.float64)
            for name in self.names
        )
        return math.hypot(*map(float, norms))

    def split(self, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the blocks of `v`, (..., dim), each (..., *shape): views, not copies."""
        lead = v.shape[:-1]
        pieces = v.split(list(self.sizes), dim=-1)
        return tuple(
            piece.view(*lead, *shape) for piece, shape in zip(pieces, self.shapes, strict=True)
        )

    def flatten(
        self, blocks: Sequence[torch.Tensor | None], like: torch.Tensor, lead: tuple[int, ...] = ()
    ) -> torch.Tensor:
        """Return the blocks, each (*lead, *shape) or None for zero, as one new (*lead, dim) tensor.

        Args:
            blocks: One tensor or None for each parameter.
            like: Any tensor of the wanted dtype and device.
            lead: Leading shape of every block.
        """
        pieces = [
            like.new_zeros(*lead, size) if block is None else block.reshape(*lead, size)
            for block, size in zip(blocks, self.sizes, strict=True)
        ]
        return torch.cat(pieces, dim=-1)


def select_parameters(model: nn.Module, params: str | Sequence[str] = "linear") -> Selection:
    """Return the parameters of `model` that `params` names.

    Args:
        model: Any module.
        params: "linear", "embedding", "all", globs over names, or a comma-separated string or a
            list of these, whose union is taken.

    Raises:
        UsageError: If nothing matches, a match has no continuous value or belongs to a quantizer,
            or "linear" meets weights it cannot read as linear layers.
    """
    wanted = [params] if isinstance(params, str) else list(params)
    patterns = [part.strip() for item in wanted for part in item.split(",") if part.strip()]
    if not patterns:
        raise UsageError(f"params={params!r} names no parameter; pass one of {_choices()}.")
    groups = _groups(model)
    found: set[int] = set()
    own = quantizer_parameters(model)
    for pattern in patterns:
        matched = _match(model, pattern, groups)
        _refuse_named(own, pattern, matched, groups)
        found |= matched
    chosen = found - own
    return Selection(
        params=",".join(patterns),
        names=tuple(names[0] for key, (_, names) in groups.items() if key in chosen),
        shapes=tuple(p.shape for key, (p, _) in groups.items() if key in chosen),
        aliases=tuple(tuple(names) for key, (_, names) in groups.items() if key in chosen),
        notes=(_LEFT_OUT,) if found & own else (),
    )


Groups = dict[int, tuple[nn.Parameter, list[str]]]


def _groups(model: nn.Module) -> Groups:
    groups: Groups = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), (parameter, []))[1].append(name)
    return groups


def _refuse_named(own: set[int], pattern: str, found: set[int], groups: Groups) -> None:
    """Refuse a pattern that asks for parameters of quantizers rather than for everything."""
    open_ended = pattern in KEYWORDS or pattern.endswith("*")
    if not found & own or (found - own and open_ended):
        return
    name = next(names[0] for key, (_, names) in groups.items() if key in found & own)
    raise UsageError(
        f"params={pattern!r} selects {name}, which belongs to a quantizer; weights and step sizes "
        "together have no Hessian (the second derivative of the estimator is not symmetric, or "
        "scaled by its gradient factor): select weights alone, as '*.weight'."
    )


def _match(model: nn.Module, pattern: str, groups: Groups) -> set[int]:
    if pattern == "linear":
        found = _linear(model, groups)
    elif pattern == "embedding":
        found = {id(weight) for weight in embedding_weights(model) if id(weight) in groups}
    elif pattern == "all":
        found = {key for key, (p, _) in groups.items() if p.is_floating_point()}
    else:
        found = {
            key
            for key, (_, names) in groups.items()
            if any(fnmatch.fnmatchcase(name, pattern) for name in names)
        }
    if not any(groups[key][0].numel() for key in found):
        known = [name for _, names in groups.values() for name in names]
        raise UsageError(
            f"params={pattern!r} selects none of the {len(known)} parameters of "
            f"{type(model).__name__}; pass {_choices()}{nearest(pattern, known)}."
        )
    for key in found:
        parameter, names = groups[key]
        if not parameter.is_floating_point():
            raise UsageError(
                f"params={pattern!r} selects {names[0]}, stored as {parameter.dtype}, which has no "
                "derivative; load the checkpoint dequantized, or select other parameters."
            )
    return found


def _choices() -> str:
    return "linear, embedding, all, or globs such as 'model.layers.0.*'"


def is_conv1d(module: nn.Module) -> bool:
    """Whether `module` is the transposed linear layer of GPT-2: weight (in, out), y = xW + b."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear layer stores its weight as (in, out): Conv1D, or a layer that says so."""
    return is_conv1d(module) or bool(getattr(module, "transposed", False))


def is_linear(module: nn.Module) -> bool:
    """Whether `module` is a linear layer, of either orientation."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_language_model(model: nn.Module) -> bool:
    """Whether `model` has the parts of a transformers language model: body, embedding, config."""
    return all(hasattr(model, part) for part in ("base_model", "config", "get_input_embeddings"))


def embedding_weights(model: nn.Module) -> list[torch.Tensor]:
    """Return the input embedding's weight, or every nn.Embedding's of a plain module."""
    if is_language_model(model):
        found = [model.get_input_embeddings()]  # type: ignore[operator]
    else:
        found = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    weights = [getattr(module, "weight", None) for module in found]
    return [weight for weight in weights if isinstance(weight, torch.Tensor)]


def _linear(model: nn.Module, groups: Groups) -> set[int]:
    found: set[int] = set()
    for prefix, block in block_lists(model):
        for name, module in block.named_modules():
            where = f"{prefix}.{name}".strip(".")
            if is_linear(module) or is_fake_quantized(module):
                weight: Any = module._parameters.get("weight")
                if weight is None:
                    raise UsageError(
                        f"params='linear' cannot take {where}, whose weight is computed from other "
                        f"parameters; pass globs such as '{where}.*'."
                    )
                found.add(id(weight))
            elif not isinstance(module, nn.modules.conv._ConvNd):
                _refuse_fused(where, module)
    head = _head_weight(model)
    return {key for key in found if key in groups and key != id(head)}


def _refuse_fused(where: str, module: nn.Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim >= _FUSED_NDIM:
            raise UsageError(
                f"params='linear' cannot split {where}.{name} of shape {tuple(parameter.shape)} "
                f"(experts fused into one tensor) into linear layers; pass globs, such as "
                f"'*.{name}', to take it whole."
            )


def block_lists(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the outermost ModuleLists of the base model, or the whole of a module without any."""
    if not is_language_model(model):
        return [("", model)]
    base: Any = model.base_model
    root = next((name for name, module in model.named_modules() if module is base), "")
    found: list[tuple[str, nn.Module]] = []
    for name, module in base.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and not inside:
            found.append((name, module))
    return [(f"{root}.{name}".strip("."), module) for name, module in found] or [(root, base)]


def _head_weight(model: nn.Module) -> torch.Tensor | None:
    if not is_language_model(model) or not hasattr(model, "get_output_embeddings"):
        return None
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    return getattr(head, "weight", None)

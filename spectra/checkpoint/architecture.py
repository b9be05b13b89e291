"""config.json -> a transformers configuration of a causal language model, or one clear sentence."""

from __future__ import annotations

from typing import Any

import torch

from spectra.checkpoint.bounds import check_numbers, counted
from spectra.checkpoint.formats import consolidated
from spectra.checkpoint.locate import CONSOLIDATED, Location
from spectra.checkpoint.quiet import first_line
from spectra.checkpoint.tensors import list_tensors
from spectra.errors import CheckpointError, nearest
from spectra.quant.swap import linear_layers
from spectra.record.jsonfile import read_json as read_json_file


def read_json(location: Location) -> dict[str, Any]:
    """Return config.json as it stands; an empty dict for a GGUF file.

    Raises:
        CheckpointError: If it is missing or not a JSON object.
    """
    if location.config is None:
        return {}
    if location.format == CONSOLIDATED:
        params = consolidated.read_params(location.config)
        check_numbers(location.name, params)
        return params
    where = f"{str(location.config)!r}"
    try:
        config = read_json_file(location.config)
    except FileNotFoundError:
        raise CheckpointError(f"{where} does not exist; a checkpoint needs one.") from None
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CheckpointError(f"{where} is not JSON: {first_line(error)}.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{where} is not a JSON object; copy it again.")
    check_numbers(location.name, config)
    if "transformers_weights" in config:
        raise CheckpointError(
            f"{where} points to other weight files (`transformers_weights`), which is not "
            "supported; rename them to model.safetensors and drop the entry."
        )
    return config


def configuration(location: Location, *, trust_remote_code: bool) -> Any:
    """Return the transformers configuration, checked to be of a causal language model.

    Raises:
        CheckpointError: If the architecture is unknown, needs remote code that was not allowed, is
            no causal language model, or a value in the configuration is impossible.
    """
    from transformers import AutoConfig

    raw = read_json(location)
    if location.format == CONSOLIDATED:
        return _from_params(location, raw)
    remote = bool(raw.get("auto_map"))
    if location.config is not None:
        _check_type(location, raw, remote, trust_remote_code)
    arguments = {"gguf_file": location.weights[0].name} if location.format == "gguf" else {}
    try:
        config = AutoConfig.from_pretrained(
            location.directory,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            **arguments,
        )
    except Exception as error:  # transformers raises what its many readers raise
        raise CheckpointError(
            f"ckpt={location.name!r}: its configuration is not accepted: {first_line(error)}."
        ) from None
    if not (remote and trust_remote_code):
        _check_causal(location, config)
    return config


def _from_params(location: Location, params: dict[str, Any]) -> Any:
    from transformers import LlamaConfig

    shapes = {tensor.name: tensor.shape for tensor in list_tensors(location)}
    try:
        return LlamaConfig(**consolidated.llama_config(params, shapes))
    except Exception as error:  # any number of params.json may be the reason
        raise CheckpointError(
            f"ckpt={location.name!r}: no model can be made from its params.json: "
            f"{first_line(error)}."
        ) from None


def skeleton(
    location: Location, config: Any, *, trust_remote_code: bool, stored: int | None = None
) -> Any:
    """Return the model on the meta device: names and shapes, no memory.

    Args:
        location: The checkpoint.
        config: What `configuration` returned.
        trust_remote_code: Whether Python code that comes with the checkpoint may run.
        stored: Number of its stored tensors, None where they are not known.

    Raises:
        CheckpointError: If no model can be built from the configuration.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"), counted(stored):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            model.tie_weights()  # which transformers 5.0 leaves out on this device
            return model
    except Exception as error:  # any value of the configuration may be the reason
        raise CheckpointError(
            f"ckpt={location.name!r}: no model can be built from its configuration: "
            f"{first_line(error)}."
        ) from None


def linear_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Return (out, in) of every layer of `model` that is quantized, by name.

    Raises:
        UsageError: If there is none, or one that cannot be quantized.
    """
    shapes = {}
    for name, layer in linear_layers(model).items():
        weight = layer._parameters["weight"]
        assert weight is not None
        out, columns = weight.shape if isinstance(layer, torch.nn.Linear) else weight.shape[::-1]
        shapes[name] = (int(out), int(columns))
    return shapes


def forget_quantization(config: Any) -> None:
    """Remove from a configuration what makes transformers build quantized layers of its own."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config


def _check_type(location: Location, raw: dict[str, Any], remote: bool, trusted: bool) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = raw.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING_NAMES:
        return
    if remote and trusted:
        return
    where = f"ckpt={location.name!r} has model_type={kind!r}"
    if remote:
        raise CheckpointError(
            f"{where}, whose code comes with the checkpoint; read it, then allow it with "
            "--trust_remote_code."
        )
    near = nearest(str(kind), CONFIG_MAPPING_NAMES) or "; name a known one in its config.json."
    raise CheckpointError(f"{where}, which this transformers does not know{near}")


def _check_causal(location: Location, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    classes: set[str] = set()
    for entry in KNOWN.values():
        classes.update([entry] if isinstance(entry, str) else entry)
    listed = getattr(config, "architectures", None)
    if not isinstance(listed, list | tuple | None):
        raise CheckpointError(
            f"ckpt={location.name!r}: its configuration is not accepted: architectures is of type "
            f"{type(listed).__name__}, not a list of names."
        )
    named = [str(name) for name in listed or []]
    if config.model_type not in KNOWN or (named and classes.isdisjoint(named)):
        what = named[0] if named else f"model_type={config.model_type!r}"
        raise CheckpointError(
            f"ckpt={location.name!r} is {what}, which is not a causal language model; only models "
            "with a next-token loss have the Hessian that is estimated here."
        )

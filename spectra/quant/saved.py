"""How a checkpoint directory remembers its quantization: one small JSON file beside the weights.

The weights file holds the latent weights under plain names and the learned scales beside them
(`...q_proj.scale`); this file says what they are. Nothing here knows a training loop: `recipe` is
whatever the loop wants to be remembered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.errors import CheckpointError
from spectra.quant.spec import QuantSpec
from spectra.record import write_atomically
from spectra.record.jsonfile import read_json

FILE = "spectra_quantization.json"
VERSION = 1


@dataclass(frozen=True)
class SavedQuantization:
    """What a directory says about its quantized weights.

    Attributes:
        spec: The quantization.
        method: Name of the training method, as "baseline" or "winq"; None where nothing trained.
        step: Optimizer steps taken.
        resets: Resets so far, those before this state included.
        steps_since_reset: Steps since the last one; 0 right after it, None if there was none.
        recipe: Settings of the method, JSON values.
    """

    spec: QuantSpec
    method: str | None = None
    step: int | None = None
    resets: int = 0
    steps_since_reset: int | None = None
    recipe: dict[str, Any] = field(default_factory=dict)

    def save(self, directory: str | Path) -> Path:
        """Write the file into `directory`, whole or not at all, and return its path."""
        content = {
            "version": VERSION,
            "quantization": json.loads(self.spec.to_json()),
            "method": self.method,
            "step": self.step,
            "resets": self.resets,
            "steps_since_reset": self.steps_since_reset,
            "recipe": self.recipe,
        }
        path = Path(directory) / FILE
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
        return path


def read_saved(directory: str | Path) -> SavedQuantization | None:
    """Return what the file in `directory` says, None if there is none.

    Raises:
        CheckpointError: If it is damaged, or of another version.
    """
    path = Path(directory) / FILE
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise CheckpointError(f"{str(path)!r} is not JSON; copy it again.") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        found = content.get("version") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{str(path)!r} has version {found!r}; this release reads version {VERSION}."
        )
    try:
        spec = QuantSpec.from_json(json.dumps(content.get("quantization")))
    except CheckpointError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from None
    return SavedQuantization(
        spec=spec,
        method=_typed(path, content, "method", str),
        step=_typed(path, content, "step", int),
        resets=_typed(path, content, "resets", int) or 0,
        steps_since_reset=_typed(path, content, "steps_since_reset", int),
        recipe=_typed(path, content, "recipe", dict) or {},
    )


def _typed(path: Path, content: dict[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise CheckpointError(
            f"{str(path)!r} has {key}={value!r}, not of type {kind.__name__}; copy it again."
        )
    return value

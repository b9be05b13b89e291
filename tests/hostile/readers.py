"""Every reader of this package as a function of bytes, with valid inputs to start from."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from spectra.errors import SpectraError, printable
from tests.hostile import arguments, checkpoints, results, texts


@dataclass
class Reader:
    """One reader.

    Attributes:
        name: Its name, and that of its corpus.
        seeds: Place -> valid inputs; the place may be filled with what goes beside the file.
        read: Place and input -> nothing; raises SpectraError where the input is refused.
        place: Where its files lie, set by `prepare`.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path, bytes], None]
    place: Path = field(default=Path())
    valid: list[bytes] = field(default_factory=list)

    def prepare(self, place: Path) -> Reader:
        """Make its directory and its valid inputs."""
        self.place = place / self.name
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.valid = self.seeds(self.place)
        return self

    def run(self, data: bytes) -> bool:
        """Read `data`; return whether it was accepted.

        Raises:
            Exception: Whatever is no SpectraError, or a message that a terminal would obey.
        """
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                self.read(self.place, data)
        except SpectraError as error:
            message = str(error)
            if printable(message) != message or not message:
                raise AssertionError(f"a message with control characters: {message!r}") from None
            return False
        return True


def _json_seeds(*values: object) -> Callable[[Path], list[bytes]]:
    return lambda _: [json.dumps(value).encode() for value in values]


READERS = {
    reader.name: reader
    for reader in (
        Reader("record", results.record_seeds, results.read_record),
        Reader("metadata", results.metadata_seeds, results.read_metadata),
        Reader("training", results.training_seeds, results.read_training),
        Reader("summary", results.summary_seeds, results.read_summary),
        Reader("scaling", results.scaling_seeds, results.read_scaling),
        Reader("study", _json_seeds(results.STUDY), results.read_study),
        Reader("quantization", checkpoints.quantization_seeds, checkpoints.read_quantization),
        Reader("config", checkpoints.config_seeds, checkpoints.read_config),
        Reader("safetensors", checkpoints.header_seeds, checkpoints.read_weights),
        Reader("index", checkpoints.index_seeds, checkpoints.read_shards),
        Reader("pickle", checkpoints.pickle_seeds, checkpoints.read_pickle),
        Reader("consolidated", checkpoints.params_seeds, checkpoints.read_params),
        Reader("packed", checkpoints.packed_seeds, checkpoints.read_packed),
        Reader("gguf", checkpoints.gguf_seeds, checkpoints.read_gguf),
        Reader("tokenizer", checkpoints.tokenizer_seeds, checkpoints.read_tokenizer),
        Reader("text", texts.text_seeds, texts.read_text),
        Reader("jsonl", texts.jsonl_seeds, texts.read_jsonl),
        Reader("npy", texts.npy_seeds, texts.read_npy),
        Reader("arguments", arguments.argument_seeds, arguments.read_arguments),
        Reader("yaml", arguments.yaml_seeds, arguments.read_yaml),
        Reader("options", arguments.option_seeds, arguments.read_options),
        Reader("names", arguments.name_seeds, arguments.read_names),
    )
}

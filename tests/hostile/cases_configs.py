"""config.json and the files beside it: code, absurd sizes, wrong kinds, hostile names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.canary import script, template

Build = Callable[[Path, Path], Any]
NOT_MADE = "not accepted|no model can be built|could not be loaded|stored with shape|lacks"


def change(place: Path, file: str = "config.json", **changes: Any) -> None:
    path = place / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def config(**changes: Any) -> Build:
    return lambda place, _: change(place, **changes)


def _text(file: str, text: str) -> Build:
    return lambda place, _: (place / file).write_text(text)


def _code(file: str, model_type: str = "llama", **maps: str) -> Build:
    def build(place: Path, canary: Path) -> None:
        (place / "mine.py").write_text(script(canary))
        changes: dict[str, Any] = {"auto_map": maps}
        change(
            place, file, **(changes | ({"model_type": model_type} if file == "config.json" else {}))
        )

    return build


def _generate(place: Path, canary: Path) -> None:
    (place / "custom_generate").mkdir()
    (place / "custom_generate" / "generate.py").write_text(script(canary))
    change(
        place,
        "generation_config.json",
        auto_map={"GenerationConfig": "mine.G"},
        custom_generate=".",
    )


def _chat(place: Path, canary: Path) -> None:
    change(place, "tokenizer_config.json", chat_template=template(canary))
    (place / "chat_template.jinja").write_text(template(canary))


def _sparse(file: str) -> Build:
    """A terabyte that takes no room on the disk."""

    def build(place: Path, canary: Path) -> None:
        with (place / file).open("ab") as handle:
            handle.truncate(10**12)

    return build


CASES: dict[str, tuple[Build, str | None]] = {
    "code of an unknown model": (
        _code("config.json", "mine", AutoConfig="mine.C", AutoModelForCausalLM="mine.M"),
        "whose code comes with the checkpoint",
    ),
    "code of a known model": (_code("config.json", AutoModelForCausalLM="mine.M"), None),
    "code on the hub": (
        _code("config.json", "mine", AutoConfig="evil/repo--mine.C"),
        "whose code comes",
    ),
    "code of a tokenizer": (_code("tokenizer_config.json", AutoTokenizer="mine.T"), None),
    "code of generation": (_generate, None),
    "a chat template": (_chat, None),
    "kernels of the hub": (
        config(attn_implementation="evil/kernel"),
        "could fetch code from the hub",
    ),
    "kernels of the hub, underscored": (
        config(_attn_implementation="evil/kernel:attn"),
        "could fetch code from the hub",
    ),
    "a billion blocks": (config(num_hidden_layers=10**9), "no model has more than"),
    "a hundred thousand blocks": (config(num_hidden_layers=10**5), "more than .* modules"),
    "a billion heads": (
        config(num_attention_heads=10**9, num_key_value_heads=10**9),
        "no model has more",
    ),
    "a vocabulary of 10^12": (config(vocab_size=10**12), r"makes a model of [\d,]+ values"),
    "a vocabulary beyond 64 bits": (config(vocab_size=10**30), NOT_MADE),
    "a width of 10^9": (config(hidden_size=10**9), "makes a model of|not accepted|no model can be"),
    "a width of zero": (config(hidden_size=0), NOT_MADE),
    "a negative width": (config(hidden_size=-16), NOT_MADE),
    "a width in words": (config(hidden_size="16"), NOT_MADE),
    "a width of half": (config(hidden_size=16.5), NOT_MADE),
    "a list of blocks": (config(num_hidden_layers=[2]), NOT_MADE),
    "widths that are lists": (config(hidden_size=[16] * 1000), NOT_MADE),
    "numbers of 5000 digits": (
        _text("config.json", '{"hidden_size": ' + "9" * 5000 + "}"),
        "is not JSON",
    ),
    "a configuration nested without end": (
        _text("config.json", '{"a":' * 50_000 + "1"),
        "is not JSON",
    ),
    "a configuration nested 500 deep": (
        _text("config.json", '{"a":' * 500 + "1" + "}" * 500),
        "nested more than 100 deep",
    ),
    "a configuration of a terabyte": (_sparse("config.json"), "more than .* bytes"),
    "a quantization file of a terabyte": (_sparse("spectra_quantization.json"), "not JSON"),
    "a step file of a terabyte": (_sparse("trainer_state.json"), None),
    "other weight files": (
        config(transformers_weights="../x.safetensors"),
        "points to other weight files",
    ),
    "a type with a terminal's escapes": (
        config(model_type="\x1b[2J\x1b]0;owned\x07"),
        "does not know",
    ),
    "an architecture with line ends": (
        config(architectures=["A\nB\u202e"]),
        "not a causal language model",
    ),
    "a quantizer by number": (
        config(quantization_config=7),
        "in a quantized format that is not read",
    ),
    "a quantizer by list": (config(quantization_config=[{"quant_method": "x"}]), "not read"),
    "a quantizer of wrong kinds": (
        config(
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": "dense",
                "config_groups": [7],
            }
        ),
        "config_groups|only one group",
    ),
    "groups of wrong kinds": (
        config(
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": "dense",
                "config_groups": {"a": 7},
            }
        ),
        "config_groups|only one group|num_bits",
    ),
    "architectures that are a number": (config(architectures=1e308), "architectures is of type"),
    "a quantizer that is a library": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "not read",
    ),
    "a width that is not a number": (config(w_bits=float("nan")), "is no width"),
    "a width of 10^30 bits": (config(w_bits=10**30), None),
    "a negative number of bits": (config(w_bits=-2), "is no width"),
    "bits in words": (config(w_bits="2"), "is no width"),
    "generation settings nested without end": (
        _text("generation_config.json", "[" * 10**5),
        "could not be loaded",
    ),
    "generation settings that are none": (_text("generation_config.json", '"x"'), "not be loaded"),
}

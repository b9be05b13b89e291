"""Command lines, configuration files, names of quantizers and recipes, as the fuzzer gives them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from spectra.checkpoint.qat import Asked
from spectra.cli import compare, estimate, info, plot, reproduce, table
from spectra.cli.arguments import parse, parse_values
from spectra.estimation import Request
from spectra.estimation.pipeline import check
from spectra.estimation.request import resolve
from spectra.quant.registry import parse_options
from spectra.study.plan import Study, method_settings, study
from spectra.train.recipes.choose import build_recipe
from spectra.train.request import TrainRequest

VERBS = {
    "compare": compare.Arguments,
    "estimate": estimate.Arguments,
    "info": info.Arguments,
    "plot": plot.Arguments,
    "table": table.Arguments,
    "reproduce": reproduce.Arguments,
    "train": TrainRequest,
}


def argument_seeds(place: Path) -> list[bytes]:
    del place
    lines = (
        "estimate --ckpt a b --data wiki.txt --seq_len 256 --num_probes 2 --lanczos_steps 20",
        "estimate --ckpt tiny --protocol winq --surface ste --reduce mean --dtype float64 --seed 3",
        "estimate --ckpt tiny --tol 0.02 --tau 0.1 --max_hvps 6000 --quantizer paretoq --w_bits 2",
        "estimate --ckpt tiny --toward_grid 0.4 --noisy_weights 0.001 --proximal 0.1 --w_bits 1.58",
        "info --ckpt tiny --a_bits 8 --kv_bits 8 --quantizer efficientqat:group_size=128",
        "plot --results x --kind sweep --x step --y lambda_max",
        "compare --results a b --tau 0.1 0.2 --scope population",
        "table --results a --csv -",
        "reproduce --preset quick --bits 1 2 4 --seeds 0 1 2 --max_steps 240 --methods winq cage",
        "train --model tiny --w_bits 2 --recipe winq+cage --reset_every 5 --noise_std 0.001",
    )
    return [line.replace(" ", "\n").encode() for line in lines]


def read_arguments(place: Path, data: bytes) -> None:
    del place
    verb, *rest = data.decode("utf-8", errors="surrogateescape").split("\n")
    kind: Any = VERBS.get(verb, estimate.Arguments)
    # A help page ends the process, as it should, and a file of flags is the reader `yaml`.
    rest = [one for one in rest if one not in ("-h", "--help") and not one.startswith("--config")]
    parsed = parse(kind, rest, prog=f"spectra {verb}", description="")
    _carry_out(parsed)


def _carry_out(parsed: Any) -> None:
    if isinstance(parsed, Request):
        common = {f.name: getattr(parsed, f.name) for f in fields(Request) if f.name != "ckpt"}
        asked = resolve(Request(ckpt="", **common))
        check(asked)
        Asked(asked.quantizer, asked.w_bits, asked.a_bits, asked.kv_bits)
    elif isinstance(parsed, TrainRequest):
        build_recipe(parsed).plan(100)
        Asked(parsed.quantizer, parsed.w_bits, parsed.a_bits, parsed.kv_bits)
    elif isinstance(parsed, reproduce.Arguments):
        given = {f.name: getattr(parsed, f.name) for f in fields(Study)}
        study(parsed.preset, {k: v for k, v in given.items() if v is not None})


def yaml_seeds(place: Path) -> list[bytes]:
    del place
    return [
        b"ckpt: [tiny]\ndata: stdlib\nseq_len: 256\ntol: 0.1\nresume: true\nseed: 0\n",
        b"lanczos-steps: 40\nnum_probes: 2\nsurface: ste\nw_bits: 1.58\n# aside\noutput: null\n",
    ]


def read_yaml(place: Path, data: bytes) -> None:
    path = place / "flags.yaml"
    path.write_bytes(data)
    values = parse_values(
        estimate.Arguments, ["--config", str(path)], prog="spectra", description=""
    )
    _carry_out(estimate.Arguments(**values))


def option_seeds(place: Path) -> list[bytes]:
    del place
    return [
        b"efficientqat:group_size=128,codes=fixed",
        b"hif8:g_bits=8,policy=mean,history=16",
        b"hif8:only=*gate_proj,*up_proj",
        b"fp8_e4m3:policy=current",
        b"paretoq:",
    ]


def read_options(place: Path, data: bytes) -> None:
    del place
    text = data.decode("utf-8", errors="surrogateescape")
    name, _, rest = text.partition(":")
    parse_options(name, rest)
    Asked(text)


def name_seeds(place: Path) -> list[bytes]:
    del place
    return [b"winq+cage", b"baseline", b"winq-f0.4", b"winq-s0.004", b"block-ap", b"dts", b"e2e-qp"]


def read_names(place: Path, data: bytes) -> None:
    del place
    text = data.decode("utf-8", errors="surrogateescape")
    method_settings(text, Study())
    build_recipe(replace(TrainRequest(), recipe=text)).plan(100)

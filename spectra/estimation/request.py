"""What one estimate is asked to do, and what a protocol fills in where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from spectra.curvature.surface import check_penalty
from spectra.errors import UsageError, nearest
from spectra.estimation import reference
from spectra.estimation.perturb import Displacement
from spectra.estimation.settings import SLQSettings
from spectra.estimation.target import Target, as_target

CURVATURES = ("hessian", "ggn")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Request:
    """Everything one estimate is asked to do; None leaves the choice to protocol and model.

    The text beside each field is its description, here and on the command line.
    """

    ckpt: str = field(
        metadata={"help": "Checkpoint: 'tiny' (built in), a hub id, a directory, or a GGUF file."}
    )
    data: str = _option(
        "stdlib",
        "Text: a .txt, .jsonl (`text` or `input_ids`) or .npy file, a directory, "
        "datasets:ID[,CONFIG]:SPLIT[:FIELD], or the built-in corpus (stdlib, stdlib:train).",
    )
    output: str | None = _option(None, "Directory of the record.")
    params: str = _option(
        "linear",
        "Parameters: linear (weights of the blocks' linear layers), embedding, all, or globs over "
        "names, separated by commas.",
    )
    surface: str | None = _option(
        None,
        "Surface: ste (straight through the quantizer: clip mask, at the quantized weights; the "
        "default where there is one), quantized (the same without mask), latent (quantizers off).",
    )
    quantizer: str | None = _option(
        None,
        "Quantizer put on a float checkpoint (README, Methods), options behind a colon, as "
        "hif8:policy=mean; or what a checkpoint has.",
    )
    w_bits: float | None = _option(None, "Bits of the weights with --quantizer; ternary is 1.58.")
    a_bits: int | None = _option(None, "Bits of the activations (16).")
    kv_bits: int | None = _option(None, "Bits of keys and values (16).")
    initialize_scales: bool = _option(
        False, "Derive scales from the weights where a quantized checkpoint holds none."
    )
    toward_grid: float | None = _option(
        None,
        "Evaluate at (1 − f) W + f Q(W): the fraction f of the way to the grid, scales frozen.",
    )
    rederive_scales: bool = _option(
        False, "With --toward_grid: derive the scales anew from the moved weights."
    )
    noisy_weights: float | None = _option(
        None,
        "Standard deviation of one draw of noise, a function of --seed, added to quantized weights "
        "and scales before quantization; to the selected weights of a float checkpoint.",
    )
    proximal: float | None = _option(
        None, "γ: the spectrum of L + γ/2 ‖W − Q(W)‖² with Q(W) constant (ste or latent)."
    )
    reduce: str = _option(
        "per_batch",
        "per_batch: one spectrum a batch; mean: the Hessian of the mean loss over all batches.",
    )
    curvature: str = _option("hessian", "hessian, or ggn (Gauss-Newton).")
    protocol: str = _option(
        "spectra", "spectra, or winq: the reference procedure of arXiv 2605.17471 as it was."
    )
    seq_len: int | None = _option(None, "Tokens in a block (512, or what the model was built for).")
    batch_size: int | None = _option(None, "Blocks in a batch (1).")
    num_batches: int | None = _option(None, "Batches (5).")
    num_probes: int | None = _option(None, "Probes on each operator (1).")
    lanczos_steps: int | None = _option(None, "Products with each probe (200): the resolution.")
    tol: float | None = _option(
        None,
        "Adaptive: instead of a number of steps, extend the runs until the whole interval of every "
        "asked share is at most ±tol, as 0.02, or --max_hvps is spent.",
    )
    tau: str | None = _option(
        None,
        "With --tol: thresholds τ of the asked shares near zero, as 0.01,0.1; auto (the default) "
        "for the finest that the products resolve.",
    )
    edge: str = _option(
        "soft",
        "With --tol: soft, each eigenvalue counting 1/(1 + (λ/τ)⁴), or sharp, those of |λ| ≤ τ, "
        "which takes many more products.",
    )
    negative_mass: bool = _option(False, "With --tol: ask for the mass of λ < 0 as well.")
    scope: str = _option(
        "batches",
        "With --tol: intervals for these batches (3), or for the population over data (5).",
    )
    max_hvps: int | None = _option(
        None, "With --tol: products that may be spent on all batches together (1,200)."
    )
    exact: bool = _option(
        False,
        "Every eigenvalue in place of an estimate, for up to 20,000 selected parameters: the dense "
        "matrix by products (float64 unless --dtype says otherwise).",
    )
    dtype: str | None = _option(
        None, "Precision of model and products: float32 (default), float64, bfloat16, float16."
    )
    matmul_precision: str = _option(
        "highest",
        "Float32 matrix products: highest, or on a GPU high (TF32), medium (bfloat16); what they "
        "cost is in the product error δ.",
    )
    vector_dtype: str | None = _option(
        None, "Precision of the Lanczos vectors (auto: that of the products, at least float32)."
    )
    basis: str | None = _option(
        None, "Where the Lanczos basis is kept: auto, device, host, none (no reorthogonalization)."
    )
    basis_dtype: str = _option("auto", "How the basis is stored: auto, float32, float16, bfloat16.")
    seed: int = _option(0, "Seed of the probes.")
    probe_kind: str = _option("sphere", "sphere, or rademacher (traces only).")
    block_size: int = _option(1, "Probes that share one product.")
    graph: str = _option(
        "auto",
        "First-order graph: keep (2 gradients a product), recompute (3), blocks (4, the memory of "
        "one transformer block), or auto: the first that fits.",
    )
    micro_batch: int | None = _option(
        None, "Sequences of a batch that share a graph (all); the result is the same."
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, ...")
    revision: str | None = _option(None, "Branch, tag or commit of a hub id.")
    tokenizer: str | None = _option(None, "Tokenizer, if the checkpoint has none of its own.")
    trust_remote_code: bool = _option(False, "Run code that a checkpoint brings along.")
    check: bool = _option(True, "Measure determinism, symmetry and the product error.")
    share: str = _option(
        "places",
        "What processes of torchrun share: places (whole batches or probes each; the same bits as "
        "one process), vectors (every operator: its sequences, Lanczos vectors and basis), or "
        "parameters (the weights of the blocks too).",
    )
    max_memory_gb: float | None = _option(None, "Memory the plan may use (what is free).")
    save_state_every: int | None = _option(
        None,
        "Steps after which the Lanczos state of a probe is written beside the record, so that a "
        "killed run goes on inside it. The file is as large as the basis (off).",
    )
    resume: bool = _option(False, "Go on with the run in --output.")
    overwrite: bool = _option(False, "Replace the run in --output.")


PROTOCOLS: dict[str, dict[str, Any]] = {
    "spectra": {
        "dtype": "float32",
        "vector_dtype": "auto",
        "basis": "auto",
        "batch_size": 1,
        "num_probes": 1,
        "lanczos_steps": 200,
        "num_batches": 5,
    },
    "winq": reference.SETTINGS,
}


# With tol, probes and steps are planned, and fewer batches leave more products for steps: three are
# the fewest that say anything about other data.
ADAPTIVE: tuple[dict[str, Any], dict[str, Any]] = (
    {"num_probes": None, "lanczos_steps": None, "num_batches": 3},
    {"num_probes": None, "lanczos_steps": None},
)


NOT_EXACT = ("tol", "num_probes", "lanczos_steps", "basis", "save_state_every")


def resolve(request: Request) -> Request:
    """Return the request with the protocol's settings where it says nothing.

    Raises:
        UsageError: If the protocol or curvature is not known, or the penalty out of range.
    """
    if request.protocol not in PROTOCOLS:
        raise UsageError(
            f"protocol={request.protocol!r} is not one of {', '.join(PROTOCOLS)}"
            f"{nearest(request.protocol, PROTOCOLS)}"
        )
    if request.curvature not in CURVATURES:
        raise UsageError(f"curvature={request.curvature!r} is not one of {', '.join(CURVATURES)}.")
    check_penalty(request.proximal or 0.0)
    preset = PROTOCOLS[request.protocol]
    if request.exact:
        check_exact(request)
        preset = {k: v for k, v in preset.items() if k not in NOT_EXACT} | {"dtype": "float64"}
    if request.tol is not None:
        if request.protocol != "spectra":
            raise UsageError(
                f"protocol={request.protocol!r} has a fixed number of steps, and tol={request.tol} "
                "decides it: pass one of them."
            )
        preset = preset | ADAPTIVE[request.scope == "population"]
    filled = {key: value for key, value in preset.items() if getattr(request, key) is None}
    return replace(request, **filled)


def check_exact(request: Request) -> None:
    """Refuse what an exact spectrum has no use for.

    Raises:
        UsageError: With the setting.
    """
    if request.protocol != "spectra":
        raise UsageError(f"exact has no use for protocol={request.protocol!r}; leave one out.")
    for name in NOT_EXACT:
        if getattr(request, name) is not None:
            raise UsageError(
                f"exact computes every eigenvalue and has no use for {name}="
                f"{getattr(request, name)}; leave one of them out."
            )
    if request.share != "places":
        raise UsageError(f"exact works in one process; leave out share={request.share!r}.")


def protocol_changes(request: Request) -> list[str]:
    """Return the settings, as "seq_len=256", in which a request differs from its protocol."""
    return [
        f"{key}={getattr(request, key)}"
        for key, value in PROTOCOLS[request.protocol].items()
        if getattr(request, key) not in (value, None)
    ]


def settings(request: Request) -> SLQSettings:
    """Return the settings of the Lanczos runs of a resolved request."""
    memory = request.max_memory_gb
    if memory is not None and not memory > 0:
        raise UsageError(f"max_memory_gb={memory} is not an amount of memory; pass e.g. 16.")
    names = ["num_probes", "lanczos_steps", "seed", "probe_kind", "basis", "basis_dtype"]
    names += ["vector_dtype", "block_size", "check", "share", "exact"]
    chosen = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
    # The reference draws its probes on all coordinates and finds the masked ones by chance.
    space: Literal["unmasked", "all"] = "all" if request.protocol == "winq" else "unmasked"
    limit = None if memory is None else int(memory * 1e9)
    return SLQSettings(**chosen, probe_space=space, max_memory=limit)


def targeted(request: Request) -> Target | None:
    """Return what a resolved request asks of an adaptive run, None if it is none."""
    return as_target(
        request.tol,
        tau=request.tau,
        negative_mass=request.negative_mass,
        scope=request.scope,  # type: ignore[arg-type]
        max_hvps=request.max_hvps,
        num_probes=request.num_probes,
        lanczos_steps=request.lanczos_steps,
        edge=request.edge,  # type: ignore[arg-type]
    )


def displaced(request: Request) -> Displacement:
    """Return what a request does to the weights before they are differentiated."""
    return Displacement(
        toward_grid=request.toward_grid,
        rederive_scales=request.rederive_scales,
        noisy_weights=request.noisy_weights,
        seed=request.seed,
    )


def what_to_read(request: Request) -> dict[str, Any]:
    """Return the arguments that `load_checkpoint` and `describe` share."""
    names = ("revision", "trust_remote_code", "quantizer", "w_bits", "a_bits", "kv_bits")
    return {name: getattr(request, name) for name in (*names, "initialize_scales")}


def as_said(request: Request) -> dict[str, Any]:
    """Return the fields that a request sets, for its record: with these the command is the same.

    Where the record goes and how a run was gone on with are no part of what was asked.
    """
    how = ("output", "resume", "overwrite", "save_state_every", "share")
    return {
        f.name: getattr(request, f.name)
        for f in fields(Request)
        if f.name not in how and getattr(request, f.name) != f.default
    }

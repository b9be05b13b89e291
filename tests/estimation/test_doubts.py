"""Silent failures: each is named, and the name stays with the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import analysis
import spectra
from spectra.cli.main import main
from spectra.curvature.fingerprint import changed, checksum, fingerprint
from spectra.errors import NumericalError, NumericalWarning
from spectra.linalg import Lanczos, SymmetricOperator
from spectra.record import Spectrum
from spectra.record.doubts import doubts, heads
from tests.estimation.models import VOCAB, random_llama, small_llama, token_file


def batches(count=2):
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": ids, "labels": ids}
        for ids in torch.randint(0, VOCAB, (count, 1, 12), generator=generator)
    ]


def told(spectrum):
    return heads(spectrum.metadata["warnings"])


def test_an_invariant_subspace_is_a_breakdown_and_a_full_run_is_none():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0] * 20, dtype=torch.float64))
    with pytest.warns(NumericalWarning, match="breakdown: 1 of 1 runs ended by themselves"):
        found = spectra.slq(SymmetricOperator.from_matrix(matrix), lanczos_steps=20, progress=False)
    assert found.steps.max() < 20
    assert told(found) == ["breakdown"]
    full = torch.diag(torch.arange(1.0, 13.0, dtype=torch.float64))
    whole = spectra.slq(SymmetricOperator.from_matrix(full), lanczos_steps=12, progress=False)
    assert told(whole) == []


class Skewed(SymmetricOperator):
    """A matrix with an antisymmetric part below the limit of the check that refuses."""

    def __init__(self, size: float) -> None:
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(300, 300, generator=generator, dtype=torch.float64)
        self.matrix = random + random.T + size * (random - random.T)
        self.dim, self.dtype, self.device = 300, torch.float64, torch.device("cpu")
        self.product_error = 1e-12

    def matvec(self, v: torch.Tensor) -> torch.Tensor:
        return self.matrix @ v


def test_asymmetry_above_the_noise_floor():
    with pytest.warns(NumericalWarning, match="asymmetry: relative .* above the noise floor"):
        found = spectra.slq(Skewed(1e-13 * 1e1), lanczos_steps=10, progress=False)
    assert told(found) == ["asymmetry"]
    assert told(spectra.slq(Skewed(0.0), lanczos_steps=10, progress=False)) == []


def test_lost_orthogonality_is_told(monkeypatch):
    """A basis whose vectors were disturbed after they were stored."""
    extend = Lanczos.extend

    def disturbed(self, steps, **options):
        found = extend(self, steps, **options)
        if self.num_steps == 8:
            self._bases[0]._rows[3] += self._bases[0]._rows[1] * 0.05
        return found

    generator = torch.Generator().manual_seed(0)
    random = torch.randn(200, 200, generator=generator)
    operator = SymmetricOperator.from_matrix(random + random.T)
    monkeypatch.setattr(Lanczos, "extend", disturbed)
    with pytest.warns(NumericalWarning, match=r"lost orthogonality: max .QᵀQ − I. is 0\.05"):
        found = spectra.slq(operator, lanczos_steps=20, progress=False)
    assert told(found) == ["lost orthogonality"]
    monkeypatch.undo()
    assert told(spectra.slq(operator, lanczos_steps=20, progress=False)) == []


@pytest.mark.parametrize("how", ["in place", "behind autograd's back", "swapped", "buffer"])
@pytest.mark.parametrize("graph", ["keep", "recompute"])
@pytest.mark.filterwarnings("ignore::spectra.errors.NumericalWarning")
def test_a_model_that_changes_during_the_run_is_refused(monkeypatch, how, graph):
    model = small_llama()
    model.register_buffer("table", torch.zeros(3))
    layer = model.model.layers[1].mlp.up_proj
    step, count = Lanczos._step, []

    def stepping(self, observe):
        step(self, observe)
        count.append(1)
        if len(count) != 12:  # in the second probe
            return
        with torch.no_grad():
            if how == "in place":
                layer.weight[0, 0] += 1e-6
            elif how == "swapped":
                layer.weight = torch.nn.Parameter(layer.weight * (1 + 1e-6))
            elif how == "buffer":
                model.table += 1
            else:
                layer.weight.data[0, 0] += 1e-6

    monkeypatch.setattr(Lanczos, "_step", stepping)
    H = spectra.hessian(model, batches(), graph=graph)
    with pytest.raises(NumericalError, match=r"changed (while|in place while)"):
        spectra.slq(H, num_probes=2, lanczos_steps=8, progress=False)


def test_checksums_see_every_entry_and_their_order():
    x = torch.arange(1000.0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        y = x.to(dtype)
        z = y.clone()
        assert checksum(y) == checksum(z)
        z[[3, 900]] = z[[900, 3]]
        assert checksum(y) != checksum(z)
    assert checksum(torch.zeros(0)) == 0
    model = torch.nn.Linear(3, 2)
    before = fingerprint(model)
    assert changed(before, fingerprint(model)) == []
    model.bias = None
    assert changed(before, fingerprint(model)) == ["bias"]


def test_nan_in_the_reference_product_is_not_lost_in_a_maximum(monkeypatch):
    from spectra.curvature import checks

    H = spectra.hessian(small_llama(), batches(1))
    good = checks.reference_product(H.mean, torch.ones(H.dim))
    monkeypatch.setattr(checks, "reference_product", lambda *_: good * float("nan"))
    with pytest.raises(NumericalError, match="not finite"):
        checks.measure_product_error(H, torch.ones(H.dim))


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory):
    """A series whose text changes after its first record, and what was said."""
    root = tmp_path_factory.mktemp("doubtful")
    for step in (1, 2, 3):
        random_llama(root / "run" / f"checkpoint-{step}")
    ids = token_file(root / "ids.npy")
    from spectra.cli import estimate as verb

    made = verb.estimate

    def changing(request):
        found = made(request)
        if request.ckpt.endswith("-1"):
            token_file(ids, seed=1)
        return found

    command = ["estimate", "--ckpt", str(root / "run"), "--steps", "all", "--data", str(ids)]
    command += ["--seq_len", "16", "--num_batches", "1", "--lanczos_steps", "6", "--no_figure"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "estimate", changing)
        assert main([*command, "--output", str(root / "out")]) == 0
    return root / "out"


def test_text_that_changes_within_a_series_is_told_in_its_records(doubtful):
    found = [spectra.load(doubtful / "run" / f"step-{step}") for step in (1, 2, 3)]
    assert ["other data" in told(one) for one in found] == [False, True, True]


def test_doubts_reach_terminal_table_and_figure(doubtful):
    runs = analysis.load(doubtful)
    assert "warning, 2 runs: other data" in analysis.table_text(runs)
    assert runs["warnings"].str.contains("other data").tolist() == [False, True, True]
    record = spectra.load(doubtful / "run" / "step-2")
    assert any(line.startswith("warning: other data") for line in analysis.summary_lines(record))
    axes = analysis.plot_record(record)
    for _ in range(2):
        analysis.save_figure(axes, doubtful / "figure.svg", [record])
    texts = [text.get_text() for text in axes.figure.texts] if hasattr(axes, "figure") else []
    texts = texts or [text.get_text() for text in axes.texts]
    assert sum("warnings: other data" in text for text in texts) == 1


def test_doubts_reach_the_report(doubtful):
    written = analysis.write_report(doubtful)
    page = next(path for path in written if path.suffix == ".html").read_text()
    assert "warning, 2 runs: other data" in page


def test_records_without_checks_give_no_doubts():
    one = Spectrum(
        alphas=np.ones((1, 1, 1)),
        betas=np.ones((1, 1, 1)),
        steps=np.ones((1, 1), dtype=np.int64),
        losses=np.ones(1),
        grad_norms=np.ones(1),
        tokens=np.ones(1, dtype=np.int64),
        metadata={"dim": 10},
    )
    assert doubts(one) == []

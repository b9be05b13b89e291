"""The Trainer's progress on stderr: one bar where that is a terminal, one line a log everywhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

_SHOWN = {
    "loss": "loss {:.4f}",
    "perplexity": "ppl {:.4g}",
    "eval_loss": "held-out loss {:.4f}",
    "eval_perplexity": "held-out ppl {:.4g}",
    "learning_rate": "lr {:.3g}",
    "grad_norm": "grad {:.3g}",
    "quant_error_ratio": "‖W−Q‖/‖W‖ {:.4f}",
    "masked_fraction": "masked {:.2%}",
    "amax_ratio": "amax ratio {:.3g}",
    "amax_saturated": "saturated {:.0f}",
    "kept_loss": "kept loss {:.4f}",
    "code_change": "codes changed {:.2%}",
}


class TrainProgress(TrainerCallback):  # type: ignore[misc]
    """Takes the place of the Trainer's own bar, which prints its logs to stdout."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        del args, control, kwargs
        if state.is_local_process_zero:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.description,
                unit="step",
                disable=None,
                dynamic_ncols=True,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step."""
        del args, state, control, kwargs
        if self._bar is not None:
            self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print one line of the metrics."""
        del args, control
        logs = kwargs.get("logs") or {}
        parts = [text.format(logs[key]) for key, text in _SHOWN.items() if key in logs]
        if state.is_world_process_zero and parts:
            tqdm.write(f"step {state.global_step:>6}  " + "  ".join(parts), file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        del args, state, control, kwargs
        if self._bar is not None:
            self._bar.close()
            self._bar = None

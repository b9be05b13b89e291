"""`spectra sample`: a float model in, text drawn from it out, to train a quantized one on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from spectra.cli.arguments import parse
from spectra.train.sampling import SampleRequest as Arguments
from spectra.train.sampling import sample

DESCRIPTION = """\
Draws sequences from a float model, as LLM-QAT (arXiv 2305.17888) does: each begins with another
token of the vocabulary, goes on with the likeliest ones up to 3 to 5 tokens, and is sampled from
there. They are made once, and any number of training runs, of any width, read them as --data."""

EPILOG = """\
examples:
  spectra sample --model tiny --num_sequences 3072 --output data/tiny.jsonl
  spectra train --model tiny --quantizer llm-qat --w_bits 4 --a_bits 8 --kv_bits 8 --distill \\
      --data data/tiny.jsonl --eval_data stdlib"""


def run(arguments: Sequence[str]) -> int:
    """Run the verb."""
    asked = parse(
        Arguments, arguments, prog="spectra sample", description=DESCRIPTION, epilog=EPILOG
    )
    from spectra.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(
        asked.model,
        revision=asked.revision,
        device=asked.device,
        trust_remote_code=asked.trust_remote_code,
    )
    count, tokens = sample(asked, checkpoint, show=sys.stderr.isatty())
    print(f"sequences            {count:,} of {tokens / count:.0f} tokens on average")
    print(f"file                 {asked.output}")
    print(
        f"next                 spectra train --model {asked.model} --distill --data {asked.output}"
    )
    return 0

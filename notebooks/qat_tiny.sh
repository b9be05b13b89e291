#!/bin/bash
# QAT of the built-in model at five widths: baseline, WinQ, and a control whose quantized weights are
# frozen (quantizer scales and norms alone train), three seeds each. Finished runs are skipped.
# usage: notebooks/qat_tiny.sh RUNS    then: python notebooks/qat_tiny.py RUNS FIGURE.png
# other text, other widths: DATA=wiki.txt BITS="3 4" notebooks/qat_tiny.sh RUNS
set -eu
runs=${1:?usage: qat_tiny.sh RUNS}
spectra=${SPECTRA:-spectra}
steps=${STEPS:-240}
data=${DATA:-stdlib}
widths=${BITS:-2 1 1.58 3 4}
for seed in 0 1 2; do
  for bits in $widths; do
    for method in baseline winq control; do
      out=$runs/w$bits-$method-s$seed
      [ -e "$out/spectra_training.json" ] && continue
      case $method in
        winq) extra="--recipe winq" ;;
        control) extra="--trainable scales" ;;
        *) extra="" ;;
      esac
      $spectra train --model tiny --data $data --w_bits $bits $extra --seed $seed --output "$out" \
        --max_steps $steps --learning_rate 1e-3 --per_device_train_batch_size 16 --seq_len 128 \
        --eval_blocks 128 --eval_steps 0.125 --save_steps 0.5 --overwrite
    done
  done
done

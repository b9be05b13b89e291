#!/bin/bash
# QuEST, BitNet b1.58, LLM-QAT, EfficientQAT, HiF8, FP8, CAGE, WinQ on QuEST, WinQ with CAGE: QAT of
# the built-in model, three seeds each, and for each quantizer the run whose quantized weights are
# frozen (the control). At 8 bits nothing is lost that could be learned back: give those METHODS other
# text, as DATA=wikitext2-valid.txt.
# Finished runs are skipped, so the same command goes on after an interruption.
# usage: notebooks/neighbours_tiny.sh RUNS    then: python notebooks/neighbours_tiny.py RUNS
# SEEDS="0 1 2" STEPS=240 METHODS="quest quest-control" choose less
set -eu
runs=${1:?usage: neighbours_tiny.sh RUNS}
spectra=${SPECTRA:-spectra}
steps=${STEPS:-240}
data=${DATA:-stdlib}
seeds=${SEEDS:-0 1 2}
all="quest quest-control bitnet bitnet-control llmqat llmqat-control paretoq-control cage winq+cage
quest-winq quest-cage paretoq efficientqat efficientqat-control"
flags() {
  case $1 in
    quest*) echo "--quantizer quest --w_bits 2" ;;
    bitnet*) echo "--quantizer bitnet --w_bits 1.58 --a_bits 8" ;;
    efficientqat*) echo "--quantizer efficientqat --w_bits 2" ;;
    hif8*) echo "--quantizer hif8:g_bits=8 --recipe dts" ;;
    fp8*) echo "--quantizer fp8_e4m3:g_bits=8 --recipe dts" ;;
    llmqat*) echo "--quantizer llm-qat --w_bits 3 --a_bits 8 --kv_bits 8" ;;
    *) echo "--quantizer paretoq --w_bits 2" ;;
  esac
  case $1 in
    *-control) echo "--trainable scales" ;;
    winq+cage) echo "--recipe winq+cage" ;;
    *winq) echo "--recipe winq" ;;
    *cage) echo "--recipe cage" ;;
    *distilled) echo "--distill" ;;
  esac
}
for seed in $seeds; do
  for method in ${METHODS:-$all}; do
    out=$runs/$method-s$seed
    [ -e "$out/spectra_training.json" ] && continue
    $spectra train --model tiny --data "$data" $(flags "$method") --seed "$seed" --output "$out" \
      --max_steps "$steps" --learning_rate 1e-3 --per_device_train_batch_size 16 --seq_len 128 \
      --eval_blocks 128 --eval_steps 0.125 --save_steps 0.5 --overwrite
  done
done

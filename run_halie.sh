#!/usr/bin/env bash
# The whole pipeline on HALIE (real people, 30 questions): ./run_halie.sh STUDY [OUT]
# STUDY is event_blocks.csv or its folder (`chatbench download halie`). Four simulators: three architectures trained
# from nothing, each with a tokenizer from the training side of its split, and the packaged tiny base.
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
STUDY="${1:?usage: ./run_halie.sh STUDY [OUT]}"
OUT="${2:-results/halie}"
COMMON=(--data "$OUT/data" --results "$OUT/results")

chatbench prepare-splits --study "$STUDY" --splits 5 --out "$OUT/data"
for split in split_0 split_1 split_2 split_3 split_4; do
  for shape in gpt2 mistral llama; do
    model="$OUT/bases/$split/halie-$shape"
    [ -d "$model" ] || chatbench make-scratch-base "$shape" "$model" --width 64 --layers 2 \
      --train "$OUT/data/$split/train.jsonl"
    # 60 tokens hold nearly all of the people's messages. Random weights have nothing to say, so they do not chat; their
    # perplexity stands in the table.
    chatbench run "$model" --only "$split" --steps finetune,ppl,simulate --config configs/scratch.json \
      --assistant replay:all --max-tokens 60 "${COMMON[@]}"
  done
done
for shape in gpt2 mistral llama; do
  chatbench eval-chatbench "$OUT/bases/split_0/halie-$shape" "${COMMON[@]}"
done
chatbench run tiny --steps finetune,ppl,simulate,scores --config configs/one_epoch.json --assistant replay:all \
  --max-tokens 60 "${COMMON[@]}"
chatbench show "$OUT"/bases/split_0/halie-{gpt2,mistral,llama} tiny --details --results "$OUT/results"

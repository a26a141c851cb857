#!/usr/bin/env bash
# The experiment on HALIE, real people and 30 questions: ./run_halie.sh STUDY [OUT] [questions|assistants]
#
# STUDY is event_blocks.csv or its folder (`chatbench download halie`). The same command continues after a kill.
# questions (default)   five splits by question; the same replayed assistants and questions for every simulator: MODEL
#                       fine-tuned by its recipe, the same with an answer model, its base only prompted (two-step and
#                       its variants, IQA-EVAL), three architectures from scratch; the table has user alone, constant,
#                       people and ceiling beside them.
# assistants            four splits, each without the chats of one assistant and simulated with that one, on held-out
#                       questions, by the fine-tuned model and by an answer model; then each assistant's accuracy with
#                       people and simulated.
# Environment: MODEL (a recipe, hub id, folder or GGUF file), CHATS per question and assistant, PROMPTED_CHATS of a
# prompted simulator (whose chats seldom end by themselves, so that each takes several times as long), SPLITS,
# DTYPE of the weights in chats (bfloat16 halves the time where the CPU has bf16 arithmetic), and CONFIG, a file of
# settings (for a trial: {"max_steps": 2}).
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
STUDY="${1:?usage: ./run_halie.sh STUDY [OUT] [questions|assistants]}"
OUT="${2:-results/halie}"
BY="${3:-questions}"
MODEL="${MODEL:-smollm2-135m}"
CHATS="${CHATS:-5}"
PROMPTED_CHATS="${PROMPTED_CHATS:-1}"
SPLITS="${SPLITS:-5}"
KEY="$(basename "${MODEL%.gguf}")"  # the folder of MODEL's results; a hub id's is another
[[ -e "$MODEL" ]] || KEY="${MODEL//\//--}"
SETTINGS=(${CONFIG:+--config "$CONFIG"})
# 60 tokens hold nearly all of the people's messages.
TALK=(--max-tokens 60 --conversations "$CHATS" --dtype "${DTYPE:-auto}")

# What it will cost, by the speed of this machine as the dry run measures it.
cost() {
  echo "== training on one split; its perplexity and chats take about half as long again" >&2
  chatbench finetune "$MODEL" --dry-run --split split_0 --data "$1" "${SETTINGS[@]}" |
    sed -n -E '/^(steps|memory|time)/ { N; p }' >&2
}
# left DONE ALL SECONDS: what the rest will take, if each split takes as long as the last one.
left() { echo "== $1 of $2 splits; about $(($3 * ($2 - $1) / 60)) more minutes" >&2; }

if [[ "$BY" == assistants ]]; then
  COMMON=(--data "$OUT/assistants/data" --results "$OUT/assistants/results")
  chatbench prepare-splits --study "$STUDY" --by assistant --also-questions --out "$OUT/assistants/data"
  cost "$OUT/assistants/data"
  ASSISTANTS=(Davinci InstructBabbage InstructDavinci Jumbo)  # as they are held out: in alphabetical order
  for i in 0 1 2 3; do
    BEGAN=$SECONDS
    SPLIT_ID="split_$i" chatbench finetune "$MODEL" "${SETTINGS[@]}" "${COMMON[@]}"
    CHAT=(--split "split_$i" --assistant "replay:${ASSISTANTS[$i]}" --expected-answers "${TALK[@]}" "${COMMON[@]}")
    chatbench simulate "$MODEL" "${CHAT[@]}"
    chatbench simulate answer-model --simulator "two-step:local:$OUT/assistants/results/models/$KEY/{split}" \
      --answer-model "${CHAT[@]}"
    left $((i + 1)) 4 $((SECONDS - BEGAN))
  done
  for name in "$MODEL" answer-model; do
    python benchmarks/estimate_table.py --model "$name" "${COMMON[@]}"
  done
  exit
fi

COMMON=(--data "$OUT/data" --results "$OUT/results")
RUN=(--assistant replay:all --base-conversations "$CHATS" "${TALK[@]}" "${COMMON[@]}")
chatbench prepare-splits --study "$STUDY" --splits "$SPLITS" --out "$OUT/data"
cost "$OUT/data"
# Exit code 3 says that most chats have no answer, which is a result here.
some() { chatbench "$@" || [[ $? -eq 3 ]]; }
BASE="$(chatbench recipes | awk -v model="$MODEL" '$1 == model { print $2 }')"  # a prompted simulator has no recipe
BASE="${BASE:-$MODEL}"
STYLES=(two-step two-step-problem two-step-help iqa-eval)
NAMES=("$KEY" answer-model halie-gpt2 halie-mistral halie-llama)
PROMPTED=("${STYLES[@]/#/prompted-}")  # other numbers of chats make another table
# One split after the other, with all its simulators: where the experiment is stopped, the splits that are done stand
# in the table.
for ((i = 0; i < SPLITS; i++)); do
  BEGAN=$SECONDS
  ONLY=(--split "split_$i" "${RUN[@]}")
  some run "$MODEL" --steps finetune,ppl,simulate --expected-answers "${SETTINGS[@]}" "${ONLY[@]}"
  some run answer-model --simulator "two-step:local:$OUT/results/models/$KEY/{split}" --answer-model \
    --expected-answers --steps simulate "${ONLY[@]}"
  for shape in gpt2 mistral llama; do
    model="$OUT/bases/split_$i/halie-$shape"
    [[ -d "$model" ]] || chatbench make-scratch-base "$shape" "$model" --width 64 --layers 2 \
      --train "$OUT/data/split_$i/train.jsonl"
    some run "$model" --steps finetune,ppl,simulate --config configs/scratch.json "${ONLY[@]}"
  done
  for style in "${STYLES[@]}"; do
    some run "prompted-$style" --simulator "$style:local:$BASE" --steps simulate "${ONLY[@]}" \
      --conversations "$PROMPTED_CHATS"
  done
  for name in "$MODEL" "${NAMES[@]:1}" "${PROMPTED[@]}"; do
    some eval-chatbench "$name" "${COMMON[@]}" > /dev/null
  done
  chatbench show "${NAMES[@]}" --details --results "$OUT/results"
  chatbench show "${PROMPTED[@]}" --details --results "$OUT/results"
  left $((i + 1)) "$SPLITS" $((SECONDS - BEGAN))
done
for name in "$KEY" answer-model; do
  chatbench realism "$name" "${COMMON[@]}"
done
chatbench report "${NAMES[@]}" "${COMMON[@]}" --out "$OUT/report.html"
chatbench report "${PROMPTED[@]}" "${COMMON[@]}" --out "$OUT/prompted.html"

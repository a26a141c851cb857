#!/usr/bin/env bash
# Fine-tunes MODEL on every split of data/ and measures perplexity: ./run_all_train_ppl.sh MODEL [options of `chatbench run`]
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
chatbench run "${1:?usage: ./run_all_train_ppl.sh MODEL}" --steps finetune,ppl "${@:2}"

#!/usr/bin/env bash
# The same as run_all_train_ppl.sh with the distilgpt2 recipe: ./run_all_train_ppl_distilgpt2.sh [MODEL]
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
chatbench run "${1:-distilgpt2}" --steps finetune,ppl "${@:2}"

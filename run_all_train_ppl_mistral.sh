#!/usr/bin/env bash
# The same as run_all_train_ppl.sh with the mistral-7b recipe: ./run_all_train_ppl_mistral.sh [MODEL]
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
chatbench run "${1:-mistral-7b}" --steps finetune,ppl "${@:2}"

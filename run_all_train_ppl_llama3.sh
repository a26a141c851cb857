#!/usr/bin/env bash
# The same as run_all_train_ppl.sh with the llama3-8b recipe: ./run_all_train_ppl_llama3.sh [MODEL]
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
chatbench run "${1:-llama3-8b}" --steps finetune,ppl "${@:2}"

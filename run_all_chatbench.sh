#!/usr/bin/env bash
# Simulates chats with every trained split of MODEL, says which are left out, and scores them:
# ./run_all_chatbench.sh MODEL [options of `chatbench run`]
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
chatbench run "${1:?usage: ./run_all_chatbench.sh MODEL}" --steps simulate,base,scores "${@:2}"

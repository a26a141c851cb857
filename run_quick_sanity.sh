#!/usr/bin/env bash
# One screen that tells whether a trained MODEL is sane: ./run_quick_sanity.sh MODEL [options of `chatbench sanity`]
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
chatbench sanity "${1:?usage: ./run_quick_sanity.sh MODEL}" "${@:2}"

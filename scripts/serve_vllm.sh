#!/usr/bin/env bash
# Serves the adapters of all splits of a model from one vLLM server (https://docs.vllm.ai, LoRA Adapters).
#
#   scripts/serve_vllm.sh mistral-7b                       # adapters in results/models/mistral-7b/split_*
#   PRINT=1 scripts/serve_vllm.sh mistral-7b --port 8001   # only prints the command; what follows MODEL goes to vLLM
#
# Environment: RESULTS (results), PYTHON (python3), BASE (the base that the adapters name).
# Then:  chatbench simulate mistral-7b --simulator "two-step:completions:mistral-7b-{split}@http://localhost:8000/v1" ...
set -euo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
model=$1
shift
folder=${RESULTS:-results}/models/$model
python=${PYTHON:-python3}

modules=()
for split in "$folder"/split_*; do
  # A folder without this file is a whole model, of which a server holds only one.
  [ -f "$split/adapter_config.json" ] && modules+=("$model-$(basename "$split")=$split")
done
if [ ${#modules[@]} -eq 0 ]; then
  echo "serve_vllm.sh: no adapters in $folder/split_*" >&2
  echo "  fix: fine-tune $model with LoRA; a whole model is served by itself: vllm serve $folder/split_0" \
    "--served-model-name $model-split_0 --generation-config vllm" >&2
  exit 2
fi

# Base and rank stand in the adapters; vLLM knows some ranks only, so the next one up is taken.
read -r rank base < <("$python" - "${modules[@]#*=}" <<'EOF'
import json, sys
configs = [json.load(open(f"{folder}/adapter_config.json")) for folder in sys.argv[1:]]
bases = {config["base_model_name_or_path"] for config in configs}
if len(bases) > 1:
    sys.exit(f"serve_vllm.sh: adapters of several bases: {', '.join(sorted(bases))}")
rank = max(config["r"] for config in configs)
known = [8, 16, 32, 64, 128, 256, 320, 512]
print(next((each for each in known if each >= rank), rank), bases.pop())
EOF
)

# --generation-config vllm: else the model's own top_p and top_k would be mixed into the sampling of the protocol.
# --max-loras 1: one split is simulated after the other; give a larger one where several are simulated at once.
command=(
  vllm serve "${BASE:-$base}"
  --enable-lora --max-lora-rank "$rank" --max-loras 1 --max-cpu-loras "${#modules[@]}"
  --lora-modules "${modules[@]}"
  --generation-config vllm --enable-prefix-caching
  "$@"
)
if [ -n "${PRINT:-}" ]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi

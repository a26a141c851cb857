"""The README.md of a fine-tuned folder: what it is and how to load it again."""

from __future__ import annotations

from chatbench.core.settings import Resolved

_FULL = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
"""

_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
base = AutoModelForCausalLM.from_pretrained("{base}", use_safetensors=True)
model = PeftModel.from_pretrained(base, folder)
"""

_CARD = """\
---
base_model: {base}
library_name: {library}
tags: [chatbench, user-simulator]
---
# User simulator: {model}, {split}

{base} fine-tuned ({method}) to write what a person writes to an AI assistant
while answering a multiple-choice question.
It only works with the prompts of the ChatBench protocol, in their plain-text form:

    [SYSTEM] {{system}}\\n\\n{{user}}\\n\\n[USER] {{turn}} [END]

Trained on {examples} examples for {steps} steps.
Settings, their origins, and the hashes of data and base are in `chatbench.json`.

## Load it again
```python
{snippet}```
Or: `chatbench simulate {folder} --assistant ...`

## Use
For research on how people use AI assistants. It imitates people's mistakes too; do not present its text as a person's.
"""


def model_card(resolved: Resolved, folder: str, *, split: str, examples: int, steps: int) -> str:
    """The card in Markdown, with the metadata header that the hub reads."""
    lora = resolved.settings.method == "lora"
    return _CARD.format(
        base=resolved.base,
        library="peft" if lora else "transformers",
        model=resolved.model,
        split=split,
        method="LoRA" if lora else "all weights",
        examples=f"{examples:,}",
        steps=steps,
        snippet=(_ADAPTER if lora else _FULL).format(folder=folder, base=resolved.base),
        folder=folder,
    )

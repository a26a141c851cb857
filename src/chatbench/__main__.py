"""`python -m chatbench` is `chatbench`: what `accelerate launch -m chatbench` and `torchrun -m chatbench` need."""

from __future__ import annotations

from chatbench.cli import entry

if __name__ == "__main__":
    entry()

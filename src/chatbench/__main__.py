"""`python -m chatbench` is `chatbench`: what `accelerate launch -m chatbench` and `torchrun -m chatbench` need."""

from chatbench.cli import entry

if __name__ == "__main__":
    entry()

"""The same as `chatbench finetune distilgpt2`."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["finetune", "distilgpt2", *sys.argv[1:]]))

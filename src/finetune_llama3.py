"""The same as `chatbench finetune llama3-8b`."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["finetune", "llama3-8b", *sys.argv[1:]]))

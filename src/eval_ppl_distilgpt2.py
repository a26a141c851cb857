"""The same as `chatbench eval-ppl distilgpt2`."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["eval-ppl", "distilgpt2", *sys.argv[1:]]))

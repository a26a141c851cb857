"""The same as `chatbench eval-ppl mistral-7b`."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["eval-ppl", "mistral-7b", *sys.argv[1:]]))

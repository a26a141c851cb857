"""The same as `chatbench eval-ppl llama3-8b`."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["eval-ppl", "llama3-8b", *sys.argv[1:]]))

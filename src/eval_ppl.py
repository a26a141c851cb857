"""The same as `chatbench eval-ppl`."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["eval-ppl", *sys.argv[1:]]))

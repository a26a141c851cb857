"""The same as `chatbench eval-chatbench`."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["eval-chatbench", *sys.argv[1:]]))

"""The same as `chatbench prepare-splits`."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["prepare-splits", *sys.argv[1:]]))

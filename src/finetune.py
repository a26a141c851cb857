"""The same as `chatbench finetune`; SPLIT_ID=split_1 chooses the split."""

import sys

from chatbench.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["finetune", *sys.argv[1:]]))

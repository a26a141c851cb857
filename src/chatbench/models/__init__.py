"""Models on this machine: loading, prefix trees, loss, generation, participants.

The hub's telemetry is switched off before any library that has it is imported: nothing is reported to anybody.
"""

import logging
import os
import warnings

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what a user must know is said by chatbench itself
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and forked workers do not mix
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about a 4-bit kernel that nobody asked for
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks

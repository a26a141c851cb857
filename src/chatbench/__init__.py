"""User simulators for human-AI evaluation.

Whatever is imported from here, no library reports anything to anybody: telemetry is off before any that has it loads.
"""

import os

__version__ = "0.1.0"

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what a user must know is said by chatbench itself
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and forked workers do not mix

"""Models on this machine: loading, prefix trees, loss, generation, participants."""

import logging
import warnings

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about a 4-bit kernel that nobody asked for
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks

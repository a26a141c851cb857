"""What is published of a finished model: its card, its merged form, its copy on the hub."""

import chatbench.models  # noqa: F401  (switches telemetry off before transformers is imported)

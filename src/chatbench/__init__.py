"""User simulators for human-AI evaluation."""

__version__ = "0.1.0"

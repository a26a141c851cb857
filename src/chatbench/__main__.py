"""`python -m chatbench` is `chatbench`: what `accelerate launch -m chatbench` and `torchrun -m chatbench` need."""

from __future__ import annotations


def entry() -> None:
    """The installed command; a Ctrl-C while it is still being loaded ends it without a traceback."""
    try:
        from chatbench.cli import entry as loaded
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    loaded()


if __name__ == "__main__":
    entry()

"""The sample study: generated word problems, people and assistants, so that the ground truth is known.

`problems` draws problems from the kinds and vocabulary in problems.toml; scripted assistants solve them from what a
user wrote, and simulated people chat and answer by stated habits (`participants`); `study` puts them together and
judges first messages. The generating model is described in docs/sample-study.md.
"""

from __future__ import annotations

"""The sample study: generated word problems, people and assistants, so that the ground truth is known.

`problems` draws problems from the kinds and vocabulary in problems.toml, `assistants` solve them from what a user
wrote, `people` chat and answer by stated habits, `study` puts them together, `truth` judges first messages. The
generating model is described in docs/sample-study.md.
"""

from __future__ import annotations

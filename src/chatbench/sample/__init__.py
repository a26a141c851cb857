"""The sample study: word problems, people and assistants that the project generates, so that the truth is known.

`worlds` holds the vocabulary, `schemas` the kinds of problems, `problems` draws one, `assistants` solve it from what a
user wrote, `people` chat and answer by stated habits, `study` puts them together. The generating model is described
in docs/sample-study.md.
"""

from __future__ import annotations

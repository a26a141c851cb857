"""What a page shows, as plain values, so that who gathers them need not know how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Plain = object
"""What JSON can hold: text, finite numbers, booleans, None, lists, and mappings with text as keys."""


@dataclass(frozen=True, slots=True)
class PageContent:
    """One page.

    `first` is read as the page opens, so it is kept small: what was run, scores, questions, figures. Each of `later`
    is read when a view first asks for it (`part(NAME)` in `assets/parts.js`): the chats. Names are of letters, digits
    and hyphens, for each becomes an element's id and, in a folder, a file.
    """

    title: str
    first: Mapping[str, Plain]
    later: Mapping[str, Plain] = field(default_factory=dict)

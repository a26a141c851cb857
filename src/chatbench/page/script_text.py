"""Plain values as JSON that may stand inside an HTML `<script>`, whatever text they hold."""

from __future__ import annotations

import json

_MEANT_AS_MARKUP = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def script_json(value: object) -> str:
    r"""JSON in ASCII without `<`, `>` and `&`: nothing in it can end the element, begin a comment or be an entity.

    ASCII also keeps what is no text (lone surrogates, NUL, U+2028) out of the file, which stays valid UTF-8.

    Raises:
        ValueError: a number is not finite; JSON has no word for it.

    >>> script_json({"said": "</script>\u2028\ud800"})
    '{"said":"\\u003c/script\\u003e\\u2028\\ud800"}'
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_MEANT_AS_MARKUP)

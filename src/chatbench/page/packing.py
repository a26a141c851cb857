"""Large plain values as short text: JSON as gzip as base64, which a browser undoes itself (`DecompressionStream`)."""

from __future__ import annotations

import base64
import gzip
import json


def packed(value: object) -> str:
    """The same value gives the same text, of letters, digits, `+`, `/` and `=`.

    Raises:
        ValueError: a number is not finite; JSON has no word for it.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII, which holds even lone surrogates
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")


def unpacked(text: str) -> object:
    """What `packed` was given."""
    value: object = json.loads(gzip.decompress(base64.b64decode(text)))
    return value

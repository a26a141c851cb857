"""Records as plain values for JSON: an undefined value becomes an object with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from chatbench.measures.agreement import Undefined


def plain(value: object) -> object:
    """Dataclasses as objects, tuples as lists, `Undefined` as `{"undefined": reason}`; anything else as it is."""
    if isinstance(value, Undefined):
        return {"undefined": value.reason}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value

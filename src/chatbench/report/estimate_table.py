"""Tables of estimates for new assistants and of study plans, from the files in `results/estimates/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from chatbench.core.files import read_json
from chatbench.report.grids import EMPTY, Grid, grids_of

Entry = Mapping[str, Any]
"""One estimate as stored: `plain` of `estimation.estimate.Estimate`."""


def read_estimates(path: Path) -> list[Entry]:
    """The estimates of a model in the order in which they were first made; empty if there is no file."""
    return list(cast(dict[str, Entry], read_json(path)).values()) if path.exists() else []


def assistant_line(one: Entry) -> str:
    """What the new assistant is: kind, model, address and temperature of its identity, which holds no secret.

    >>> identity = {"kind": "openai", "name": "vendor/m:1b", "base_url": "http://localhost:1/v1", "temperature": 0.7}
    >>> assistant_line({"assistant": "new", "signature": {"assistant": {"identity": identity}}})
    'new: openai, vendor/m:1b, http://localhost:1/v1, temperature 0.7'
    """
    identity = one["signature"].get("assistant", {}).get("identity", {})
    parts = [str(identity[part]) for part in ("kind", "name", "base_url") if identity.get(part)]
    parts += [f"temperature {found:g}"] if isinstance(found := identity.get("temperature"), int | float) else []
    return f"{one['assistant']}: {', '.join(parts) or 'its identity was not recorded'}"


def undefined_parts(one: Entry) -> list[str]:
    """Why values are undefined: each reason once, after the subsets and differences that it is the reason of."""
    parts = [(row["subset"], part) for row in one["subsets"] for part in (row["predicted"], row["people"] or {})]
    parts += [(f"minus {row['assistant']}", row["difference"]) for row in one["differences"]]
    having: dict[str, list[str]] = {}
    for name, part in parts:
        if "undefined" in part:
            having.setdefault(part["undefined"], []).append(name)
    return [f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in having.items()]


def percent(value: object) -> str:
    """A share, or `undefined`."""
    return f"{100 * value:.1f} %" if isinstance(value, float | int) else "undefined"


def _between(found: Entry, *, points: bool = False) -> str:
    """`61.2 % (52.0 to 70.4)`; differences in percentage points."""
    if "undefined" in found:
        return "undefined"
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})" if points else f"{value:.1f} % ({low:.1f} to {high:.1f})"


def estimate_grids(one: Entry) -> list[Grid]:
    """Tables of one estimate: answer, real chats, variance by cause, differences, held-out assistants, curve."""
    causes = one["subsets"][0]["predicted"].get("variance_by_cause", {})
    total = sum(causes.values())
    return grids_of([
        (f"{one['model']}: expected accuracy of people with {one['assistant']} (95 % prediction interval)",
         ("questions of", "people", "simulated", "questions", "chats"),
         ((row["subset"], _between(row["predicted"].get("estimate", row["predicted"])), percent(row["simulated"]),
           str(row["questions"]), str(row["chats"])) for row in one["subsets"])),
        ("With real chats",
         ("questions of", "rectified", "people alone", "simulation alone", "PPI correlation", "weight", "real answers"),
         map(_with_people, (row for row in one["subsets"] if row["people"] is not None))),
        ("What the interval is made of", ("", "sd, points", "share of the variance"),
         ((cause, f"{100 * part**0.5:.1f}" if part >= 0 else "not above 0",
           f"{100 * part / total:.0f} %" if total > 0 else EMPTY)
          for cause, part in causes.items())),
        (f"{one['assistant']} against the known assistants (percentage points, 95 % interval)", ("", "difference"),
         ((f"minus {row['assistant']}", _between(row["difference"], points=True)) for row in one["differences"])),
        ("Assistants that their simulator had not met",
         ("held out", "people", "simulated", "people minus simulated", "questions", "answers"),
         ((row["assistant"], percent(row["human"]), percent(row["simulated"]), f"{100 * row['error']:+.1f}",
           str(row["questions"]), str(row["answers"])) for row in one["held_out"])),
        (f"Half-width from so many people, {one['answers_per_person']} answers each (points)",
         ("people", "alone", "with the simulator"),
         ((f"{row['people']:,}", f"± {100 * row['alone']:.1f}", f"± {100 * row['with_simulator']:.1f}")
          for row in one["curve"])),
    ])  # fmt: skip


def estimate_lines(one: Entry) -> Iterator[dict[str, object]]:
    """Each value of an estimate with its interval, unrounded, by the columns of `chatbench show --csv`.

    `assistant` is the new one, or the held-out one of which a known assistant's accuracies are.
    """

    def line(source: str, assistant: str, subset: str, found: object, metric: str = "accuracy") -> dict[str, object]:
        value: Mapping[str, object] = found if isinstance(found, Mapping) else {"value": found}
        return {
            "model": one["model"], "source": source, "kind": "estimate", "assistant": assistant, "metric": metric,
            "mean": value.get("value", ""), **{name: value.get(name, "") for name in ("standard_error", "low", "high")},
            "undefined_because": value.get("undefined", ""), "signature_id": one["signature"]["id"], "subset": subset,
        }  # fmt: skip

    new = one["assistant"]
    for row in one["subsets"]:
        yield line("predicted", new, row["subset"], row["predicted"].get("estimate", row["predicted"]))
        yield line("simulated", new, row["subset"], row["simulated"])
        if (real := row["people"]) is not None:
            for source, name in (("rectified", "rectified"), ("people alone", "alone")):
                yield line(source, new, row["subset"], real.get(name, real))
    for row in one["differences"]:
        yield line("predicted", new, "all", row["difference"], f"accuracy minus {row['assistant']}")
    for row in one["held_out"]:
        for source, name in (("people", "human"), ("simulated", "simulated")):
            yield line(source, row["assistant"], "all", row[name])


def _with_people(row: Entry) -> Sequence[str]:
    """The row of a subset with real chats."""
    real, simulated = row["people"], percent(row["simulated"])
    if "undefined" in real:
        return row["subset"], "undefined", "undefined", simulated, EMPTY, EMPTY, EMPTY
    rectified = f"{_between(real['rectified'])}{' = people alone' if real['loses'] else ''}"
    correlation = f"{real['correlation']:.2f}" if isinstance(real["correlation"], float) else "undefined"
    counts = f"{real['answers']} count like {real['effective_answers']:.0f}"
    return row["subset"], rectified, _between(real["alone"]), simulated, correlation, f"{real['weight']:.2f}", counts


def estimate_notes(one: Entry) -> list[str]:
    """The new assistant, reasons for undefined values, the correlation and its origin, notes, and the signature."""
    lose = ", ".join(row["subset"] for row in one["subsets"] if (row["people"] or {}).get("loses"))
    costs = "the simulator costs more than it gives at so few answers: people alone are the estimate"
    correlation = one["correlation"]
    shown = f"{correlation:.3f}" if isinstance(correlation, float) else f"undefined: {correlation['undefined']}"
    return [
        assistant_line(one),
        *undefined_parts(one),
        *([f"{lose}: {costs}"] if lose else []),
        f"PPI correlation {shown} ({one['correlation_from']}): for chatbench plan-study --correlation",
        *one["notes"],
        f"signature {one['signature']['id']}",
    ]

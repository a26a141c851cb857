"""The results of `prefix_tree.py` as Markdown: medians over the rounds, ratios, and the distance from the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from one_measurement import Measurement, Result
from study_like_chatbench import QUESTIONS, TokenCounts

Measured = Sequence[tuple[Measurement, Sequence[Result]]]


def report(measured: Measured, epochs: Mapping[str, TokenCounts], *, in_process: bool) -> str:
    """All tables; `epochs` has the tokens of an epoch by model, `in_process` leaves the memory out."""
    parts = [_epoch_table(epochs)] if epochs else []
    settings = dict.fromkeys((what.model, what.precision, what.dropout) for what, _ in measured)
    for model, precision, dropout in settings:
        chosen = [(w, r) for w, r in measured if (w.model, w.precision, w.dropout) == (model, precision, dropout) and r]
        parts.append(_title(model, precision, dropout, chosen))
        parts.append(_table([(w, r) for w, r in chosen if w.kind == "train"], _rate(chosen), in_process))
        scored = [(w, r) for w, r in chosen if w.kind == "score"]
        if scored:
            parts.append("Scoring the same examples:\n\n" + _table(scored, _rate(chosen), in_process))
    return "\n\n".join(parts) + "\n"


def _title(model: str, precision: str, dropout: float, chosen: Measured) -> str:
    what, results = chosen[-1]
    with_dropout = f", dropout {dropout:g}" if dropout else ""
    rounds = max(len(each) for _, each in chosen)
    return (
        f"### {model}, {precision}{with_dropout}\n\n"
        f"{results[-1].examples} examples of {_plural(len(what.questions), 'question')} "
        f"({results[-1].supervised:,} scored tokens), {_plural(what.threads, 'thread')}, {_plural(rounds, 'round')}; "
        f"matrix products reach {_rate(chosen) / 1e9:.0f} GFLOP/s."
    )


def _rate(chosen: Measured) -> float:
    """Measured rate of matrix products, operations a second; 0 where it was not measured."""
    rates = [each.flops_per_second for what, results in chosen if what.kind == "matmul" for each in results]
    return median(rates) if rates else 0.0


def _table(rows: Measured, rate: float, in_process: bool) -> str:
    base = {what.variant: median(each.seconds for each in results) for what, results in rows}
    plain, grouped = base.get("plain"), base.get("length-grouped")
    head = [
        "variant",
        "tokens",
        "passes",
        "steps",
        "s a question",
        "(range)",
        "cores",
        "h an epoch",
        "peak GiB",
        "x plain",
    ]
    head += ["x length-grouped"] if grouped else []
    head += ["GFLOP/s", "of the floor"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for what, results in rows:
        seconds = median(each.seconds for each in results)
        questions = len(what.questions)
        speed = median(each.flops / each.seconds for each in results)
        cells = [
            _variant(what), f"{results[0].tokens:,}", f"{results[0].passes}", f"{results[0].steps or ''}",
            f"{seconds / questions:.2f}",
            f"{min(e.seconds for e in results) / questions:.2f}-{max(e.seconds for e in results) / questions:.2f}",
            f"{median(each.cpu_seconds / each.seconds for each in results):.2f}",
            f"{seconds / questions * QUESTIONS / 3600:.2f}",
            "" if in_process else f"{median(each.peak_bytes for each in results) / 2**30:.2f}",
            f"{plain / seconds:.2f}" if plain else "",
        ]  # fmt: skip
        cells += [f"{grouped / seconds:.2f}"] if grouped else []
        cells += [f"{speed / 1e9:.0f}" if speed else "", f"{speed / rate:.0%}" if speed and rate else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _variant(what: Measurement) -> str:
    tuned = [f"{name} {value}" for name, value in (("pack", what.pack_tokens), ("blocks", what.block_nodes)) if value]
    return f"{what.variant} ({', '.join(tuned)})" if tuned else what.variant


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _epoch_table(epochs: Mapping[str, TokenCounts]) -> str:
    lines = [
        f"Tokens of an epoch over all {QUESTIONS} questions, in thousands:",
        "",
        "| model | examples | too long | scored | padded | length-grouped | unpadded | conversation | question |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, c in epochs.items():
        thousands = (c.supervised, c.padded, c.length_grouped, c.unpadded, c.conversation, c.question)
        cells = [model, f"{c.examples:,}", f"{c.left_out:,}", *(f"{count / 1000:,.0f}" for count in thousands)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

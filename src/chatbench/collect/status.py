"""How a study stands: for `chatbench collect status` and the dashboard."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chatbench.collect.config import CollectedStudy
from chatbench.collect.store import SessionKind, Store, StudyState, Visit

ACTIVE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class CellCount:
    """Who is at, and through with, one cell."""

    batch: int
    assistant: str
    condition: str
    finished: int
    active: int
    left: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A study at one moment; `facts` are pairs of name and value, `incidents` lines, latest first."""

    state: StudyState
    facts: tuple[tuple[str, str], ...]
    cells: tuple[CellCount, ...]
    incidents: tuple[str, ...]

    def lines(self) -> list[str]:
        """As it is printed."""
        rows = [f"{name:<28}{value}" for name, value in self.facts]
        rows += [
            "",
            f"{'batch':>5}  {'assistant':<24}{'condition':<16}{'finished':>8}{'active':>8}{'left':>6}{'wanted':>8}",
        ]
        rows += [
            f"{c.batch:>5}  {c.assistant or '-':<24}{c.condition:<16}"
            f"{c.finished:>8}{c.active:>8}{c.left:>6}{c.wanted:>8}"
            for c in self.cells
        ]
        return [*rows, *(["", "latest incidents"] if self.incidents else []), *self.incidents]


async def figures(study: CollectedStudy, store: Store, kind: SessionKind) -> Figures:
    """The figures of people, or of rehearsals."""
    visits = await store.visits(kind)
    tokens = await store.tokens()
    usd = sum(study.prices[name].usd(*used) for name, used in tokens.items() if name in study.prices)
    states = Counter(visit.state for visit in visits)
    checks = [
        event.body["right"]
        for visit in visits
        for event in visit.events
        if (event.kind, event.step) == ("answer", "attention")
    ]
    now = time.time()
    state = await store.state()
    facts = (
        ("study", study.config.title),
        ("state", state),
        ("finished", str(states["finished"])),
        ("under way", str(states["active"])),
        (
            "active in the last 5 minutes",
            str(sum(v.state == "active" and now - v.seen < ACTIVE_SECONDS for v in visits)),
        ),
        ("left early or out of time", str(states["left"])),
        ("median minutes of finished", _median_minutes(visits)),
        ("attention checks right", f"{sum(checks)} of {len(checks)}"),
        (
            "answers",
            str(
                sum(event.kind == "answer" and "confidence" in event.body for visit in visits for event in visit.events)
            ),
        ),
        (
            "tokens read and written",
            f"{sum(read for read, _ in tokens.values()):,} and {sum(w for _, w in tokens.values()):,}",
        ),
        ("cost so far", f"${usd:,.2f}"),
    )
    counts = Counter((v.cell.batch, v.cell.assistant, v.cell.condition, v.state) for v in visits)
    cells = tuple(
        CellCount(
            cell.batch,
            cell.assistant,
            cell.condition,
            counts[cell.batch, cell.assistant, cell.condition, "finished"],
            counts[cell.batch, cell.assistant, cell.condition, "active"],
            counts[cell.batch, cell.assistant, cell.condition, "left"],
            study.config.people,
        )
        for cell in study.cells
    )  # fmt: skip
    incidents = tuple(
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at))} UTC  {what}"
        + (f"  (session {session})" if session else "")
        for at, what, session in await store.incidents()
    )
    return Figures(state, facts, cells, incidents)


def _median_minutes(visits: Sequence[Visit]) -> str:
    took = [(visit.ended - visit.began) / 60 for visit in visits if visit.state == "finished" and visit.ended]
    return f"{statistics.median(took):.1f}" if took else "-"

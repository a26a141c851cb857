"""Drives dialogues: asks the speakers what the dialogues request, and hands the replies back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from chatbench.protocol.dialogue import Dialogue, Failure, Outcome, Reply, Request, Speaker, SpeakerName


def hold_together(
    dialogues: Sequence[Dialogue],
    speakers: Mapping[SpeakerName, Speaker],
    ended: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Holds several dialogues in waves, so that each speaker is asked once per wave for all who wait for it.

    `ended` is told after each wave how many dialogues came to their end in it.
    """
    outcomes: dict[int, Outcome] = {}
    waiting: dict[int, Request] = {}

    def advance(index: int, reply: Reply | Failure | None) -> None:
        try:
            # A generator is started by sending it None.
            waiting[index] = dialogues[index].send(reply)  # type: ignore[arg-type]
        except StopIteration as stop:
            outcomes[index] = stop.value

    for index in range(len(dialogues)):
        advance(index, None)
    while waiting:
        asked, waiting = waiting, {}
        before = len(outcomes)
        for name, speaker in speakers.items():
            indices = [index for index in asked if asked[index].speaker == name]
            replies = speaker.reply_all([asked[index] for index in indices]) if indices else []
            for index, reply in zip(indices, replies, strict=True):
                advance(index, reply)
        if ended:
            ended(len(outcomes) - before)
    return [outcomes[index] for index in range(len(dialogues))]

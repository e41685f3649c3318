"""What was said so far. No input or output."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Turn:
    """A message of the user's and the answer to it, None while there is none."""

    message: str
    answer: str | None = None


@dataclass
class Conversation:
    """The system's words, None for the template's own, and the turns since the beginning."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """As chat templates take them; the last one is the user's while it has no answer."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.message})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def clear(self) -> None:
        """Forget the turns."""
        self.turns.clear()

    def drop_oldest(self, num_turns: int) -> int:
        """Forget so many from the beginning; how many there were."""
        dropped = self.turns[:num_turns]
        del self.turns[:num_turns]
        return len(dropped)

"""What the gate says of a radiograph: a code, a sentence, and the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Notice:
    """One reason not to trust a reading, or not to make it.

    Attributes:
        code: stable name for programs, such as `view-lateral`.
        sentence: the same for people, with the figures in it.
        values: the figures behind it.
        refuses: whether the radiograph is not to be read; a warning otherwise.
    """

    code: str
    sentence: str
    values: dict[str, float | str] = field(default_factory=dict)
    refuses: bool = False

    def __str__(self) -> str:
        return self.sentence

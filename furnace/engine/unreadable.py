"""The images of a run that could not be read and were replaced by others (`C.on_bad_image = "skip"`)."""

from collections.abc import Iterable

from furnace.engine.distributed import gather_objects
from furnace.engine.monitor import logger


class Unreadable:
    """Says of each such image once why, and of all of them at the end."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def note(self, reasons: Iterable[str]) -> None:
        """Take in those of a batch."""
        for reason in reasons:
            if reason not in self.reasons:
                logger.warning(f"skipped: {reason}")
                self.reasons.append(reason)

    def report(self, together: bool = True) -> None:
        """Log what was replaced in all processes, which must all call this; or in this one alone."""
        shares = gather_objects(self.reasons) if together else [self.reasons]
        found = list(dict.fromkeys(reason for reasons in shares for reason in reasons))
        if found:
            lines = "\n".join(f"  {reason}" for reason in found)
            logger.warning(f"{len(found)} images could not be read and were replaced by others:\n{lines}")

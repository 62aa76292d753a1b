"""One mutant: a rule of the service, the change that breaks it, and the tests that must notice. Runs nothing."""

from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

STORES = ("valkey", "redis")


class Stale(Exception):
    """The catalogue does not follow the code."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one place in one file."""

    name: str
    rule: str
    """What no longer holds."""
    path: str
    """Of the file, from the root of the repository."""
    old: str
    """Is there exactly once,"""
    new: str
    """and becomes this."""
    tests: tuple[str, ...]
    """Node ids, the quickest first: one of them must fail."""
    stores: tuple[str, ...] = STORES
    """On which the tests must notice."""

    def mutated(self, tree: Path) -> str:
        """What the file becomes.

        Raises:
            Stale: the old text is not there exactly once.
        """
        file = tree / self.path
        text = file.read_text() if file.is_file() else ""
        if text.count(self.old) != 1:
            raise Stale(f"{self.name}: {self.path} has its old text {text.count(self.old)} times")
        return text.replace(self.old, self.new)

    def apply(self, tree: Path) -> None:
        """Changes the file in a copy of the repository; Stale as in `mutated`."""
        file = tree / self.path
        file.write_text(self.mutated(tree))
        # bytecode is told from its source by size and second of change: too coarse for a file that just changed
        Path(cache_from_source(str(file))).unlink(missing_ok=True)

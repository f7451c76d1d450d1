"""Text that every machine has: the source of Python's own standard library, split by module."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

#: Top-level modules and packages kept for validation; no file of theirs is trained on.
# fmt: off
HELD_OUT = frozenset((
    "argparse", "bisect", "calendar", "csv", "dbm", "difflib", "fractions", "heapq", "imaplib",
    "json", "mailbox", "optparse", "pathlib", "quopri", "sched", "shelve", "statistics", "tarfile",
    "textwrap", "tomllib", "wave", "wsgiref", "zipfile",
))

#: Directories that are not library code, and tables that teach nothing about it.
EXCLUDED = frozenset((
    "site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "encodings",
    "pydoc_data", "__phello__",
))
# fmt: on

#: Byte written before every file; it does not occur in source text.
SEPARATOR = 0


@dataclass(frozen=True)
class Corpus:
    """Training bytes in one stream, validation bytes file by file.

    train: (N,) uint8, a separator before each file. held_out: module file -> (n,) uint8.
    fingerprint: SHA-256 over all names and contents, 16 hexadecimal digits.
    """

    train: Tensor
    held_out: dict[str, Tensor]
    fingerprint: str

    def sample(self, batch_size: int, length: int, generator: torch.Generator) -> Tensor:
        """Random crops (batch_size, length) int64 of the training stream."""
        starts = torch.randint(
            len(self.train) - length, (batch_size, 1), generator=generator, device="cpu"
        )
        return self.train[starts + torch.arange(length, device="cpu")].long()


def standard_library(root: str | Path | None = None) -> Corpus:
    """The corpus of ``root`` (default: this interpreter's standard library), in a fixed order.

    Raises ValueError when the directory has no training or no held-out modules.
    """
    root = Path(root or sysconfig.get_path("stdlib"))
    digest = hashlib.sha256()
    train: list[bytes] = []
    held_out: dict[str, Tensor] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        text = path.read_bytes()
        if EXCLUDED.intersection(parts) or not text or SEPARATOR in text:
            continue
        name = "/".join(parts)
        digest.update(name.encode() + bytes([SEPARATOR]) + text)
        if parts[0] in HELD_OUT:
            held_out[name] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        else:
            train.append(bytes([SEPARATOR]) + text)
    if not train or not held_out:
        raise ValueError(f"expected Python's standard library sources in {root}, found too few")
    stream = torch.frombuffer(bytearray(b"".join(train)), dtype=torch.uint8)
    return Corpus(stream, held_out, digest.hexdigest()[:16])

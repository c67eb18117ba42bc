"""Reports of `hsd bench`: tables, with the machine and versions."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows under column names."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def text(self) -> str:
        """Formats the table as Markdown."""
        cells = [list(self.columns), *([_cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]

        def line(row: Sequence[str]) -> str:
            padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
            return f"| {' | '.join(padded)} |"

        rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
        return "\n".join([f"**{self.title}**", "", line(cells[0]), rule, *map(line, cells[1:])])


@dataclass(frozen=True)
class Report:
    """The result of one subject."""

    subject: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    machine: dict[str, Any] = field(default_factory=lambda: machine())

    def text(self) -> str:
        """Formats the report as text."""
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        parts = [f"hsd bench {self.subject}: {about}"]
        parts += [table.text() for table in self.tables]
        parts += [f"Note: {note}" for note in self.notes]
        return "\n\n".join(parts)

    def json(self) -> str:
        """Formats the report as JSON: subject, machine, notes, and tables as lists of objects."""
        tables = [
            {"title": t.title, "rows": [dict(zip(t.columns, row, strict=True)) for row in t.rows]}
            for t in self.tables
        ]
        return json.dumps({**asdict(self), "tables": tables})


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 1e-2:
        return f"{value:.1e}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def machine() -> dict[str, Any]:
    """The device, the processor and the versions of relevant packages."""
    import jax

    device = jax.devices()[0]
    facts: dict[str, Any] = {
        "device": f"{jax.device_count()} x {device.platform} {device.device_kind}",
        "processor": _processor(),
        "cores": _cores(),
        "allocator": os.environ.get("HSD_ALLOCATOR", "glibc's own"),
        "Python": platform.python_version(),
    }
    for package in ("jax", "jaxlib", "flax", "torch"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return facts


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    family = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return f"{facts.get('model name', platform.machine())} ({family})"

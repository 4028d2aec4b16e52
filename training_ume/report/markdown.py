"""Tables as text: in Markdown, and aligned for a terminal."""

from __future__ import annotations

# ------------------------------------------------------------------------------------------------------------ format


def _table(header: tuple[str, ...], lines: list[tuple[str, ...]], right: int = 0) -> str:
    """A Markdown table; the last `right` columns are aligned to the right."""
    rule = ["---"] * (len(header) - right) + ["---:"] * right
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|") or "(empty)"


def markdown(header: list[str], rows: list[list[str]], right: tuple[int, ...] = ()) -> str:
    """A Markdown table; the columns numbered in `right` are aligned to the right."""
    rule = ["---:" if i in right else "---" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def align(lines: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def machine_of(environment: dict, *versions: str) -> str:
    """The machine that something was measured on, and of which release each of these packages was."""
    hardware = environment["hardware"]
    parts = [", ".join(hardware.get("gpus") or []) or hardware["cpu"], f"{hardware['cores']} cores"]
    return ", ".join([*parts, *(f"{name} {environment['versions'][name]}" for name in versions)])


def measured_on(environments: list[dict], *versions: str) -> str:
    """The sentence that says where figures come from."""
    machines = sorted({machine_of(environment, *versions) for environment in environments})
    return f"Measured on {'; '.join(machines) or 'no machine yet'}."

#!/usr/bin/env python3
"""Measures the published tables on this machine, and writes what docs/BENCHMARKS.md and README.md show of them.

Writes docs/charts/ (charts and tables.json), the text between the lines `<!-- tables: begin -->` and
`<!-- tables: end -->` of docs/BENCHMARKS.md, and the columns `ms` and the machine between the same lines of README.md.

usage: scripts/tables.py [--binary FILE] [--docs-only] [--no-readme] [FLAGS OF sightline bench...]

    --binary FILE   the program to measure (default: target/release/sightline)
    --docs-only     write README.md again from docs/charts/tables.json, without a measurement
    --no-readme     leave README.md as it is
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHARTS = ROOT / "docs" / "charts"
RELEASE = str(ROOT / "target/release/sightline")
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
TASKS = ["classification", "detection", "segmentation"]
# Models of the charts of throughput and latency, and their number of connections.
SERVED, CONNECTIONS = "efficientnet_lite0@fp32,efficientnet_lite0@int8", "16"
# Share of the cores' time that other programs take from which on the tables say that the machine had other load.
BUSY = 0.1


def run(binary, *flags):
    command = [binary, "bench", *flags]
    print("tables:", *command, file=sys.stderr)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def other_load():
    """Returns the share of the cores' time that other programs take now, measured for two seconds."""

    def times():
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    (total, idle), _ = times(), time.sleep(2)
    later, idle_later = times()
    return 1 - (idle_later - idle) / max(later - total, 1)


def measured(binary, flags):
    """Measures everything and returns the Markdown of the tables."""
    load = other_load()
    CHARTS.mkdir(parents=True, exist_ok=True)
    tables = run(binary, "--tables", "--plot", CHARTS, *flags)
    curves = run(binary, "--model", SERVED, "--connections", CONNECTIONS, "--plot", CHARTS, *flags)
    command = f"make tables TABLES_ARGS='{' '.join(flags)}'" if flags else "make tables"
    parts = [f"```sh\n{command}\n```"]
    if binary != RELEASE:
        parts.append("**This was not the release build**, whose int8 kernels are up to twice as fast.")
    if load > BUSY:
        parts.append(f"**The machine had other load** ({load:.0%} of its cores), so the times are too long.")
    return "\n\n".join([*parts, illustrated(tables), served(curves)])


def illustrated(tables):
    """Returns the tables with a chart behind each heading."""
    headings = iter(TASKS)

    def with_chart(heading):
        task = next(headings)
        return f"{heading[0]}\n\n![Accuracy and latency: {task}](charts/accuracy-{task}.svg)"

    return re.sub(r"^### .*$", with_chart, tables, flags=re.MULTILINE)


def served(curves):
    """Returns the section of the server: its charts, and its figures as a code block."""
    return f"""### Throughput and latency of the server

```sh
sightline bench --model {SERVED} --connections {CONNECTIONS} --plot docs/charts
```

A closed loop of each number of connections, with client and server on the same cores.

![Latency and throughput](charts/throughput.svg)

![Distribution of latency](charts/latency.svg)

```text
{curves}
```"""


def between(path, replace):
    """Replaces the text between the two lines of the file at `path` by what `replace` returns for it."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"tables: {path} must have one line `{BEGIN}` and one line `{END}`")
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{replace(old.strip())}\n{END}{after}")


def milliseconds(seconds):
    value = seconds * 1e3
    return f"{value:.1f}" if value < 20 else f"{value:.0f}"


def readme(old, data):
    """Returns the table of networks of README.md with the measured times and the machine."""
    times = {
        (row["model"], row["variant"]): milliseconds(row["measured"]["network_seconds"])
        for table in data["tables"]
        for row in table["rows"]
        if "network_seconds" in row["measured"]
    }
    setup = data["setup"]
    instructions = f" ({', '.join(setup['instructions'])})" if setup["instructions"] else ""
    machine = f"on one thread of an {setup['cpu']}{instructions}, in fp32"
    lines = re.sub(r"on one thread of [^:]*, in fp32", machine, old).splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            continue
        cells = line.split("|")
        # Two networks per line: name, parameters, accuracy, milliseconds.
        for first in (1, 6):
            if len(cells) > first + 3:
                cells[first + 3] = time_of(cells, first, times, lines[number - 1]) or cells[first + 3]
        lines[number] = "|".join(cells)
    return "\n".join(lines)


def time_of(cells, first, times, line_before):
    """Returns the cell with the time of the network whose name is in the cell `first`. None if it has none."""
    name = cells[first].strip()
    variants = ["fp32", *re.findall(r"`@(\w+)`", name)]
    if "in int8" in name:
        variants, name = ["int8"], line_before.split("|")[first]
    named = re.search(r"`(\w+)`", name)
    if not named:
        return None
    found = [times.get((named[1], variant)) for variant in variants]
    if not found[0]:
        return None
    others = [time for time in found[1:] if time]
    return f" {found[0]} ({', '.join(others)}) " if others else f" {found[0]} "


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--binary", default=RELEASE)
    parser.add_argument("--docs-only", action="store_true")
    parser.add_argument("--no-readme", action="store_true")
    args, flags = parser.parse_known_args()
    if not args.docs_only:
        text = measured(args.binary, flags)
        between(ROOT / "docs" / "BENCHMARKS.md", lambda _: text)
    data = json.loads((CHARTS / "tables.json").read_text())
    if not args.no_readme:
        between(ROOT / "README.md", lambda old: readme(old, data))


main()

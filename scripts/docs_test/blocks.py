"""Read the code blocks of a page, and the marks before them.

A mark is an HTML comment on the line before a block, `<!-- test: WORD -->`:

- `skip, REASON`: the block is not run
- `network`: the block needs the Internet, so it is not run
- `real NETWORK`: the block runs if trained weights of NETWORK are there (SIGHTLINE_TEST_SHARED)
- `fails`: the command must fail
- `values differ`: only the structure of this JSON is compared
- `args A B`: arguments of a script
- `setup` and commands on further lines: the commands run here, and no reader needs them
"""

import dataclasses
import re

FENCE = re.compile(r"^```(\w*)\s*$")
MARK = re.compile(r"^<!-- test: (.*?)\s*-->$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass
class Block:
    """A code block, or the commands of a setup, whose language is `setup`."""

    page: str
    line: int
    language: str
    text: str
    mark: str = ""

    @property
    def place(self):
        return f"{self.page}:{self.line}"

    @property
    def word(self):
        return self.mark.partition(",")[0].split(" ")[0]


def read(page, text):
    """Return the blocks of a page in order. Raises `ValueError` at a fence that is not closed."""
    blocks, lines, number, mark = [], text.splitlines(), 0, ""
    while number < len(lines):
        line = lines[number]
        if line.startswith("<!-- test:"):
            end = next(n for n in range(number, len(lines)) if lines[n].endswith("-->"))
            comment = "\n".join(lines[number : end + 1])
            mark = MARK.match(comment)[1]
            if mark.startswith("setup"):
                blocks.append(Block(page, number + 1, "setup", mark.removeprefix("setup").strip()))
                mark = ""
            number = end
        elif opened := FENCE.match(line):
            end = next((n for n in range(number + 1, len(lines)) if lines[n] == "```"), None)
            if end is None:
                raise ValueError(f"{page}:{number + 1}: the block is not closed")
            blocks.append(Block(page, number + 1, opened[1], "\n".join(lines[number + 1 : end]), mark))
            number, mark = end, ""
        elif line.strip():
            if mark:
                raise ValueError(f"{page}:{number + 1}: expected a block after the mark `{mark}`")
        number += 1
    return blocks

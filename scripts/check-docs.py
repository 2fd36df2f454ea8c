"""Check that files and headings which the documentation refers to exist.

    python3 scripts/check-docs.py

Checks in README.md, CONTRIBUTING.md, SECURITY.md, docs/ and the READMEs of crates and tests:
  - that linked files exist, and have a heading for the link's anchor
  - that paths in backticks exist if their first component is in the repository's root, such as `src/app.rs`;
    a path is relative to the root or to the document's folder

Prints one line per error, and exits with status 1 if there are errors. Needs only the standard library of Python 3.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# Text in backticks that is a path: without spaces, placeholders or wildcards, and no flag.
PATH = re.compile(r"[\w.][\w./-]*")


def anchors(text):
    """Return the set of anchors that GitHub generates for the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def link_errors(document, text):
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        if not file.exists():
            yield f"link to {target}: no such file"
        elif anchor and anchor not in anchors(file.read_text()):
            yield f"link to {target}: no such heading"


def path_errors(document, text, roots):
    for code in CODE.findall(FENCE.sub("", text)):
        path = code.rstrip("/")
        if not PATH.fullmatch(path) or path.split("/")[0] not in roots:
            continue
        if not (ROOT / path).exists() and not (document.parent / path).exists():
            yield f"`{code}`: no such file"


def main():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    files = [pathlib.Path(line) for line in listed.stdout.splitlines()]
    roots = {file.parts[0] for file in files}
    documents = [f for f in files if f.suffix == ".md" and f.name != "CHANGELOG.md"]
    failed = False
    for document in documents:
        text = (ROOT / document).read_text()
        file = ROOT / document
        for error in [*link_errors(file, text), *path_errors(file, text, roots)]:
            print(f"{document}: {error}")
            failed = True
    sys.exit(failed)


main()

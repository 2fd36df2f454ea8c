"""Check that files and headings which the documentation refers to exist.

    python3 scripts/check-docs.py

Checks in README.md, CONTRIBUTING.md, SECURITY.md, docs/ and the READMEs of crates and tests:
  - that linked files exist, and have a heading for the link's anchor
  - that paths in backticks exist if their first component is in the repository's root, such as `src/app.rs`;
    a path is relative to the root or to the document's folder
  - that docs/SUMMARY.md lists every page of docs/

Checks in all other text files that `docs/PAGE.md` and `docs/PAGE.md#anchor` exist.

Prints one line per error, and exits with status 1 if there are errors. Needs only the standard library of Python 3.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
CODE = re.compile(r"`([^`\n]+)`")
ANCHOR = re.compile(r'<a id="([^"]+)">')
PAGE = re.compile(r"(?<![\w./-])docs/([\w-]+\.md)(?:#([\w-]+))?")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# Text in backticks that is a path: without spaces, placeholders or wildcards, and no flag.
PATH = re.compile(r"[\w.][\w./-]*")


def anchors(text):
    """Return the anchors of a document: those that GitHub generates for its headings, and those of `<a id>`."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    generated = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return generated | set(ANCHOR.findall(text))


def link_errors(document, text):
    for target in map("".join, LINK.findall(text)):
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


def summary_errors(documents):
    """Yield the pages of docs/ that the book lacks. Texts in its subfolders are not pages."""
    listed = list(map("".join, LINK.findall((ROOT / "docs/SUMMARY.md").read_text())))
    for document in documents:
        if str(document.parent) == "docs" and document.name not in [*listed, "SUMMARY.md"]:
            yield f"docs/SUMMARY.md: {document.name} is not listed"


def reference_errors(file, text):
    for name, anchor in PAGE.findall(text):
        page = ROOT / "docs" / name
        if not page.exists():
            yield f"{file}: docs/{name}: no such page"
        elif anchor and anchor not in anchors(page.read_text()):
            yield f"{file}: docs/{name}#{anchor}: no such heading"


def text_of(file):
    try:
        return (ROOT / file).read_text()
    except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
        return ""


def main():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    files = [pathlib.Path(line) for line in listed.stdout.splitlines()]
    roots = {file.parts[0] for file in files}
    documents = [f for f in files if f.suffix == ".md" and f.name != "CHANGELOG.md"]
    errors = list(summary_errors(documents))
    for document in documents:
        text = (ROOT / document).read_text()
        file = ROOT / document
        errors += [f"{document}: {error}" for error in [*link_errors(file, text), *path_errors(file, text, roots)]]
    for file in files:
        if file.suffix != ".md" and file.name != "check-docs.py":
            errors += reference_errors(file, text_of(file))
    print("\n".join(errors), end="\n" if errors else "")
    sys.exit(bool(errors))


main()

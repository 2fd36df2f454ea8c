"""Make links from docs/ to other files of the repository work in the book.

    python3 scripts/book.py                  preprocessor of mdBook, see book.toml
    python3 scripts/book.py supports html    whether it is for this renderer: always
    python3 scripts/book.py finish DIR       copy the files that pages link to into the book in DIR, and check its links

Documents outside of docs/ become pages at the end of the book, all other files are copied below `files/`. Comments for
scripts/docs-test.py are removed. Needs only the standard library of Python 3.
"""

import json
import os
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
TEST_MARK = re.compile(r"^<!-- test:.*?-->\n", re.MULTILINE | re.DOTALL)


def repository_path(document, target):
    """Return the path of a link's target in the repository, or None if it leads elsewhere.

    `document` is the path in the repository of the page with the link.
    """
    name = target.partition("#")[0]
    if not name or re.match(r"[a-z]+:", name):
        return None
    return os.path.normpath(document.parent / name)


def book_path(path):
    """Return where a file of the repository is in the book."""
    if path == "README.md":
        return "README.md"  # the introduction
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"files/{path}"


def page(document):
    """Return the text of a document of the repository with links for the book, and the paths that it links to."""
    linked = []

    def rewrite(match):
        path = repository_path(document, match[2])
        if path is None:
            return match[0]
        linked.append(path)
        anchor = match[2].partition("#")[1:]
        start = os.path.dirname(book_path(str(document)))
        return match[1] + os.path.relpath(book_path(path), start or ".") + "".join(anchor) + match[3]

    text = TEST_MARK.sub("", (ROOT / document).read_text())
    return LINK.sub(rewrite, text), linked


def chapters(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            yield item["Chapter"]
            yield from chapters(item["Chapter"]["sub_items"])


def extra_pages(linked):
    """Return the documents outside of docs/ that pages link to, directly or through one another, in order of names."""
    found, todo = set(), list(linked)
    while todo:
        path = todo.pop()
        if path.endswith(".md") and not path.startswith("docs/") and path != "README.md" and path not in found:
            found.add(path)
            todo += page(pathlib.Path(path))[1]
    return sorted(found)


def preprocess():
    _, book = json.load(sys.stdin)
    items = book["items"]
    linked = []
    for chapter in chapters(items):
        chapter["content"], targets = page(pathlib.Path("docs") / chapter["source_path"])
        linked += targets
    items.append({"PartTitle": "In the repository"})
    for path in extra_pages(linked):
        text = page(pathlib.Path(path))[0]
        name = re.search(r"^# (.+)$", text, re.MULTILINE)[1]
        items.append({"Chapter": {"name": name, "content": text, "number": None, "sub_items": [], "path": path,
                                  "source_path": path, "parent_names": []}})
    json.dump(book, sys.stdout)


def copy_files(book):
    documents = [pathlib.Path("docs") / file.name for file in sorted((ROOT / "docs").glob("*.md"))]
    linked = [path for document in documents for path in page(document)[1]]
    linked += [path for extra in extra_pages(linked) for path in page(pathlib.Path(extra))[1]]
    for path in sorted(set(linked)):
        if path.endswith(".md") or path.startswith("docs/"):
            continue
        target = book / book_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(ROOT / path, target)


def dead_links(book):
    """Yield the links of the built pages whose file or anchor does not exist."""
    texts = {file.resolve(): file.read_text() for file in book.glob("**/*.html") if file.name not in {"404.html", "print.html"}}
    for file, text in texts.items():
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            name, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            target = (file.parent / name).resolve() if name else file
            if not target.exists():
                yield f"{file.name}: {link}: no such file"
            elif anchor and target in texts and f'id="{anchor}"' not in texts[target]:
                yield f"{file.name}: {link}: no such heading"


def finish(book):
    copy_files(book)
    errors = sorted(set(dead_links(book)))
    print("\n".join(errors), end="\n" if errors else "")
    sys.exit(bool(errors))


if sys.argv[1:2] == ["supports"]:
    sys.exit(0)
elif sys.argv[1:2] == ["finish"]:
    finish(pathlib.Path(sys.argv[2]))
else:
    preprocess()

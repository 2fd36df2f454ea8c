"""Run the commands and code of README.md and docs/ against a real server, and compare the JSON that they show.

    python3 scripts/docs-test.py [--binary FILE] [PAGE...]

Each page runs in a folder of its own that looks like a checkout, with the files that a reader has, such as
`photo.jpg`. Blocks of one page run in order and share the server that the page starts. A block that cannot run
carries a mark with the reason: scripts/docs_test/blocks.py lists the marks. Of commands that are not run, the syntax
and the flags are checked.

Prints each failure with its place, and each skipped block with its reason. Exits with status 1 if a block fails.
Needs Python 3.11 with the standard library; blocks in Python run with SIGHTLINE_TEST_TRITONCLIENT (a Python with
numpy, requests and tritonclient) if it is set. SIGHTLINE_TEST_SHARED names a folder with trained weights.
"""

import argparse
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from docs_test.run import Page, Skip
from docs_test.tools import Tools

# Pages whose commands take minutes or hours, and pages that have tests of their own.
ELSEWHERE = {
    "docs/SUMMARY.md": "has no commands",
    "docs/SECURITY-TESTING.md": "commands take hours",
    "docs/BENCHMARKS.md": "commands take minutes",
    "docs/clients.md": "run by tests/suite/service/client_docs.rs",
    "docs/deploy.md": "needs a container engine or a cluster: make stack-test and make manifests-test",
}


def run_page(name, tools):
    """Run the blocks of a page. Returns the numbers of those that ran and failed, and prints the others."""
    page, ran, failed = Page(name, tools), 0, 0
    began = time.monotonic()
    page.prepare()
    try:
        for block in page.blocks:
            try:
                page.run(block)
                ran += block.language != "setup"
            except Skip as skip:
                print(f"  skipped  {block.place}: {skip}")
                log_skip(block, skip)
            except (AssertionError, ValueError) as error:
                failed += 1
                page.output = None
                text = "\n".join(f"    | {line}" for line in f"{block.text}\n{error}".splitlines()[:60])
                print(f"  FAILED   {block.place}:\n{text}")
    finally:
        page.close()
    print(f"{name}: {ran} blocks in {time.monotonic() - began:.1f} s, {failed} failed", flush=True)
    return ran, failed


def log_skip(block, skip):
    """Report what this machine lacks to .ci/run, but not what a mark says."""
    log = os.environ.get("SIGHTLINE_SKIP_LOG")
    if log and block.word not in {"skip", "network"} and str(skip).startswith("needs"):
        with open(log, "a") as file:
            file.write(f"docs-test: {block.place}: {skip}\n")


def main():
    parser = argparse.ArgumentParser(description="Run the code blocks of the documentation.")
    parser.add_argument("--binary", default=ROOT / "target/release/sightline")
    parser.add_argument("pages", nargs="*", metavar="PAGE")
    arguments = parser.parse_args()
    tools = Tools(arguments.binary, os.environ.get("SIGHTLINE_TEST_TRITONCLIENT") or sys.executable,
                  os.environ.get("SIGHTLINE_TEST_SHARED"))
    pages = arguments.pages or ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
    ran = failed = 0
    for name in pages:
        if name in ELSEWHERE:
            print(f"{name}: skipped, {ELSEWHERE[name]}")
        else:
            counts = run_page(name, tools)
            ran, failed = ran + counts[0], failed + counts[1]
    print(f"{ran} blocks of {len(pages)} pages ran, {failed} failed")
    sys.exit(failed > 0)


main()

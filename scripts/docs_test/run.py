"""Run the blocks of one page in a folder of their own, with one server at a time."""

import ast
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import tomllib

from . import blocks, compare

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Longest time in seconds for one block.
PATIENCE = 600
# Ports that the pages use. Each page gets free ones instead.
PORTS = re.compile(r"(?<=:)(8080|8082|8081|8001|8000|8002|7070|9000|8443|3000)\b")
# Languages of blocks that are read by people or by programs that are not Sightline.
FOREIGN = {"", "text", "properties", "protobuf", "nginx", "console"}
# Files that readers have, under the names of the pages.
PHOTOGRAPHS = {"photo.jpg": "coffee_500x375.jpg", "bird.jpg": "rocket.jpg", "cat.png": "chelsea.png"}


class Skip(Exception):
    """A block cannot run here, for a reason that is reported."""


class Page:
    """The blocks of a page and the state that they share: folder, ports and server."""

    def __init__(self, name, tools):
        self.name, self.tools = name, tools
        self.blocks = blocks.read(name, (ROOT / name).read_text())
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="docs-test-"))
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="docs-test-state-"))
        self.ports = {}
        self.output = None

    def prepare(self):
        """Make the folder look like a checkout, with the files that a reader has. No link leads out to a folder that
        commands of pages write to."""
        for entry in ROOT.iterdir():
            if entry.name not in {"target", ".git", ".cache", "my-models", "docs_test"}:
                (self.folder / entry.name).symlink_to(entry)
        photos = ROOT / "tests/photos"
        for name, source in PHOTOGRAPHS.items():
            shutil.copyfile(photos / source, self.folder / name)
        for folder in ["photographs", "photos"]:
            (self.folder / folder).mkdir()
            for file in [*photos.glob("*.jpg"), *photos.glob("*.png")]:
                shutil.copyfile(file, self.folder / folder / file.name)
        (self.folder / "birds.txt").write_text("".join(f"bird {i}\n" for i in range(12)))

    def with_free_ports(self, text):
        def free(match):
            if match[1] not in self.ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    self.ports[match[1]] = str(probe.getsockname()[1])
            return self.ports[match[1]]

        return PORTS.sub(free, text)

    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTLINE_")}
        listen = self.with_free_ports("127.0.0.1:8080")
        return kept | {
            "BINARY": str(self.tools.binary), "PYTHON": self.tools.python, "ROOT": str(ROOT), "STATE": str(self.state),
            "SHARED": str(self.tools.shared or ""),
            "XDG_DATA_HOME": str(self.folder / ".data"), "XDG_CACHE_HOME": str(ROOT / "target/docs-test/cache"),
            "SIGHTLINE_LISTEN": listen, "SIGHTLINE_HEALTHCHECK_URL": f"http://{listen}",
            "NO_PROXY": "*", "PATH": f"{self.tools.binary.parent}:{kept['PATH']}",
        }

    def command(self, arguments, **options):
        """Run a command in the page's folder. Raises `AssertionError` with its output if it fails or takes too long."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(arguments, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=errors, text=True, start_new_session=True)
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"still running after {PATIENCE} s") from None
            output.seek(0), errors.seek(0)
            self.output = output.read()
            failed = code != 0
            assert failed == options.get("fails", False), f"exit code {code}\n{self.output}{errors.read()}"

    def sh(self, block):
        text = self.with_free_ports(block.text)
        if re.search(r"\bsightline serve\b", text) and "--print-config" not in text:
            (self.state / "starting").touch()
        prelude = ROOT / "scripts/docs_test/prelude.sh"
        script = f"set -euo pipefail\nsource {prelude}\n{text}\n"
        self.command(["bash", "-c", script], fails=block.word == "fails")

    def json(self, block):
        shown = json.loads(block.text)
        if self.output is not None:
            sent = compare.last_json(self.output)
            found = list(compare.differences(shown, sent, block.mark != "values differ"))
            assert not found, "the response is another one:\n" + "\n".join(found)

    def python(self, block):
        tree = ast.parse(block.text)
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        self.tools.need_modules(sorted(names))
        script = self.folder / "block.py"
        script.write_text(self.with_free_ports(block.text))
        arguments = block.mark.split()[1:] if block.word == "args" else []
        self.command([self.tools.python, str(script), *arguments])

    def js(self, block):
        self.tools.need("node")
        script = self.folder / "block.mjs"
        script.write_text(self.with_free_ports(block.text))
        self.command(["node", str(script)])

    def toml(self, block):
        tables = tomllib.loads(block.text)
        if "task" in tables or "stages" in tables:
            return  # a manifest, which needs its files
        file = self.folder / "block.toml"
        file.write_text(block.text)
        self.command([str(self.tools.binary), "config", "check", "--settings-only", "--config", str(file)])

    def yaml(self, block):
        if "scrape_configs" not in block.text:
            raise Skip("YAML of another program")
        self.tools.need("promtool")
        (self.folder / "block.yaml").write_text(block.text)
        self.command(["promtool", "check", "config", "--syntax-only", "block.yaml"])

    def promql(self, block):
        self.tools.need("promtool")
        # A query ends at the end of a line unless the next one is indented.
        queries = re.split(r"\n(?=\S)", block.text)
        rules = [{"record": f"query:{i}", "expr": query} for i, query in enumerate(queries)]
        (self.folder / "rules.yaml").write_text(json.dumps({"groups": [{"name": "page", "rules": rules}]}))
        self.command(["promtool", "check", "rules", "rules.yaml"])

    def run(self, block):
        """Run one block. Raises `Skip` or `AssertionError`."""
        if block.word in {"skip", "network"}:
            if block.language in {"sh", "setup"}:
                self.tools.check_shell(block.text)
            self.output = None
            raise Skip("needs the network" if block.word == "network" else block.mark.partition(", ")[2])
        if block.word == "real":
            # A response that is shown after a skipped block is not compared.
            self.output = None
            self.tools.real(block.mark)
        if block.language in {"sh", "bash"}:
            self.tools.check_shell(block.text)
            self.sh(block)
        elif block.language == "setup":
            self.sh(block)
        elif block.language == "json":
            self.json(block)
            self.output = None
        elif block.language in {"python", "js", "toml", "yaml", "promql"}:
            self.output = None
            getattr(self, block.language)(block)
            self.output = None
        elif block.language not in FOREIGN:
            raise AssertionError(f"no test for the language `{block.language}`: add one or use `text`")

    def close(self):
        server = self.state / "pid"
        if server.exists():
            try:
                os.kill(int(server.read_text()), signal.SIGTERM)
            except (ProcessLookupError, ValueError):
                pass
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.state, ignore_errors=True)

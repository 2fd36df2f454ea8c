"""The programs and files that blocks need, and checks of commands without running them."""

import functools
import os
import pathlib
import re
import shutil
import subprocess

from .run import Skip

COMMAND = re.compile(r"\bsightline ((?:serve|pull|export|quantize|predict|eval|bench|models|config check|config example"
                     r"|inspect|doctor|plan|key new|rm|healthcheck)\b)?([^\n|;&>)`]*)")
FLAG = re.compile(r"(?<!\S)(--[a-z][a-z0-9-]*)")


class Tools:
    """`binary` is the server, `python` runs the Python of pages, `shared` has trained weights and may be missing."""

    def __init__(self, binary, python, shared):
        self.binary = pathlib.Path(binary).resolve()
        self.python = python
        self.shared = pathlib.Path(shared) if shared else None

    def need(self, program):
        if not shutil.which(program):
            raise Skip(f"needs {program}")

    @functools.cache  # noqa: B019
    def has_module(self, name):
        root = name.partition(".")[0]
        found = subprocess.run([self.python, "-c", f"import {root}"], capture_output=True, check=False)
        return found.returncode == 0

    def need_modules(self, names):
        for name in names:
            if not self.has_module(name):
                raise Skip(f"needs the Python package {name.partition('.')[0]}")

    def real(self, mark):
        """Return the path of the trained weights that a mark names."""
        network = mark.split(" ")[1]
        file = self.shared / "weights" / f"{network}.pth" if self.shared else None
        if file is None or not file.exists():
            raise Skip(f"needs trained weights of {network}: SIGHTLINE_TEST_SHARED")
        return file

    @functools.cache  # noqa: B019
    def flags(self, command):
        words = command.split()
        result = subprocess.run([str(self.binary), *words, "--help"], capture_output=True, text=True, check=True,
                                env=os.environ | {"COLUMNS": "200"})
        return set(FLAG.findall(result.stdout.replace("[", " ").replace(",", " "))) | {"--help", "--version"}

    def check_shell(self, text):
        """Check the syntax of commands, and that `sightline` has their flags."""
        checked = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        for command, arguments in COMMAND.findall(re.sub(r"\\\n\s*", " ", text)):
            for flag in FLAG.findall(arguments):
                assert flag in self.flags(command), f"`sightline {command}` has no flag {flag}"

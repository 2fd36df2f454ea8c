"""Tests of the test: what must be found, is found.

    python3 -m unittest discover -s scripts/docs_test -t scripts
"""

import unittest

from docs_test import blocks, compare
from docs_test.tools import COMMAND, FLAG

SHOWN = {"model": "m", "results": [{"score": 0.39, "box": {"x1": 171.1}}], "timing_ms": {"decode": 2.3}}


class Compare(unittest.TestCase):
    def check(self, sent, expected, values=True):
        found = list(compare.differences(SHOWN, sent, values))
        self.assertEqual(sorted(text.partition(":")[0] for text in found), expected, found)

    def test_rounded_values_and_other_times_are_equal(self):
        self.check({"model": "m", "results": [{"score": 0.3936, "box": {"x1": 171.4}}], "timing_ms": {"decode": 90.1}}, [])

    def test_each_difference_is_found(self):
        sent = {"model": "n", "results": [{"score": 0.42, "box": {"x1": 173}}], "timing_ms": {"decode": 1}}
        self.check(sent, ["$.model", "$.results[0].box.x1", "$.results[0].score"])

    def test_fields_and_lengths_are_compared(self):
        self.check({"model": "m", "results": [], "timing_ms": {"decode": 1.0, "queue": 1.0}},
                   ["$.results", "$.timing_ms.queue"])

    def test_structure_alone(self):
        self.check({"model": "n", "results": [{"score": 9.0, "box": {"x1": 1}}, {}], "timing_ms": {"decode": 1}}, [], False)

    def test_the_last_document_counts(self):
        self.assertEqual(compare.last_json('{"a":1}\ntext\n{"b":\n 2}\n'), {"b": 2})
        with self.assertRaises(ValueError):
            compare.last_json("no JSON")


class Blocks(unittest.TestCase):
    def test_marks_belong_to_the_next_block(self):
        page = "text\n<!-- test: skip, needs root -->\n```sh\nrm x\n```\n<!-- test: setup\ntrue\n-->\n```json\n{}\n```\n"
        read = blocks.read("p.md", page)
        self.assertEqual([(b.language, b.word, b.line) for b in read],
                         [("sh", "skip", 3), ("setup", "", 6), ("json", "", 9)])

    def test_a_lost_mark_and_an_open_block_are_errors(self):
        for page in ["<!-- test: network -->\ntext\n", "```sh\ntrue\n"]:
            with self.assertRaises(ValueError):
                blocks.read("p.md", page)


class Commands(unittest.TestCase):
    def test_flags_are_found_with_their_command(self):
        text = "sightline key new web --json | jq --raw; sightline serve --models a && curl --data x"
        found = [(command, FLAG.findall(arguments)) for command, arguments in COMMAND.findall(text)]
        self.assertEqual(found, [("key new", ["--json"]), ("serve", ["--models"])])


if __name__ == "__main__":
    unittest.main()

"""Compare the JSON that a page shows with the JSON that the server sent."""

import json

# Largest differences of values that a page rounds: scores, and coordinates in pixels.
SCORE, PIXELS = 0.02, 1.0
# Values that differ from run to run.
VOLATILE = {"timing_ms", "instance", "request_id", "version"}


def last_json(output):
    """Return the last JSON document of an output. Raises `ValueError` if there is none."""
    lines = output.strip().splitlines()
    for start in reversed(range(len(lines))):
        if lines[start].startswith(("{", "[")):
            try:
                return json.loads("\n".join(lines[start:]))
            except ValueError:
                continue
    raise ValueError(f"expected JSON, got {output[:200]!r}")


def differences(shown, sent, values=True, path="$"):
    """Yield a text for each difference between what is shown and what was sent.

    Objects have the same fields, and lists the same length. With `values`, texts and integers are equal, and other
    numbers differ by rounding at most; without, only types are compared, and lists by their first element.
    """
    if isinstance(shown, dict) and isinstance(sent, dict):
        for name in sorted(shown.keys() ^ sent.keys()):
            yield f"{path}.{name}: only {'shown' if name in shown else 'sent'}"
        for name in shown.keys() & sent.keys():
            yield from differences(shown[name], sent[name], values and name not in VOLATILE, f"{path}.{name}")
    elif isinstance(shown, list) and isinstance(sent, list):
        if values and len(shown) != len(sent) or bool(shown) != bool(sent):
            yield f"{path}: {len(shown)} elements shown, {len(sent)} sent"
        pairs = list(zip(shown, sent, strict=False))
        for index, (one, other) in enumerate(pairs if values else pairs[:1]):
            yield from differences(one, other, values, f"{path}[{index}]")
    elif is_number(shown) and is_number(sent):
        bound = 0 if isinstance(shown, int) and isinstance(sent, int) else PIXELS if abs(shown) > 1 else SCORE
        if values and abs(shown - sent) > bound:
            yield f"{path}: {shown} shown, {sent} sent"
    elif type(shown) is not type(sent):
        yield f"{path}: {shown!r} shown, {sent!r} sent"
    elif values and shown != sent:
        yield f"{path}: {shown!r} shown, {sent!r} sent"


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)

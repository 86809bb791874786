"""The events of a real piimg with ``--progress json``: by the schema, and each task that starts also ends."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jsonschema

from tests.support.checkout import TOP

Event = dict[str, Any]


def read(name: str) -> dict[str, Any]:
    """A schema of docs/schema, such as "events"."""
    document: dict[str, Any] = json.loads((TOP / "docs" / "schema" / f"{name}.schema.json").read_text())
    return document


def schema(name: str) -> jsonschema.Draft202012Validator:
    """What holds documents to it."""
    jsonschema.Draft202012Validator.check_schema(read(name))
    return jsonschema.Draft202012Validator(read(name))


EVENTS = schema("events")


def events(lines: Iterable[str]) -> list[Event]:
    """The events among the lines of standard error, each of which must be by the schema."""
    found = [json.loads(line) for line in lines if line.startswith("{")]
    for one in found:
        EVENTS.validate(one)
    return found


def not_ended(some: Sequence[Event]) -> list[tuple[str, str]]:
    """The tasks, with their subjects, that started and did not finish, or finished and had not started."""
    open_tasks = Counter[tuple[str, str]]()
    wrong: list[tuple[str, str]] = []
    for one in some:
        if one["event"] == "message":
            continue
        key = one["task"], one["subject"]
        if one["event"] != "started" and not open_tasks[key]:
            wrong.append(key)
        open_tasks[key] += {"started": 1, "advanced": 0, "finished": -1}[one["event"]]
    return wrong + sorted((+open_tasks).elements())


def outcomes(some: Sequence[Event], subject: str) -> dict[str, bool]:
    """How the tasks of a subject ended, the last of each name."""
    return {
        one["task"]: one["ok"] for one in some if one["event"] == "finished" and one["subject"] == subject
    }


def interrupted(
    command: Sequence[str | Path], folder: Path, env: dict[str, str], task: str, kind: str = "started"
) -> tuple[int, list[Event]]:
    """Run piimg, press Ctrl-C when an event of ``kind`` comes of ``task``; its exit code, and all events."""
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said, pressed = [], False
    try:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if not pressed and line.startswith("{"):
                event = json.loads(line)
                if (event["event"], event.get("task")) == (kind, task):
                    process.send_signal(signal.SIGINT)
                    pressed = True
        status = process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert pressed, f"{task} never came: {''.join(said)}"
    assert "Traceback" not in "".join(said)
    return status, events(said)

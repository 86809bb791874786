"""The terminal is shown everything as before, and the page gets it, too."""

import io

from imagebuilder.cli.progress.base import Renderer
from imagebuilder.cli.progress.plain import Plain
from imagebuilder.cli.web.follower import Followed
from imagebuilder.cli.web.page import Page
from imagebuilder.cli.web.state import Start
from imagebuilder.events import Finished, Message, Started


def test_everything_is_forwarded() -> None:
    """A method of Renderer that is not overridden would act on nothing."""
    public = {name for name, value in vars(Renderer).items() if callable(value) and not name.startswith("_")}
    assert public - set(vars(Followed)) == set()


def test_both_get_it() -> None:
    stream, page = io.StringIO(), Page(Start("run", "flash"))
    shown_by = Followed(Plain(stream), page)
    with shown_by:
        shown_by.expect("/dev/sdb", 100, "worker1 usb 1-1", data={"slot": "usb 1-1", "node": "worker1"})
        shown_by.emit(Started("flash", "/dev/sdb"))
        shown_by.emit(Started("write", "/dev/sdb", 100))
        assert shown_by.unfinished() == ["worker1 usb 1-1"]
        assert page.shown().tiles[0].task == "write"
        shown_by.stopping = True
        assert shown_by.stopping and page.shown().actions[0].title == "Stopping"
        shown_by.emit(Finished("write", "/dev/sdb", False))
        shown_by.emit(Message("warning", "careful"))
        shown_by.note("usb 1-2", "usb 1-2", "put in a card", {"slot": "usb 1-2", "state": "empty"})
        shown_by.say("a line")
    said = stream.getvalue()
    assert "/dev/sdb: write 100 B" in said and "warning: careful" in said
    assert "usb 1-2: put in a card" in said and "a line" in said
    assert [tile.slot for tile in page.shown().tiles] == ["usb 1-1", "usb 1-2"]

"""The errors of piimg. Packages raise them; only ``cli/`` prints them and chooses the exit code."""


class PiimgError(Exception):
    """An error that the user can understand and act on.

    ``message`` is one line that says what happened; ``hint`` says what to do next (may be empty).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def whole(self) -> str:
        """Message and hint in one line, for use within another message."""
        return f"{self.message}: {self.hint}" if self.hint else self.message


class UsageError(PiimgError):
    """The command line, the manifest, a layer or a secret is wrong: exit code 2, nothing was done."""


class DeviceError(PiimgError):
    """A problem with a device. ``problem`` is the text without the name of the device.

    The message is the name, ``joint`` and the problem.
    """

    def __init__(self, device: object, problem: str, hint: str = "", joint: str = " ") -> None:
        super().__init__(f"{device}{joint}{problem}", hint)
        self.problem = problem


class NodeError(PiimgError):
    """A problem of a node that runs. The message names the node."""


class Interrupted(PiimgError):
    """A stop on request (Ctrl-C, SIGTERM): exit code 130."""

    def __init__(self, message: str = "interrupted", hint: str = "") -> None:
        super().__init__(message, hint)

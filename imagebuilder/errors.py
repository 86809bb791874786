"""The errors of piimg. Wings raise them; only ``cli/`` prints them and chooses the exit code."""


class PiimgError(Exception):
    """Something went wrong that the user can understand and act on.

    ``message`` is one line saying what happened; ``hint`` says what to do next (may be empty).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def whole(self) -> str:
        """Message and hint in one, for where it is told beside another error."""
        return f"{self.message}: {self.hint}" if self.hint else self.message


class UsageError(PiimgError):
    """The command line, the manifest, a layer or a secret is wrong: exit code 2, nothing was done."""


class DeviceError(PiimgError):
    """Something is wrong with a device. ``problem`` says what without the device's name.

    The message is the name and the problem, with ``joint`` between them.
    """

    def __init__(self, device: object, problem: str, hint: str = "", joint: str = " ") -> None:
        super().__init__(f"{device}{joint}{problem}", hint)
        self.problem = problem


class Interrupted(PiimgError):
    """Work was stopped on request (Ctrl-C, SIGTERM): exit code 130."""

    def __init__(self, message: str = "interrupted", hint: str = "") -> None:
        super().__init__(message, hint)

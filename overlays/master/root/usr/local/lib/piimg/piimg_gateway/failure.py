"""The error that is shown to the user without a traceback. It imports nothing, to keep commands fast."""


class Failure(Exception):
    """An error message of one line; ``status`` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status

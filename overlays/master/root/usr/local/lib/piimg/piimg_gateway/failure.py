"""What is said to the user instead of a traceback. Imports nothing: every command starts with it."""


class Failure(Exception):
    """What went wrong, in one line; ``status`` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status

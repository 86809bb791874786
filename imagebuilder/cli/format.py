"""Formatting sizes and durations."""

from imagebuilder.text import size as size


def duration(seconds: float) -> str:
    """Seconds as text: 0:42, 12:07, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""Checks of single values of a manifest, for questions and options: the same as those of the whole file."""

from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError

from imagebuilder.manifest import shape
from imagebuilder.manifest.keys import public_key

_KINDS: dict[str, Any] = {
    "name": shape.Hostname,
    "timezone": shape.TimeZone,
    "locale": shape.Locale,
    "keyboard": shape.Keyboard,
    "network": shape.Network,
    "user": shape.UserName,
    "key": Annotated[str, AfterValidator(public_key)],
    "interface": shape.Interface,
    "ssid": shape.Ssid,
    "country": shape.Country,
}


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_KINDS[kind])


def checked(kind: str, text: str) -> str:
    """``text``, if it is a valid value of this kind in a manifest. Raises ValueError with the reason."""
    try:
        _adapter(kind).validate_python(text)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return text

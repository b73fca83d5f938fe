"""A file whose content is a parameter: it is read once, when the run starts, and kept with the record."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from weft.lineage.errors import InvalidFlow
from weft.lineage.external import Fingerprint, normalized
from weft.runtime.parameters import Parameter

__all__ = ["FileContent", "IncludeFile"]


class IncludeFile(Parameter):
    """A parameter that is given as a path and read in steps as the content of that file.

    The content is text in `encoding`, bytes without `is_text`, or what `parser` makes of that: a function, or its
    dotted name. It is the one of the moment when the run starts; that the run read the file is recorded.
    """

    def __init__(
        self,
        name: str,
        required: bool = False,
        is_text: bool = True,
        encoding: str = "utf-8",
        help: str | None = None,
        parser: Callable[[Any], Any] | str | None = None,
        default: Any = None,
    ) -> None:
        self.content = FileContent(encoding if is_text else None, parser)
        super().__init__(name, default, self.content, help, required)


class FileContent:
    """The type of the parameter: from a path to what is in the file."""

    name = "path"

    def __init__(self, encoding: str | None, parser: Callable[[Any], Any] | str | None) -> None:
        self._encoding = encoding
        self._parser = parser
        #: What was read last, for the record of the run that starts with it.
        self.read: tuple[str, Fingerprint] | None = None

    def convert(self, value: object, param: object, ctx: object) -> Any:
        """Raises: ValueError with a `message` that says why the file cannot be taken."""
        import hashlib

        if not isinstance(value, str | os.PathLike):
            raise _Unreadable(f"a path is a text, and not of type {type(value).__name__}")
        path = os.path.expanduser(value)
        try:
            with open(path, "rb") as file:
                data = file.read()
            content: Any = data if self._encoding is None else data.decode(self._encoding)
        except OSError as error:
            raise _Unreadable(error.strerror or str(error)) from error
        except UnicodeDecodeError as error:
            raise _Unreadable(f"it is no {self._encoding} text; is_text=False takes bytes") from error
        self.read = (normalized(path), Fingerprint(hashlib.sha256(data).digest(), len(data)))
        return self.parse(content)

    def parse(self, content: Any) -> Any:
        """What the parser makes of the content. Raises: ValueError as `convert`."""
        if self._parser is None:
            return content
        parse = _imported(self._parser) if isinstance(self._parser, str) else self._parser
        try:
            return parse(content)
        except Exception as error:
            raise _Unreadable(f"its parser failed with {type(error).__name__}: {error}") from error


class _Unreadable(ValueError):
    """`message` is what is shown to people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def _imported(name: str) -> Callable[[Any], Any]:
    import importlib

    module, _, attribute = name.rpartition(".")
    try:
        parser: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidFlow(
            f"The parser {name!r} of a file cannot be imported ({error}). Name it as module.function."
        ) from error
    return parser

"""Configs: documents that a run is started with. Steps read them, decorators and defaults take values out of them.

    class TrainFlow(FlowSpec):
        config = Config("config", default="train.json")

        @resources(memory=config.memory)
        @step
        def start(self):
            self.rate = self.config.optimizer.rate

In the body of the class no value is known yet: `config.memory` is a `ConfigPath`, and is looked up once a run
has its values. Each key of the document is recorded as a value of its own (`config.memory`), so that a
step depends on the keys it reads and not on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from weft.lineage.errors import UsageError, WeftError
from weft.runtime.include import FileContent
from weft.runtime.parameters import Late, Parameter, convert, parameters_of, resolve

__all__ = [
    "OPTION_NAMES",
    "Config",
    "ConfigPath",
    "ConfigValue",
    "Document",
    "Given",
    "NotSettled",
    "configs_of",
    "given_configs",
    "is_default",
    "keys_in",
    "parameters_without_configs",
    "parts_of",
    "settle",
    "settled",
    "view_of",
]

#: JSON objects from names of configs to files, and to documents.
_VARIABLES = (
    ("WEFT_FLOW_CONFIG", "WEFT_FLOW_CONFIG_VALUE"),
    ("METAFLOW_FLOW_CONFIG", "METAFLOW_FLOW_CONFIG_VALUE"),
)

#: Attributes that no parameter can have in a flow with configs, because their options have these names.
OPTION_NAMES = frozenset({"config", "config_value"})

_UNKNOWN: Any = object()


class NotSettled(UsageError):
    """A value is asked for that no run has given yet."""


class Given(NamedTuple):
    """A document that was given itself: JSON text, or the value."""

    value: Any


class Document(NamedTuple):
    """The value of a config among those of a run's parameters."""

    content: Any


class ConfigValue(Mapping[str, Any]):
    """A document, or an object in one, that cannot be changed: `value.key`, `value["key"]`, `**value`.

    `note` is told of each key that is read, and None when more than one is. Keys that are called as a
    method of mappings are read with brackets.
    """

    __slots__ = ("_items", "_note")

    def __init__(self, items: Mapping[str, Any], note: Callable[[str | None], None] | None = None) -> None:
        object.__setattr__(self, "_items", dict(items))
        object.__setattr__(self, "_note", note or _note_nothing)

    def __getitem__(self, key: str) -> Any:
        self._note(key if key in self._items else None)
        return _frozen(self._items[key])

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"The config has no key {key!r}. {_known(key, self._items)}") from None

    def __contains__(self, key: object) -> bool:
        is_there = key in self._items
        self._note(key if is_there and isinstance(key, str) else None)
        return is_there

    def __iter__(self) -> Iterator[str]:
        self._note(None)
        return iter(self._items)

    def __len__(self) -> int:
        self._note(None)
        return len(self._items)

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(
            f"A config cannot be changed. Set self.{key} instead, or give the run another one."
        )

    def __delattr__(self, key: str) -> None:
        raise AttributeError("A config cannot be changed. Give the run another one.")

    def to_dict(self) -> dict[str, Any]:
        """A copy as plain dicts and lists."""
        import copy

        self._note(None)
        return copy.deepcopy(self._items)

    def __repr__(self) -> str:
        return f"ConfigValue({self.to_dict()!r})"

    def __reduce__(self) -> tuple[type[ConfigValue], tuple[dict[str, Any]]]:
        return ConfigValue, (self.to_dict(),)


class ConfigPath(Late):
    """A value of a config that is not known yet; all that can be done with it is to go on to a part of it."""

    __slots__ = ("_config", "_keys")

    def __init__(self, config: Config, keys: tuple[str | int, ...]) -> None:
        self._config = config
        self._keys = keys

    def __getattr__(self, key: str) -> ConfigPath:
        if key.startswith("__"):
            raise AttributeError(key)
        return ConfigPath(self._config, (*self._keys, key))

    def __getitem__(self, key: str | int) -> ConfigPath:
        return ConfigPath(self._config, (*self._keys, key))

    def __iter__(self) -> Iterator[Any]:
        raise UsageError(
            f"{self!r} is not known while the class is made. Use it in a step or as an argument."
        )

    __bool__ = __len__ = __int__ = __float__ = __index__ = __iter__

    def __repr__(self) -> str:
        return ".".join(map(str, (self._config.attribute, *self._keys)))

    @property
    def key(self) -> tuple[str, str | None]:
        """The config, by attribute, and the key of its document that this is below."""
        first = self._keys[0]
        return self._config.attribute, first if isinstance(first, str) else None

    def look_up(self) -> Any:
        """The value, plain. Raises: UsageError when the config has none there, or none is known."""
        return self.look_up_in(self._config.value)

    def look_up_in(self, document: Any) -> Any:
        """The value in a document of the config. Raises: UsageError when it has none there."""
        found = document
        for depth, key in enumerate(self._keys):
            try:
                found = found[key]
            except (KeyError, IndexError, TypeError):
                where = ConfigPath(self._config, self._keys[:depth])
                hint = _known(str(key), found) if isinstance(found, Mapping) else f"It is {found!r}."
                raise UsageError(f"Config {where!r} has no {key!r}. {hint}") from None
        return found


class Config(Parameter):
    """A document that a run is started with: `--config NAME FILE`, or as text `--config-value NAME JSON`.

    `default` is the path of a file, `default_value` a document or its text, either also as a function of
    a `ParameterContext`. `parser` makes the document from the file's text: a function or its dotted
    name; without it the text is JSON. Steps see objects as `ConfigValue`, with `plain` as dicts. The
    file is read when the run starts, and that it was is recorded. A resume keeps the documents of its origin.
    """

    environment_prefixes: ClassVar[tuple[str, ...]] = ()
    kind_name: ClassVar[str] = "Config"

    def __init__(
        self,
        name: str,
        default: Any = None,
        default_value: Any = None,
        help: str | None = None,
        required: bool = False,
        parser: Callable[[str], Any] | str | None = None,
        plain: bool = False,
    ) -> None:
        if default is not None and default_value is not None:
            raise UsageError(f"Config {name} has both default and default_value. Leave one of them.")
        if callable(default_value):
            default = lambda context: Given(default_value(context))
        elif default_value is not None:
            default = Given(default_value)
        self.content = _DocumentType(parser)
        self.plain = plain
        self._value: Any = _UNKNOWN
        super().__init__(name, default, self.content, help, required)

    @property
    def option(self) -> str:
        return f"--config {self.name}"

    @property
    def value(self) -> Any:
        """The document of the run that this process makes, plain. Raises: NotSettled when there is none yet."""
        if self._value is _UNKNOWN:
            raise NotSettled(
                f"Config {self.name} has no value yet. Use it in a step, or in an argument of a decorator."
            )
        return self._value

    def settle(self, value: Any) -> None:
        self._value = value

    @property
    def is_settled(self) -> bool:
        return self._value is not _UNKNOWN

    def __getattr__(self, key: str) -> ConfigPath:
        if key.startswith("_"):
            raise AttributeError(key)
        return ConfigPath(self, (key,))

    def __getitem__(self, key: str | int) -> ConfigPath:
        return ConfigPath(self, (key,))


class _DocumentType(FileContent):
    """The type of a config: from a path, or from what was `Given`, to the document."""

    name = "file"

    def __init__(self, parser: Callable[[str], Any] | str | None) -> None:
        super().__init__("utf-8", parser or "json.loads")

    def convert(self, value: object, param: object, ctx: object) -> Any:
        if not isinstance(value, Given):
            return _plain(super().convert(value, param, ctx))
        self.read = None
        return _plain(self.parse(value.value) if isinstance(value.value, str) else value.value)


def configs_of(flow_class: type) -> dict[str, Config]:
    """The configs of a class by attribute, those of bases first."""
    return {name: p for name, p in parameters_of(flow_class).items() if isinstance(p, Config)}


def parameters_without_configs(flow_class: type) -> dict[str, Parameter]:
    """The parameters of a class that have an option of their own, by attribute."""
    parameters = parameters_of(flow_class)
    taken = OPTION_NAMES if configs_of(flow_class) else frozenset[str]()
    return {
        name: p
        for name, p in parameters.items()
        if not isinstance(p, Config) and p.name.replace("-", "_") not in taken
    }


def given_configs(
    flow_class: type,
    files: Mapping[str, str],
    documents: Mapping[str, str],
    environ: Mapping[str, str],
) -> dict[str, Any]:
    """The configs that a command line or the environment gives, by name, as `resolve` takes them.

    Raises: UsageError for one that the flow does not have, and for one that is given twice.
    """
    for name in files:
        if name in documents:
            raise UsageError(f"Config {name} is given by --config and by --config-value. Leave one of them.")
    known = {config.name for config in configs_of(flow_class).values()}
    found: dict[str, Any] = {**files, **{name: Given(text) for name, text in documents.items()}}
    for name in found:
        if name not in known:
            raise UsageError(
                f"{flow_class.__name__} has no config {name}. {_known(name, dict.fromkeys(known))}"
            )
    for file_variable, value_variable in _VARIABLES:
        by_file, by_value = (_from_variable(environ, v) for v in (file_variable, value_variable))
        told = {**by_file, **{name: Given(value) for name, value in by_value.items()}}
        found = {**{name: value for name, value in told.items() if name in known}, **found}
    return found


def settle(
    flow_class: type,
    given: Mapping[str, Any],
    user_name: str = "",
    kept: Mapping[str, Any] | None = None,
    is_complete: bool = True,
) -> dict[str, Document]:
    """The documents of all configs, by attribute, which from now on are those of this process.

    What is not given comes from `kept`, else from the defaults. Where it need not be complete, one that has none
    is left out.

    Raises: UsageError as `resolve`.
    """
    values: dict[str, Document] = {}
    for attribute, config in configs_of(flow_class).items():
        if kept is not None and attribute in kept and config.name not in given:
            config.content.read = None
            document = kept[attribute]
        else:
            own = {config.name: given[config.name]} if config.name in given else {}
            try:
                resolved = resolve({attribute: config}, own, {}, flow_class.__name__, user_name)
            except UsageError:
                if is_complete:
                    raise
                continue
            document = resolved[attribute]
        config.settle(document)
        values[attribute] = Document(document)
    return values


def is_default(parameter: Parameter, digest: bytes | None, documents: Mapping[str, Any]) -> bool:
    """Whether a recorded value is the one that the default takes from a config of that run."""
    from weft.lineage.serializers import dump

    default = parameter.default
    if not isinstance(default, ConfigPath) or default.key[0] not in documents:
        return False
    try:
        return dump(convert(parameter, default.look_up_in(documents[default.key[0]]))).digest == digest
    except WeftError:
        return False


def settled(value: Any) -> Any:
    """An argument with the values that its paths into configs stand for now."""
    if isinstance(value, ConfigPath):
        return value.look_up()
    if isinstance(value, Config):
        return value.value
    if type(value) is dict:
        return {key: settled(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(settled(part) for part in value)
    return value


def keys_in(value: Any) -> Iterator[tuple[str, str | None]]:
    """The configs that an argument takes values from, by attribute, with the key; None for the whole document."""
    if isinstance(value, ConfigPath):
        yield value.key
    elif isinstance(value, Config):
        yield value.attribute, None
    elif type(value) in (dict, list, tuple):
        for part in value.values() if type(value) is dict else value:
            yield from keys_in(part)


def parts_of(name: str, document: Any) -> dict[str, Any]:
    """What is recorded of a config: the document, and each of its keys that can be part of a pathspec."""
    items = document.items() if isinstance(document, dict) else ()
    named = [(key, part) for key, part in items if isinstance(key, str) and key and "/" not in key]
    return {name: document, **{f"{name}.{key}": part for key, part in named}}


def view_of(config: Config, document: Any, note: Callable[[str | None], None]) -> Any:
    """What a step sees of a document. `note` is told which key was read, None for all."""
    if config.plain or not isinstance(document, dict):
        note(None)
        return document
    return ConfigValue(document, note)


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return ConfigValue(value)
    if not isinstance(value, list):
        return value
    import copy

    return copy.deepcopy(value)


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigValue) else value


def _note_nothing(key: str | None) -> None:
    pass


def _from_variable(environ: Mapping[str, str], variable: str) -> dict[str, Any]:
    if variable not in environ:
        return {}
    import json

    try:
        told = json.loads(environ[variable])
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise UsageError(f'{variable} is no JSON object from names of configs. Write {{"config": …}}.')
    return told


def _known(wrong: str, names: Mapping[Any, object]) -> str:
    import difflib

    words = [str(name) for name in names]
    near = difflib.get_close_matches(wrong, words, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"It has: {', '.join(words)}." if words else "It has none."

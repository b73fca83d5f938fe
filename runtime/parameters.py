"""The parameters and constants of a flow: declared on the class, given by text or value, converted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn

from weft.lineage.errors import InvalidFlow, UsageError

__all__ = [
    "RESERVED_NAMES",
    "JSONType",
    "JSONTypeClass",
    "Late",
    "Parameter",
    "ParameterContext",
    "check_parameters",
    "constants_of",
    "convert",
    "parameters_of",
    "resolve",
]

#: Names the command line or the flow itself needs, with `-` written as `_`.
RESERVED_NAMES = frozenset(
    {
        "params",
        "with",
        "tag",
        "namespace",
        "obj",
        "tags",
        "decospecs",
        "run_id_file",
        "max_num_splits",
        "max_workers",
        "max_log_size",
        "user_namespace",
        "run_id",
        "task_id",
        "runner_attribute_file",
        # of weft
        "help",
        "isolation",
        "keep_going",
        "openlineage",
    }
)

#: Attributes of every flow: a parameter there would hide what a step needs.
_FLOW_ATTRIBUTES = frozenset(
    {"next", "name", "input", "index", "cmd", "foreach_stack", "merge_artifacts", "script_name"}
)

_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "y", "on", "t"), True),
    **dict.fromkeys(("false", "0", "no", "n", "off", "f"), False),
}


class JSONTypeClass:
    """The type of a parameter given as JSON text and read as the Python value it stands for."""

    name = "JSON"

    def convert(self, value: object, param: object, ctx: object) -> Any:
        """The value of JSON text; what is no text is taken as it is.

        Raises: ValueError for text that is not JSON.
        """
        if not isinstance(value, str):
            return value
        import json

        return json.loads(value)

    def __repr__(self) -> str:
        return "JSONType"


JSONType = JSONTypeClass()


class ParameterContext(NamedTuple):
    """What a default that is a function is told."""

    flow_name: str
    user_name: str
    parameter_name: str
    logger: Callable[..., None] = print
    ds_type: str = "local"
    configs: Any = None


class Late:
    """A default whose value, and type, is known once a run has its configs."""

    __slots__ = ()

    def look_up(self) -> Any:
        """Raises: UsageError as long as it is not known."""
        raise NotImplementedError


class Parameter:
    """A value that a run is started with, read as an attribute of the flow in every step.

    `type` is given, or that of the default, or str; JSON for defaults that are lists and dicts. Types of
    click work, too. With `separator` the text is cut into a list whose items have the type. A default
    that is a function of a `ParameterContext` is called once for each run.
    """

    #: Of the environment variables that give a value; the first that is there counts.
    environment_prefixes: ClassVar[tuple[str, ...]] = ("WEFT_RUN_", "METAFLOW_RUN_")
    #: What messages call it.
    kind_name: ClassVar[str] = "Parameter"

    def __init__(
        self,
        name: str,
        default: Any = None,
        type: Any = None,
        help: str | None = None,
        required: bool = False,
        show_default: bool = True,
        separator: str | None = None,
        secret: bool = False,
    ) -> None:
        self.name = name
        self.default = default
        self.help = help
        self.required = required
        self.show_default = show_default
        self.separator = separator
        self.secret = secret
        self.attribute = name.replace("-", "_")
        self._type = type

    @property
    def type(self) -> Any:
        """What texts are converted to: as declared, else that of the default."""
        if self._type is not None:
            return self._type
        default = self.default
        if isinstance(default, Late):
            try:
                default = default.look_up()
            except UsageError:
                default = None
        return _type_of(default, self.separator)

    @property
    def option(self) -> str:
        """The option of the command line."""
        return f"--{self.name}"

    @property
    def type_name(self) -> str:
        """The type, for people: "int", "JSON", "list of str"."""
        text = str(getattr(self.type, "name", None) or getattr(self.type, "__name__", None) or self.type)
        return text if self.separator is None else f"list of {text}"

    def __set_name__(self, owner: Any, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, flow: object, owner: Any = None) -> Any:
        """The parameter itself on the class. On a flow the value is found elsewhere: in its `__dict__`,
        which Python asks before this, or by its `__getattr__`, which Python asks after it.
        """
        if flow is None:
            return self
        raise AttributeError(f"Parameter {self.name} has no value outside a run. Read it in a step.")

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, type={self.type_name})"


def parameters_of(flow_class: type) -> dict[str, Parameter]:
    """The parameters of a class along its MRO by attribute, those of bases first.

    An attribute that a subclass gives to something else is no parameter any more.
    """
    found: dict[str, Parameter] = {}
    for base in reversed(flow_class.__mro__):
        for attribute, value in vars(base).items():
            if isinstance(value, Parameter):
                found[attribute] = value
            else:
                found.pop(attribute, None)
    return found


def constants_of(flow_class: type, root: type = object) -> dict[str, Any]:
    """The public class variables of a class and its bases below `root` that are plain values.

    Functions, properties and all other descriptors, nested classes and modules are none.
    """
    found: dict[str, Any] = {}
    for base in reversed(flow_class.__mro__):
        if issubclass(root, base):
            continue
        for name, value in vars(base).items():
            found.pop(name, None)
            if not name.startswith("_") and _is_constant(value):
                found[name] = value
    return found


def check_parameters(parameters: Mapping[str, Parameter]) -> None:
    """Raises: InvalidFlow for names that are reserved, malformed or told apart by their case only."""
    seen: dict[str, str] = {}
    for attribute, parameter in parameters.items():
        name = parameter.name
        folded = name.replace("-", "_").lower() if isinstance(name, str) else ""
        if not folded.isidentifier():
            raise InvalidFlow(
                f"Parameter {name!r} cannot be an option. Name it with letters, digits, _ and -, not a digit first."
            )
        for used in (folded, attribute):
            if used in RESERVED_NAMES or used in _FLOW_ATTRIBUTES:
                raise InvalidFlow(
                    f"{parameter.kind_name} {name} has a name that weft needs itself. Give it another name."
                )
        if folded in seen:
            raise InvalidFlow(
                f"Parameters {seen[folded]} and {name} differ in upper and lower case or in - and _ only. Rename one."
            )
        seen[folded] = name


def convert(parameter: Parameter, given: object) -> Any:
    """The value of a parameter from its text, or from a value given in Python.

    Raises: UsageError that names the parameter, what was given and the type.
    """
    if parameter.separator is None:
        return _convert_one(parameter, given)
    items = given.split(parameter.separator) if isinstance(given, str) else given
    if not isinstance(items, list | tuple):
        raise _wrong(parameter, given)
    return [_convert_one(parameter, item) for item in items]


def resolve(
    parameters: Mapping[str, Parameter],
    given: Mapping[str, object],
    environ: Mapping[str, str],
    flow_name: str = "",
    user_name: str = "",
) -> dict[str, Any]:
    """The values of all parameters by attribute: what is given, else the environment, else the default.

    `given` has names of parameters, with `-` or `_`; the environment WEFT_RUN_<NAME> before
    METAFLOW_RUN_<NAME>. Defaults that are functions are called here.

    Raises: InvalidFlow as `check_parameters`; UsageError for a name that is no parameter, a required
    one that is missing, and a value that does not convert.
    """
    check_parameters(parameters)
    by_name = {_folded(name): value for name, value in given.items()}
    known = {_folded(parameter.name): parameter for parameter in parameters.values()}
    for name in given:
        if _folded(name) not in known:
            raise UsageError(_unknown(name, [parameter.name for parameter in known.values()]))
    values: dict[str, Any] = {}
    for attribute, parameter in parameters.items():
        name = _folded(parameter.name)
        variables = [prefix + name.upper() for prefix in parameter.environment_prefixes]
        found = [by_name[name]] if name in by_name else [environ[v] for v in variables if v in environ]
        if found:
            values[attribute] = convert(parameter, found[0])
        elif parameter.required and parameter.default is None:
            raise UsageError(
                f"{parameter.kind_name} {parameter.name} of {flow_name or 'the flow'} is required and was not given. "
                f"Add {parameter.option} <{parameter.type_name}>."
            )
        else:
            values[attribute] = _default(parameter, flow_name, user_name)
    return values


def _type_of(default: Any, separator: str | None) -> Any:
    if default is None or callable(default):
        return str
    if isinstance(default, list | tuple | dict):
        return JSONType if separator is None else str
    return type(default)


def _is_constant(value: object) -> bool:
    is_module = type(value).__name__ == "module"
    return not hasattr(value, "__get__") and not isinstance(value, type) and not is_module


def _convert_one(parameter: Parameter, given: object) -> Any:
    kind = parameter.type
    if given is None:
        return None
    try:
        if kind is bool:
            return _to_bool(given)
        if kind is int:
            return _to_int(given)
        if kind is float:
            # bool is an int to Python, and True is no measurement.
            return float(given) if isinstance(given, str | int | float) else _refuse()
        if kind is str:
            return given if isinstance(given, str) else _to_text(given)
        converter = kind() if isinstance(kind, type) and hasattr(kind, "convert") else kind
        if hasattr(converter, "convert"):
            return converter.convert(given, None, None)
        return given if isinstance(kind, type) and isinstance(given, kind) else kind(given)
    except Exception as error:
        raise _wrong(parameter, given, error) from error


def _to_bool(given: object) -> bool:
    if isinstance(given, bool):
        return given
    if isinstance(given, int) and given in (0, 1):
        return bool(given)
    known = _BOOLEANS.get(given.strip().lower()) if isinstance(given, str) else None
    return _refuse() if known is None else known


def _to_int(given: object) -> int:
    if isinstance(given, str):
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return int(given)
    return _refuse()


def _to_text(given: object) -> str:
    return str(given) if isinstance(given, bool | int | float) else _refuse()


def _refuse() -> NoReturn:
    raise ValueError


def _wrong(parameter: Parameter, given: object, error: Exception | None = None) -> UsageError:
    # Types of click say in their message what they would have taken.
    detail = getattr(error, "message", None)
    reason = f" ({str(detail).rstrip('.')})" if detail else ""
    shown = "the value given" if parameter.secret else repr(given)
    choices = " (true or false)" if parameter.type is bool else ""
    return UsageError(
        f"{parameter.kind_name} {parameter.name}: {shown} is not of type {parameter.type_name}{reason}. "
        f"Give {parameter.option} a value of type {parameter.type_name}{choices}."
    )


def _default(parameter: Parameter, flow_name: str, user_name: str) -> Any:
    default = parameter.default
    if isinstance(default, Late):
        default = default.look_up()
    elif callable(default):
        try:
            default = default(ParameterContext(flow_name, user_name, parameter.name))
        except Exception as error:
            raise UsageError(
                f"The default of {parameter.kind_name.lower()} {parameter.name} is a function, and it failed with "
                f"{type(error).__name__}: {error}. Give {parameter.option} or mend the function."
            ) from error
    return None if default is None else convert(parameter, default)


def _folded(name: str) -> str:
    return name.replace("-", "_").lower()


def _unknown(name: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return f"There is no parameter {name}. Did you mean {' or '.join(near)}?"
    return f"There is no parameter {name}. The flow has: {', '.join(names) or 'none'}."

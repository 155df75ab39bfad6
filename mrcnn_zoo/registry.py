"""A registry maps names in YAML files to the functions that build the components."""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mrcnn_zoo.errors import UserError

Builder = TypeVar("Builder", bound=Callable[..., Any])


class UnknownNameError(UserError, KeyError):
    """A name that no builder is registered under."""

    def __str__(self) -> str:
        return str(self.args[0])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence for messages, e.g. ` Did you mean 'ROIAlign'?`; empty when no known name is close.

    Args:
        name: an unknown name.
        known: the names to choose from.
    """
    closest = closest_name(name, known)
    return f" Did you mean {closest!r}?" if closest else ""


def closest_name(name: str, known: Iterable[str], *, similarity: float = 0.6) -> str:
    """The known name most similar to another one, ignoring case; empty when none is close.

    Args:
        name: an unknown name.
        known: the names to choose from.
        similarity: minimum ratio of `difflib.SequenceMatcher`, in [0, 1].
    """
    by_lowercase = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(by_lowercase), n=1, cutoff=similarity)
    return by_lowercase[close[0]] if close else ""


class Registry:
    """Builders by name, and the config key that selects one.

    Args:
        name: what the registry is called in messages, e.g. "BACKBONES".
        key: the dotted config key that selects a builder, e.g. "MODEL.BACKBONE.NAME"; empty when several keys
            select from this registry, e.g. the pooler types.
        package: imported on first look-up, so that the components inside can register themselves.
        contract: "package.module:Class" of the protocol or base class that built components are checked against.
        base: "package.module:Class" that they must also be instances of.
    """

    def __init__(self, name: str, *, key: str = "", package: str = "", contract: str = "", base: str = "") -> None:
        self.name = name
        self.key = key
        self._package = package
        self._contract = contract
        self._base = base
        self._builders: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Builder], Builder]:
        """Decorator that registers a builder.

        Args:
            name: not registered yet.
        """

        def register_builder(builder: Builder) -> Builder:
            if name in self._builders:
                raise ValueError(f"{self.name} already has a builder named {name!r}")
            self._builders[name] = builder
            return builder

        return register_builder

    def get(self, name: str, *, key: str = "") -> Callable[..., Any]:
        """The builder registered as `name`, or the function that `"package.module:function"` points at.

        Args:
            name: value of the config key.
            key: the config key that gave the name, for the message; the registry's own by default.

        Returns:
            The builder, which raises a UserError when called with arguments that it does not take, or when the
            component that it returns does not satisfy the contract.

        Raises:
            UnknownNameError: with the key, the known names and the nearest one.
        """
        if ":" in name:
            return self._checked(self._import_foreign(name, key or self.key), name, key or self.key)
        self._load_package()
        if name not in self._builders:
            source = f"{key or self.key} = " if (key or self.key) else ""
            raise UnknownNameError(
                f"{source}{name!r} is not one of the registered {self.name}: {', '.join(self.names())}."
                f"{did_you_mean(name, self._builders)} Your own code is named as 'package.module:function'."
            )
        return self._checked(self._builders[name], name, key or self.key)

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._load_package()
        return sorted(self._builders)

    def __contains__(self, name: str) -> bool:
        self._load_package()
        return name in self._builders

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _checked(self, builder: Callable[..., Any], name: str, key: str) -> Callable[..., Any]:
        if not self._contract:
            return builder
        source = f"{key} = {name!r}" if key else repr(name)

        @functools.wraps(builder)
        def build(*args: Any, **kwargs: Any) -> Any:
            _check_arguments(builder, args, kwargs, f"{source} ({self.name})")
            made = builder(*args, **kwargs)
            check_contract(made, self._contract, source=source)
            if self._base and not isinstance(made, _imported(self._base)):
                raise UserError(f"{source} makes a {type(made).__name__}, which is no {self._base.replace(':', '.')}.")
            return made

        return build

    def _load_package(self) -> None:
        if self._package:
            # Cleared first: the modules of the package use this registry while they are imported.
            package, self._package = self._package, ""
            importlib.import_module(package)

    def _import_foreign(self, name: str, key: str) -> Callable[..., Any]:
        module_name, _, attribute = name.partition(":")
        try:
            builder = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            source = f"{key} = " if key else ""
            raise UnknownNameError(
                f"{source}{name!r}: cannot import {attribute!r} from {module_name!r} ({error}). "
                f"Is the module installed, or its folder on PYTHONPATH?"
            ) from error
        if not callable(builder):
            raise UnknownNameError(f"{name!r} is a {type(builder).__name__}, not a function that builds {self.name}.")
        return builder


def check_contract(made: Any, contract: str, *, source: str) -> None:
    """Refuse a component that lacks a method or attribute of its contract, or has a method of other arguments.

    Args:
        made: the component.
        contract: "package.module:Class" of a protocol or a base class.
        source: the config key and value that it comes from, for the message.

    Raises:
        UserError: naming what is missing and the page that describes it.
    """
    expected = _imported(contract)
    page = f"{expected.__name__} in {expected.__module__.replace('.', '/')}.py"
    if isinstance(made, type):
        raise UserError(f"{source} makes the class {made.__name__} itself, not an instance of it; see {page}.")
    if not _is_protocol(expected) and isinstance(made, expected):
        return
    made_name = "nothing (None)" if made is None else f"a {type(made).__name__}"
    members = _members(expected)
    missing = [name for name, member in members.items() if _lacks(made, name, member)]
    if missing:
        raise UserError(
            f"{source} makes {made_name} without {', '.join(missing)}. What it must have is described by {page}."
        )
    for name, member in members.items():
        if inspect.isfunction(member):
            problem = _other_arguments(made, name, member)
            if problem:
                raise UserError(f"{source} makes {made_name} whose {name} {problem}. It is described by {page}.")


def _imported(name: str) -> type:
    module_name, _, class_name = name.partition(":")
    imported: type = getattr(importlib.import_module(module_name), class_name)
    return imported


def _is_protocol(expected: type) -> bool:
    return bool(getattr(expected, "_is_protocol", False))


def _members(expected: type) -> dict[str, Any]:
    """Public methods and attributes, and `__call__`, that the class declares or inherits from its own kind."""
    members: dict[str, Any] = {}
    for cls in reversed(expected.__mro__):
        if cls is object or cls.__module__ in ("typing", "typing_extensions"):
            continue
        declared = {**dict.fromkeys(vars(cls).get("__annotations__", {})), **vars(cls)}
        members |= {name: value for name, value in declared.items() if name == "__call__" or not name.startswith("_")}
    return members


def _lacks(made: Any, name: str, member: Any) -> bool:
    """Whether the component lacks the member, or has only the placeholder of its base class."""
    if name == "__call__":
        forward = getattr(type(made), "forward", None)
        return not callable(made) or getattr(forward, "__name__", "") == "_forward_unimplemented"
    if not hasattr(made, name):
        return True
    if not inspect.isfunction(member):
        return False
    own = getattr(type(made), name, None)
    return not callable(getattr(made, name)) or bool(getattr(own, "__isabstractmethod__", False))


def _other_arguments(made: Any, name: str, member: Callable[..., Any]) -> str:
    """The mismatch between the arguments of a method and those of the contract; empty for none."""
    # `nn.Module.__call__` takes any arguments and passes them to `forward`.
    method = getattr(made, "forward", made) if name == "__call__" else getattr(made, name)
    try:
        own = inspect.signature(method)
    except (TypeError, ValueError):  # of functions written in C
        return ""
    wanted = [p for p in list(inspect.signature(member).parameters.values())[1:] if p.default is p.empty]
    by_position = [p.name for p in wanted if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = {p.name: None for p in wanted if p.kind is p.KEYWORD_ONLY}
    try:
        own.bind(*by_position, **by_name)
    except TypeError:
        return f"takes {own} and is called with ({', '.join([*by_position, *by_name])})"
    return ""


def _check_arguments(builder: Callable[..., Any], args: Any, kwargs: Any, source: str) -> None:
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):  # of functions written in C
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = ", ".join([*(type(value).__name__ for value in args), *kwargs])
        raise UserError(
            f"{source}: the builder takes {signature} and is called with ({given}): {error}. What builders are called "
            "with is listed in mrcnn_zoo/registries.py."
        ) from error

"""A registry maps a name that a YAML file may say to the function that builds the component."""

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mrcnn_zoo.errors import UserError

Builder = TypeVar("Builder", bound=Callable[..., Any])


class UnknownNameError(UserError, KeyError):
    """A name that no builder is registered under."""

    def __str__(self) -> str:
        return str(self.args[0])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A ready sentence part like ` Did you mean 'ROIAlign'?`, or an empty string when nothing is close."""
    by_lowercase = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(by_lowercase), n=1, cutoff=0.6)
    return f" Did you mean {by_lowercase[close[0]]!r}?" if close else ""


class Registry:
    """Builders by name, and the config key that selects one.

    Args:
        name: what the registry is called in messages, e.g. "BACKBONES".
        key: the dotted config key whose value names the builder, e.g. "MODEL.BACKBONE.NAME"; empty when several
            keys select from this registry, as the two pooler types do.
        package: imported on first look-up, so that the components inside can register themselves.
    """

    def __init__(self, name: str, *, key: str = "", package: str = "") -> None:
        self.name = name
        self.key = key
        self._package = package
        self._builders: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Builder], Builder]:
        """Decorator that files a builder under `name`; a name can be taken only once."""

        def file_builder(builder: Builder) -> Builder:
            if name in self._builders:
                raise ValueError(f"{self.name} already has a builder named {name!r}")
            self._builders[name] = builder
            return builder

        return file_builder

    def get(self, name: str, *, key: str = "") -> Callable[..., Any]:
        """The builder registered as `name`, or the function that `"package.module:function"` points at.

        Args:
            name: as the config gives it.
            key: the config key that gave the name, for the message; the registry's own by default.

        Raises:
            UnknownNameError: with the key, the known names and the nearest one.
        """
        if ":" in name:
            return self._import_foreign(name, key or self.key)
        self._load_package()
        if name not in self._builders:
            source = f"{key or self.key} = " if (key or self.key) else ""
            raise UnknownNameError(
                f"{source}{name!r} is not one of the registered {self.name}: {', '.join(self.names())}."
                f"{did_you_mean(name, self._builders)} Your own code is named as 'package.module:function'."
            )
        return self._builders[name]

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

    def _load_package(self) -> None:
        if self._package:
            # Forget the package first: its modules use this registry while they are imported.
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

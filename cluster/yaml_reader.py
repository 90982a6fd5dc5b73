"""YAML as settings are written in it: no key twice, and numbers as people write them.

`config` reads files, and `drafters_command` single values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from paceline.actors.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 lets a key that is given twice win silently, and takes 1e-3, which has no point, and 1.5e2, which has no
    sign, for texts."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As SafeLoader, but every key once.

        Raises:
            yaml.constructor.ConstructorError: one is given twice.
        """
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """What a text says; None where it is empty.

    Raises:
        yaml.YAMLError: it is not YAML, or gives a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ValueError as error:  # a date that is none
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: str | Path) -> Any:
    """What a file says; None where it is empty.

    Raises:
        ConfigError: it cannot be read, or is not YAML.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # bytes that are no text, or a path that is none
        raise ConfigError(f"{path!s:.200}: cannot be read as UTF-8 ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({error})") from None

"""YAML as plain data: the safe subset, without keys that are given twice. Pure."""

from __future__ import annotations

from typing import Any

import yaml


class BadYamlError(Exception):
    """It is not YAML, or a key is not a string or is given twice."""


class _NoDuplicates(yaml.SafeLoader):
    """YAML's safe subset; a key given twice is refused instead of silently overwritten."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: ARG001  the signature is PyYAML's
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise BadYamlError(f"line {key_node.start_mark.line + 1}: the key {key!r} is not a string")
        if key in seen:
            raise BadYamlError(f"line {key_node.start_mark.line + 1}: the key {key!r} appears twice")
        seen.add(key)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_NoDuplicates.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(data: bytes) -> Any:
    """Parse one document.

    Raises:
        BadYamlError: it is not one.
    """
    try:
        return yaml.load(data, Loader=_NoDuplicates)  # noqa: S506  a SafeLoader subclass
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadYamlError(str(error)) from error

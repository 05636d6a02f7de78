"""YAML files as a person writes them: read with one clear error, written so that they read the same again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import InvalidInput, Problem, one_line


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; here it is the number it looks like. A key given twice is refused."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError):  # of `!!int ""`, `!!bool x`, `!!timestamp x`
            found = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):  # `!!map [a]`
            raise yaml.constructor.ConstructorError(None, None, "a mapping that is none", node.start_mark)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )
MOST_BYTES, MOST_VALUES, MOST_LEVELS = 200_000, 10_000, 50  # of a YAML file


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; one clear error where there is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            found, expected = f"{path.stat().st_size} bytes", f"a YAML file of at most {MOST_BYTES}"
            raise InvalidInput([Problem(str(path), "", found, expected, "Check the path.")])
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a SafeLoader)
        excess = _excess(document)
    except RecursionError:
        excess = f"more than {MOST_LEVELS} levels"
    except FileNotFoundError:
        raise InvalidInput([Problem(str(path), "", "no such file", "a YAML file", "Check the path.")]) from None
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise InvalidInput([Problem(str(path), "", found, "a YAML file that can be read")]) from None
    except UnicodeDecodeError as error:
        raise InvalidInput([Problem(str(path), "", str(error), "a YAML file in UTF-8")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput([Problem(str(path), "", one_line(error), "valid YAML")]) from None
    if excess:
        raise InvalidInput([Problem(str(path), "", excess, "settings that a person can read", "Check the file.")])
    if not isinstance(document, dict):
        found = "an empty file" if document is None else type(document).__name__
        raise InvalidInput([Problem(str(path), "", found, "sections with keys", EXAMPLES)])
    return document


EXAMPLES = "See search_spaces/quickstart.yaml for a study, search_spaces/base/sample.yaml for a training."


def _excess(document: object) -> str:
    """What no settings have, "" where there is no such thing. An alias counts wherever it stands, in itself too."""
    count, waiting = 0, [(document, 0)]
    while waiting:
        value, level = waiting.pop()
        count += 1
        if level > MOST_LEVELS:
            return f"more than {MOST_LEVELS} levels"
        if count > MOST_VALUES:
            return f"more than {MOST_VALUES} values"
        if isinstance(value, int) and not -(2**63) <= value <= 2**63:
            return "a whole number of more than 64 bits"
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            return f"half a character ({value[:20]!r})"
        if isinstance(value, dict):
            waiting += [(part, level + 1) for item in value.items() for part in item]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(part, level + 1) for part in value]
    return ""


def write_yaml(document: Mapping[str, Any]) -> str:
    """Return the text that `read_yaml` reads as this mapping."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False)
    return text

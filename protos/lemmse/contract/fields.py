"""Access to message fields by path: enumerations as names, unset optional fields as None."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message

from lemmse.contract.choices import CHOICES
from lemmse.contract.errors import MalformedMessage

__all__ = ["descriptor", "get", "get_all", "put", "put_all"]

M = TypeVar("M", bound=Message)


def put(message: Message, path: str, value: Any) -> None:
    """Set the field at a path such as "topk.k"; None leaves it unset."""
    if value is None:
        return
    holder, field = _resolve(message, path)
    choice = None if field.enum_type is None else CHOICES[field.enum_type.full_name]
    if field.is_repeated:
        numbers = value if choice is None else [choice.numbers[name] for name in sorted(value)]
        getattr(holder, field.name).extend(numbers)
    else:
        setattr(holder, field.name, value if choice is None else choice.numbers[value])


def get(message: Message, path: str, default: Any = None) -> Any:
    """Return the value of the field at a path, or a default if an optional field or an enumeration is unset.

    Raises
    ------
    MalformedMessage
        An enumeration has an unknown number.

    Examples
    --------
    >>> from lemmse.v1 import reconstruction_pb2 as pb
    >>> request = pb.ReconstructRequest(mode=pb.MODE_TOPK, topk=pb.TopK(k=8))
    >>> get(request, "mode"), get(request, "topk.k"), get(request, "topk.nprobe"), get(request, "quality")
    ('topk', 8, None, None)
    """
    holder, field = _resolve(message, path)
    value = getattr(holder, field.name)
    if field.enum_type is None:
        if field.is_repeated:
            return tuple(value)
        return default if field.has_presence and not holder.HasField(field.name) else value
    choice = CHOICES[field.enum_type.full_name]
    try:
        if field.is_repeated:
            return tuple(choice.name(number) for number in value)
        return default if value == 0 else choice.name(value)
    except ValueError as error:
        raise MalformedMessage.of(path, str(error)) from error


def put_all(message: M, values: Mapping[str, Any]) -> M:
    """Set fields of a message, by path, and return the message."""
    for path, value in values.items():
        put(message, path, value)
    return message


def get_all(message: Message, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of the named fields, by name."""
    return {name: get(message, name) for name in names}


def descriptor(message: type[Message], path: str) -> Any:
    """Return the descriptor of the field at a path.

    Raises
    ------
    KeyError
        There is no such field.
    """
    *parents, name = path.split(".")
    kind = message.DESCRIPTOR
    for parent in parents:
        inner = kind.fields_by_name[parent].message_type
        if inner is None:
            raise KeyError(path)
        kind = inner
    return kind.fields_by_name[name]


def _resolve(message: Message, path: str) -> tuple[Message, Any]:
    """Return the message that holds the field at a path, and the field's descriptor."""
    *parents, _ = path.split(".")
    holder = message
    for parent in parents:
        holder = getattr(holder, parent)
    return holder, descriptor(type(message), path)

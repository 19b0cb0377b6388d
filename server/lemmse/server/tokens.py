"""Bearer tokens, and the file that has their hashes.

Each line of the file is a role and the SHA-256 of a token in hexadecimal, separated by a space; empty lines
and those that begin with # are comments. A token is 256 random bits, so that a plain hash cannot be inverted.
"""

import fcntl
import os
import secrets
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.replacing import naming
from lemmse.server.changing import Changing

__all__ = ["Role", "Token", "Tokens", "add_token"]

Role = Literal["read", "admin"]
"""What a token permits: everything but AdminService, or everything."""

_PREFIX = "lemmse_"
"""Lets scanners find tokens that were published by mistake, and keeps a token from beginning with a dash."""
_BYTES = 32


class Token(NamedTuple):
    """A token that a file accepts."""

    role: Role
    digest: bytes
    """Its SHA-256."""

    @property
    def name(self) -> str:
        """Identifies it: the begin of its hash, as in the file."""
        return self.digest[:6].hex()


class Tokens:
    """The tokens that a file accepts; the file is read again when it changes.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    InvalidArgument
        The file cannot be read, or is not of the form that this module describes.
    """

    def __init__(self, path: Path) -> None:
        self._known = Changing((path,), lambda: _read(path))

    def find(self, token: str) -> Token | None:
        """Return a token that a caller sent; None if the file does not contain it.

        The time it takes does not depend on which token it is.
        """
        digest = sha256(token.encode()).digest()
        found = None
        for known in self._known.get():
            if compare_digest(known.digest, digest):
                found = known
        return found


def add_token(path: Path, role: Role) -> str:
    """Return a new token, after appending its hash to a file.

    The file is created with mode 0600 if it is missing; an existing one keeps its mode and owner, since they
    let the server read it. The line is written in one piece and synced before the token is returned.

    Parameters
    ----------
    path : Path
        The file.
    role : {"read", "admin"}
        The role of the token.

    Raises
    ------
    InvalidArgument
        The file contains something else than tokens.
    OSError
        The file cannot be written.
    """
    token = _PREFIX + secrets.token_urlsafe(_BYTES)
    line = f"{role} {sha256(token.encode()).hexdigest()}\n"
    with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        present = file.read().decode(errors="replace")
        _parse(path, present)
        lead = "\n" if present and not present.endswith("\n") else ""
        end, rest = file.tell(), (lead + line).encode()
        try:
            with naming(path):
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
        except OSError:
            file.truncate(end)  # a line that was cut short would have servers refuse the file
            raise
    return token


def _read(path: Path) -> list[Token]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        made = "" if path.exists() else "; `lemmse token` makes it"
        raise InvalidArgument.of("tokens", f"cannot read {path}: {error.strerror}{made}") from error
    return _parse(path, text)


def _parse(path: Path, text: str) -> list[Token]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        entry = _entry(words)
        if entry is None:  # the line itself might be a token
            roles = " or ".join(get_args(Role))
            raise InvalidArgument.of("tokens", f"{path}, line {number}: expected {roles}, and a SHA-256")
        entries.append(entry)
    return entries


def _entry(words: list[str]) -> Token | None:
    try:
        role, digest = words[0], bytes.fromhex(words[1])
    except (IndexError, ValueError):
        return None
    if role not in get_args(Role) or len(words) != 2 or len(digest) != sha256().digest_size:
        return None
    return Token(role, digest)  # type: ignore[arg-type]

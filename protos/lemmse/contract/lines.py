"""Messages as one line."""

__all__ = ["one_line"]


def one_line(text: object, otherwise: str = "") -> str:
    """Return a text, or the message of an exception, as one line; `otherwise` if it is empty.

    Examples
    --------
    >>> one_line(ValueError("expected a number,   got none ")), one_line(KeyError(), "KeyError")
    ('expected a number, got none', 'KeyError')
    """
    return " ".join(str(text).split()) or otherwise

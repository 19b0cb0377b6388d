"""Texts for a line of a terminal or a log."""

__all__ = ["one_line", "printable"]


def one_line(text: object, otherwise: str = "") -> str:
    """Return a text, or the message of an exception, as one printable line; `otherwise` if it is empty.

    Examples
    --------
    >>> one_line(ValueError("expected a number,   got none ")), one_line(KeyError(), "KeyError")
    ('expected a number, got none', 'KeyError')
    >>> one_line(FileNotFoundError(2, "No such file or directory", "y.png"))
    'y.png: No such file or directory'
    """
    if isinstance(text, OSError) and text.strerror:
        text = text.strerror if text.filename is None else f"{text.filename}: {text.strerror}"
    return printable(" ".join(str(text).split())) or otherwise


def printable(text: str) -> str:
    r"""Return a text in which everything that is no printable character is escaped as in Python.

    A terminal would act upon some of it, and names of files and images may come from somebody else.

    Examples
    --------
    >>> print(printable("café \x1b[31m\n"))
    café \x1b[31m\n
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)

"""The one kind of error that is meant for the user."""


class UserError(ValueError):
    """A user's mistake, told in one line. The commands print it and exit with status 2.

    Parameters
    ----------
    message : str
        Names the file or argument, the value found, and what to do. Line breaks become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).splitlines()))

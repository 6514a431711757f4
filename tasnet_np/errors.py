"""The one kind of error that is meant for the user."""


class UserError(ValueError):
    """A user's mistake, told in one line: the file or argument, the value found, what to do."""

    def __init__(self, message):
        super().__init__(" ".join(str(message).splitlines()))

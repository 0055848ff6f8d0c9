"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """Bad input. One sentence that says what is wrong, where, and the remedy; the door prints it and exits with 2."""

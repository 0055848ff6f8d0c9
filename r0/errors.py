"""The exception for errors that the user can correct."""


class UserError(ValueError):
    """Invalid input. The message is one sentence: what is wrong, where, and the remedy. The launcher prints it and exits with
    code 2.
    """

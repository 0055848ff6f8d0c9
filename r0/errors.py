"""The one exception that means: the user can mend this. And what other errors say."""


class UserError(ValueError):
    """Bad input. One sentence that says what is wrong, where, and the remedy; the door prints it and exits with 2."""


def reason(error: BaseException) -> str:
    """The first line of what an error says, or the name of its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""The exceptions whose message is all that a user needs."""


class UserError(ValueError):
    """Invalid input. The message is one sentence: what is wrong, where, and the remedy. The launcher prints it and exits with
    code 2.
    """


class RunFailed(RuntimeError):
    """A fault of machines or processes that the run could not repair. The message is one sentence: what failed, and what to do.
    The launcher prints it and exits with code 1.
    """


def reason(error: BaseException) -> str:
    """The first line of what an error says, or the name of its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

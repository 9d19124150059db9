"""The one exception that is shown to a user as a plain sentence instead of a traceback."""


class UserError(Exception):
    """Something outside the program is wrong: an input, an option, the machine.

    The message is one sentence (two at most) that says what is wrong, with which file, and what to do.
    Anything else that is raised is a defect of ours and keeps its traceback.
    """

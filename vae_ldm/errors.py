"""The errors a user may meet. Each carries one clear line that names the cause and the cure.

    ValueError
    └── VaeLdmError                the input is wrong, and the user can mend it; exit code 2
        ├── RecipeError            a recipe, or an override of it
        ├── DataError              photos, and files in which we store facts about them
        │   └── ManyUnreadableError
        ├── WeightsError           a folder or file of weights
        └── HubError               a repository of the Hub, or the token for it
    RuntimeError
    └── RunError                   the input was right and the work failed; exit code 1
    BaseException
    ├── KeyboardInterrupt          Ctrl-C; exit code 130
    └── StoppedError               SIGTERM; exit code 143

An OSError (a full disk, a file without permission) is not wrapped: the command line prints its file and reason, and
exits with 1. Any other exception is a fault of ours, and keeps its traceback.
"""

GO_ON, NOTHING_KEPT = "what is finished is kept; repeat the command to go on", "nothing is kept yet"
"""How the line of a stop ends, of a command that keeps what it has done."""


class VaeLdmError(ValueError):
    """The user's input is wrong; the command line prints the message and exits with 2."""


class RecipeError(VaeLdmError):
    """A recipe, or an override of it, cannot be read. May hold several lines, one a mistake."""


class DataError(VaeLdmError):
    """Photos, or a file in which we store facts about them, are missing, damaged or unusable."""


class ManyUnreadableError(DataError):
    """More photos than usual cannot be read. It is raised at the end: the work on the others is done."""


class WeightsError(VaeLdmError):
    """A folder of weights is missing, incomplete, mis-shaped or pickled."""


class HubError(VaeLdmError):
    """The Hub does not have what was asked for, or does not let this token have it."""


class StoppedError(BaseException):
    """Something outside asked the run to stop (SIGTERM); the command line prints the message and exits with 143.

    Like KeyboardInterrupt it is no Exception: a signal may arrive anywhere, also where every Exception is caught.
    """


class RunError(RuntimeError):
    """The run failed although its input was right; the command line prints the message and exits with 1."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, cut to one line without its full stop."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")

"""Errors for users. Any other exception that leaves the package is a defect of the package.

Each class is also a built-in exception (`ValueError`, `OSError`, ...), so that code which handles
the built-in one handles it too.
"""


class MoleblendError(Exception):
    """Base class of all errors for users; the message is one sentence.

    The message says what came, what was expected, and which file, row or argument it concerns.
    """


class MoleculeError(MoleblendError, ValueError):
    """A molecule that cannot be used; the message names it."""


class TooLargeError(MoleculeError):
    """A molecule with more atoms than the package gives to RDKit."""


class TableError(MoleblendError, ValueError):
    """A table, a column, a label, a split or a store that cannot be used."""


class SettingError(MoleblendError, ValueError):
    """An argument, a flag, a recipe or a combination of settings that is not valid."""


class SettingTypeError(SettingError, TypeError):
    """An argument of a type that is not accepted."""


class ModelFileError(MoleblendError, ValueError):
    """A model file that is damaged, of another kind or version, or does not fit the request."""


class MissingFileError(MoleblendError, FileNotFoundError):
    """An input file, a model or a run folder that does not exist."""


class OutputError(MoleblendError, OSError, ValueError):
    """An output that cannot be written, or would overwrite an input or another run."""


class NotAFolderError(OutputError, NotADirectoryError):
    """A file that stands where a folder is expected."""


class ReadOnlyError(OutputError, PermissionError):
    """A folder in which nothing can be written."""


class TrainingError(MoleblendError, FloatingPointError):
    """A loss, a gradient or a prediction that is not finite."""


class WorkerError(MoleblendError, ChildProcessError):
    """A worker process that died."""

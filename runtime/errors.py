"""The errors that a user can mend. Each message says what was got, what was expected and what to do."""


class LeoEdgeError(Exception):
    """An expected failure: the command line prints it as one `error:` line and exits with 2."""


class FrameError(LeoEdgeError):
    """A camera image or a set of them is missing, unreadable or of the wrong form."""


class BundleError(LeoEdgeError):
    """A bundle is incomplete, altered, of an unknown format or does not fit its own manifest."""


class CheckpointError(LeoEdgeError):
    """A checkpoint lacks a weight, has one too many or one of the wrong shape, or its config is not supported."""


class PromptError(LeoEdgeError):
    """A question cannot be turned into the prompt that the model was trained with."""


class ContextOverflowError(LeoEdgeError):
    """Prompt and answer together need more tokens than the decoder was built for."""


class DatasetError(LeoEdgeError):
    """A drive or a question set is missing, incomplete or not what its tables say."""


class CalibrationError(LeoEdgeError):
    """A calibration found something that cannot be calibrated, or its table does not fit what it is used for."""


class BackendError(LeoEdgeError):
    """An inference engine is missing, or cannot load or run a graph on this machine."""


class ClusterError(LeoEdgeError):
    """Machines that should share work are out of reach, or were lost."""


def first_line(error: Exception) -> str:
    """Returns the first line of another library's error, or its kind where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

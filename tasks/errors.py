"""What goes wrong with data, in one sentence that says where, what was expected, what came and what to do."""


class DataError(Exception):
    """A data set is missing, damaged or not the one expected; nothing was loaded."""

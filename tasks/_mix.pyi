import numpy as np
from numpy.typing import NDArray

def mix(words: NDArray[np.int64]) -> None: ...

import numpy as np
from numpy.typing import NDArray

VECTORS: tuple[int, ...]

def use(kind: int) -> None: ...
def gather(
    images: NDArray[np.uint8],
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
    moves: NDArray[np.int64] | None,
    mean: NDArray[np.float32] | None,
    std: NDArray[np.float32] | None,
    streamed: bool,
    threads: int,
) -> None: ...

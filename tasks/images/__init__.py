"""Images of one's own and the few-shot benchmarks: any number of a class, grey or colour."""

from tasks.images.image_set import ImageSet
from tasks.images.own import Images

__all__ = ["ImageSet", "Images"]

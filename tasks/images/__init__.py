"""Images of one's own and the few-shot benchmarks: any number of a class, grey or colour."""

from tasks.images.benchmarks import CUB, FC100, CifarFS, MiniImagenet, TieredImagenet, published_split
from tasks.images.image_set import ImageSet
from tasks.images.multi_label import MultiLabelImages, MultiLabelSampler
from tasks.images.own import Images
from tasks.images.segmentation import PixelSampler, Segmentation

__all__ = [
    "CUB",
    "FC100",
    "CifarFS",
    "ImageSet",
    "Images",
    "MiniImagenet",
    "MultiLabelImages",
    "MultiLabelSampler",
    "PixelSampler",
    "Segmentation",
    "TieredImagenet",
    "published_split",
]

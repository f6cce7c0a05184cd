"""Functional layers and models: `model.init(seed=...) -> params`, `model(params, x)`."""

from neo.draws import draws
from neo.nn.activations import ELU, GELU, LeakyReLU, PReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from neo.nn.attention import MultiheadAttention
from neo.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormReLU
from neo.nn.containers import Residual
from neo.nn.convolution import Conv1d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from neo.nn.dropout import Dropout
from neo.nn.embedding import Embedding
from neo.nn.frozen import Frozen
from neo.nn.functional_call import functional_call
from neo.nn.layers import (
    ChannelsLast,
    Conv2d,
    Flatten,
    Lambda,
    Linear,
    MaxPool2d,
    ReLU,
    SpatialMean,
)
from neo.nn.lora import LoRA
from neo.nn.models import MLP, Conv4, FullyConvolutional
from neo.nn.module import Module, Sequential
from neo.nn.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from neo.nn.pooling import AdaptiveAvgPool, AvgPool, GlobalMean, MaxPool
from neo.nn.recurrent import GRU, LSTM, RNN
from neo.nn.residual_networks import ResNet12, WideResNet
from neo.nn.siren import Sine, Siren
from neo.nn.tokens import TokenEncoder
from neo.nn.torch_model import TorchModel, from_torch
from neo.nn.vision_transformer import ViT

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "MLP",
    "RNN",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormReLU",
    "ChannelsLast",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Conv4",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "Embedding",
    "Flatten",
    "Frozen",
    "FullyConvolutional",
    "GlobalMean",
    "GroupNorm",
    "InstanceNorm",
    "Lambda",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LoRA",
    "MaxPool",
    "MaxPool2d",
    "Module",
    "MultiheadAttention",
    "PReLU",
    "RMSNorm",
    "ReLU",
    "ResNet12",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Sine",
    "Siren",
    "Softmax",
    "Softplus",
    "SpatialMean",
    "Tanh",
    "TokenEncoder",
    "TorchModel",
    "ViT",
    "WideResNet",
    "draws",
    "from_torch",
    "functional_call",
]

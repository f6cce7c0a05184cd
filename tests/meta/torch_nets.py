"""Networks, a problem and their configuration files, as someone new to Neo writes them into a folder of their own.

Each is a file of Python and a file of conf/model; what is not needed for either stays out.
"""

from __future__ import annotations

from typing import NamedTuple

HEAD = "defaults: [torch, _self_]\n"


class Net(NamedTuple):
    """model, task: the yaml of model/<name>.yaml and task/<name>.yaml. code: of nets.py. shape: of one input."""

    model: str
    code: str = ""
    shape: tuple[int, ...] = (1, 8, 8)
    task: str = ""


NETS = {
    "swin": Net(
        """
module: torchvision.models.SwinTransformer
options:
  patch_size: [2, 2]
  embed_dim: 8
  depths: [2, 1]
  num_heads: [1, 2]
  window_size: [2, 2]
  num_classes: 3
channels: 3
""",
        shape=(1, 12, 12),
    ),
    "mobilenet": Net(
        """
module: torchvision.models.mobilenet_v3_small
options: {num_classes: 3, width_mult: 0.1}
channels: 3
""",
        shape=(1, 32, 32),
    ),
    "densenet": Net(
        """
module: torchvision.models.DenseNet
options: {growth_rate: 2, block_config: [2, 2], num_init_features: 4, bn_size: 2, num_classes: 3}
channels: 3
""",
        shape=(1, 32, 32),
    ),
    "huggingface": Net(
        """
module: nets.Classifier
options: {width: 4, classes: 3}
output: logits
""",
        """
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class ClassifierOutput:
    loss: object = None
    logits: object = None
    hidden_states: object = None


class Classifier(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, activation="gelu", batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, pixel_values, labels=None):
        hidden = self.layer(self.embed(pixel_values[:, 0]))
        return ClassifierOutput(logits=self.head(hidden.mean(1)), hidden_states=(hidden,))
""",
    ),
    "model_output": Net(
        """
module: nets.Classifier
output: logits
""",
        """
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class ModelOutput(OrderedDict):
    def __getattr__(self, name):
        return self[name] if name in self else super().__getattribute__(name)

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 5), nn.Linear(5, 3)

    def forward(self, x):
        hidden = torch.tanh(self.body(x.flatten(1)))
        return ModelOutput(hidden=hidden, logits=self.head(hidden + F.softplus(hidden)))
""",
    ),
    "tuple": Net(
        """
module: nets.Two
output: 1.left
""",
        """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 5), nn.Linear(5, 3)

    def forward(self, x):
        hidden = torch.sigmoid(self.body(x.flatten(1)))
        return hidden, {"left": self.head(hidden), "right": hidden.sum()}
""",
    ),
    "lstm": Net(
        """
module: nets.Reader
options: {kind: LSTM, hidden: 3, classes: 3}
""",
        """
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Reader(nn.Module):
    def __init__(self, kind, hidden, classes):
        super().__init__()
        self.read = getattr(nn, kind)(2, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, x):
        lengths = 2 + torch.arange(len(x)) % (x.shape[1] - 1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.read(packed)
        padded, lengths = pad_packed_sequence(out, batch_first=True)
        return self.head(padded.sum(1) / lengths[:, None])
""",
        (5, 2),
    ),
    "weight_norm": Net(
        "module: nets.Normed\n",
        """
import torch
from torch import nn


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.weight_norm(nn.Conv2d(1, 3, 3))
        self.hidden = nn.utils.parametrizations.weight_norm(nn.Linear(108, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(torch.tanh(self.conv(x)).flatten(1))))
""",
    ),
    "spectral_norm": Net(
        "module: nets.Normed\n",
        """
import torch
from torch import nn


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.spectral_norm(nn.Conv2d(1, 3, 3))
        self.hidden = nn.utils.parametrizations.spectral_norm(nn.Linear(108, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(torch.tanh(self.conv(x)).flatten(1))))
""",
    ),
    "in_place": Net(
        """
module: nets.InPlace
output: logits
""",
        """
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 6), nn.Linear(6, 3)
        self.register_buffer("mask", torch.arange(6) == 4)

    def forward(self, x):
        hidden = self.body(x.flatten(1))
        hidden[:, 1::2].mul_(2).add_(hidden[:, ::2])
        hidden.masked_fill_(self.mask, 0.5)
        rectified = F.relu(hidden, inplace=True)
        scores = self.head(hidden + rectified)
        logits = torch.zeros(len(x), 3, dtype=hidden.dtype)
        logits[:, :2] = scores[:, :2]
        logits[:, 2] = scores[:, 0] * hidden.sum(1)
        return SimpleNamespace(logits=logits)
""",
    ),
    "layers": Net(
        """
module: torch.nn.Sequential
options:
  _args_:
    - _target_: torch.nn.Flatten
    - {_target_: torch.nn.Linear, in_features: 64, out_features: 4}
    - {_target_: torch.nn.ELU, inplace: true}
    - {_target_: torch.nn.Linear, in_features: 4, out_features: 3}
""",
    ),
}
for _kind in ("GRU", "RNN"):
    NETS[_kind.lower()] = NETS["lstm"]._replace(model=NETS["lstm"].model.replace("LSTM", _kind))
NETS["policy"] = Net(
    "module: nets.Policy\n",
    """
import torch
from torch import nn
from torch.distributions import Categorical

from meta import Metric, Supervised
from tasks import Batch, Task
from tasks.hashing import derive, stream, uniform


class Policy(nn.Module):
    def __init__(self, observations=6, actions=3):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(observations, 5), nn.Tanh(), nn.Linear(5, actions))

    def forward(self, x):
        return self.net(x)


class Reinforce(Supervised):
    \"\"\"-E[log p(action) * reward], less an entropy bonus; y holds (action, reward).\"\"\"

    metric = Metric("reward", "mean reward", higher_is_better=True)

    def loss(self, prediction, y):
        policy = Categorical(logits=prediction)
        return -(policy.log_prob(y[:, 0]) * y[:, 1]).mean() - 0.1 * policy.entropy().mean()

    def score(self, prediction, y):
        return torch.where(prediction.argmax(1) == y[:, 0], y[:, 1], 0.0)


class Bandits:
    \"\"\"Three arms, whose rewards are linear in the observation; a task is a matrix of them.\"\"\"

    name, split = "bandits", "by stream"

    def sampler(self, part, *, pulls, seed, device="cpu"):
        return BanditSampler(stream(seed, self.name, part), pulls, part)

    def describe(self):
        return {"dataset": self.name, "split": self.split, "checksum": "none", "source": "generated"}


class BanditSampler:
    chance = None

    def __init__(self, key, pulls, part):
        self.key, self.pulls, self.part, self.title = key, pulls, part, f"{pulls} pulls"

    def sample(self, iteration, slots):
        slots = range(slots) if isinstance(slots, int) else slots
        key, n = derive(self.key, iteration), 2 * self.pulls
        batches = []
        for slot in slots:
            arms, x, action = uniform(derive(key, slot), 18 + 7 * n).float().split([18, 6 * n, n])
            x, action = 2 * x.reshape(n, 6) - 1, (3 * action).floor()
            reward = ((2 * arms - 1).reshape(3, 6)[action.long()] * x).sum(1)
            batches.append((x, torch.stack([action, reward], 1)))
        x, y = (torch.stack(parts) for parts in zip(*batches))
        support, query = slice(0, self.pulls), slice(self.pulls, None)
        return Task(Batch(x[:, support], y[:, support]), Batch(x[:, query], y[:, query]))
""",
    (6,),
    """
dataset: {_target_: nets.Bandits}
problem: {_target_: nets.Reinforce}
picture: null
pulls: 6
seed: ${seed}
""",
)

"""Where a run can be watched, besides the files that it always writes: a file each."""

from meta.loggers.csv import CSV
from meta.loggers.logger import Logger, Loggers
from meta.loggers.mlflow import MLflow
from meta.loggers.tensorboard import TensorBoard
from meta.loggers.wandb import Wandb

__all__ = ["CSV", "Logger", "Loggers", "MLflow", "TensorBoard", "Wandb"]

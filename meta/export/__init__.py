"""A run's model for those who have no Neo: a torch module with its weights, torch.export's program, ONNX."""

from meta.export.export import FORMATS, export_run

__all__ = ["FORMATS", "export_run"]

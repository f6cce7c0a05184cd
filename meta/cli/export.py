"""A run's model for torch without Neo: python scripts/export.py run_dir=outputs/... support=my/class/folders

As it was meta-learned, or adapted to a support set: a folder of class folders, an .npz of x and y (support=...), or
that of a test task (slot=7). Leaves a folder, run_dir/export: model.py, the module's definition, whose load() gives it
with its weights; state_dict.pt; with formats=[torch_export] model.pt2 and with formats=[onnx] model.onnx; export.json.
The module's predictions are held against Neo's before the command ends.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from meta.cli import command
from meta.cli.finished import folder_of
from meta.export import export_run


def job(config: DictConfig) -> None:
    formats = [config.formats] if isinstance(config.formats, str) else list(config.formats or [])
    result = export_run(
        folder_of(config),
        which=config.checkpoint,
        support=None if config.support is None else Path(str(config.support)),
        slot=config.slot,
        inner_steps=config.inner_steps,
        formats=formats,
        out=None if config.out is None else Path(str(config.out)),
    )
    print(
        f"the model {result['what']}, after {result['iterations']} iterations ({result['checkpoint']}); predictions "
        f"differ from Neo's by {result['difference']:.2g} at most"
    )
    if result["classes"]:
        print("classes: " + ", ".join(f"{number} {name}" for number, name in enumerate(result["classes"])))
    folder = Path(result["folder"])
    print("written: " + "\n         ".join(str(folder / name) for name in result["files"]))


def main() -> None:
    command.run("export", job)


if __name__ == "__main__":
    main()

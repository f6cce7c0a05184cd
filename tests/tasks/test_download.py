"""Downloads with the real torchvision, from a server of this machine that hangs up half-way."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks import DataError
from tasks._torchvision import import_torchvision
from tasks.download import downloading, move
from tasks.omniglot import load


class Server(ThreadingHTTPServer):
    cut: str | None = None  # the name of a file of which only half is sent


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def copyfile(self, source, target):
        content = source.read()
        half = self.server.cut is not None and self.server.cut in self.path
        target.write(content[: len(content) // 2] if half else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves a tiny Omniglot, which torchvision takes for the published one."""
    pytest.importorskip("torch")
    try:
        omniglot = import_torchvision().datasets.Omniglot
    except ImportError:
        pytest.skip("torchvision is not installed; pip install 'neo-meta[download]'")
    served = tiny(tmp_path / "served")
    with Server(("127.0.0.1", 0), partial(Handler, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(omniglot, "download_url_prefix", f"http://127.0.0.1:{server.server_address[1]}")
        checksums = {path.stem: hashlib.md5(path.read_bytes()).hexdigest() for path in served.iterdir()}
        monkeypatch.setattr(omniglot, "zips_md5", checksums)
        yield server
        server.shutdown()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_download_that_is_cut_keeps_what_is_whole_and_the_next_brings_the_rest(server, tmp_path):
    place = tmp_path / "place"
    server.cut = "images_evaluation"
    with pytest.raises(
        DataError, match=r"^Omniglot: no images_background .* the download failed \(.+\); put "
    ):
        load(place, tmp_path / "cache", download=True)
    assert files(place) == ["omniglot-py/images_background.zip"]
    server.cut = None
    assert len(load(place, tmp_path / "cache", download=True)[1]) == 4
    assert files(place) == ["omniglot-py/images_background.zip", "omniglot-py/images_evaluation.zip"]


def test_nothing_of_an_interrupted_download_stays(tmp_path):
    def interrupted() -> None:
        with downloading(tmp_path / "data") as folder:
            (folder / "whole").write_text("whole")
            (folder / "half").write_text("ha")
            move(folder / "whole", tmp_path / "data" / "raw" / "whole")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(tmp_path / "data") == ["raw/whole"]

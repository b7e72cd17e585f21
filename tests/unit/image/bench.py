"""A builder over a real store, with a runner that only remembers."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.image.build.builder import Builder
from runtime.image.build.options import BuildOptions, Emit, RunStep
from runtime.image.errors import BuildError
from runtime.image.store import ImageStore
from runtime.image.tartree import TarTree, open_tree
from runtime.image.view import Entry, LayeredView


class RecordingRunner:
    """Writes the last word of the command into /ran; exits as told."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.runs: list[RunStep] = []
        self.volumes: list[str] = []

    def run(self, step: RunStep) -> int:
        self.runs.append(step)
        (step.directory / "upper/ran").write_text(step.argv[-1])
        for volume in self.volumes:
            (step.directory / f"upper{volume}").mkdir(parents=True)
            (step.directory / f"upper{volume}/gone").touch()
        step.output("stderr", b"oops\n")
        return self.code


class Bench:
    """A store, a context directory and what the last build said."""

    def __init__(self, root: Path, code: int = 0) -> None:
        self.store = ImageStore(root / "store")
        self.context = root / "context"
        self.context.mkdir()
        self.runner = RecordingRunner(code)
        self.lines: list[dict[str, Any]] = []
        self.pulled: list[str] = []

    def file(self, path: str, content: str = "", mode: int = 0o644) -> Path:
        """Put a file into the context."""
        target = self.context / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        target.chmod(mode)
        return target

    def build(self, dockerfile: str, **options: Any) -> str:
        self.file(options.get("dockerfile", "Dockerfile"), dockerfile)
        self.lines.clear()
        builder = Builder(self.store, self.runner, pull=self._pull)
        with self.tree() as context:
            return builder.build(context, BuildOptions(**options), self.lines.append)

    @contextmanager
    def tree(self) -> Iterator[TarTree]:
        """The context as it comes over the wire."""
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for path in sorted(self.context.rglob("*")):
                    tar.add(path, str(path.relative_to(self.context)), recursive=False)
            with open_tree(file, self.context) as tree:
                yield tree

    def config(self, dockerfile: str, **options: Any) -> dict[str, Any]:
        """Build and return the image's OCI config object."""
        image = self.store.resolve(self.build(dockerfile, **options))
        config: dict[str, Any] = image.config["config"]
        return config

    def fails(self, dockerfile: str, **options: Any) -> str:
        """Build and return what the failure says."""
        try:
            self.build(dockerfile, **options)
        except BuildError as error:
            return str(error)
        raise AssertionError("the build did not fail")

    def entry(self, image: str, path: str) -> Entry | None:
        view = LayeredView(self.store.lower_dirs(self.store.resolve(image)))
        return view.locate(path)[1]

    def read(self, image: str, path: str) -> str:
        entry = self.entry(image, path)
        assert entry is not None, f"{path} is not in the image"
        return entry.physical.read_text()

    def paths(self, image: str) -> list[str]:
        """Everything below the image's root, directories with a slash."""
        view = LayeredView(self.store.lower_dirs(self.store.resolve(image)))
        found: list[str] = []
        root = view.root()
        todo = [root] if root else []
        while todo:
            for child in view.children(todo.pop()):
                found.append(child.path + "/" * child.is_directory)
                if child.is_directory:
                    todo.append(child)
        return sorted(found)

    @property
    def text(self) -> str:
        return "".join(line.get("stream", "") for line in self.lines)

    def _pull(self, ref: str, platform: str, emit: Emit) -> None:
        self.pulled.append(ref)
        emit({"status": f"Pulling {ref}"})
        self.store.put_image({"config": {"Labels": {"pulled": "1"}}}, (), (ref,))

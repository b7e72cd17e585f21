"""Builds images from a Dockerfile, one image per step, with Docker's classic output and cache."""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.image.build.configuring import arguments, command_line, configure
from runtime.image.build.copying import LayerWriter, Source
from runtime.image.build.copystep import CopyStep
from runtime.image.build.dockerfile import Instruction, parse_dockerfile, parse_instruction
from runtime.image.build.ignore import IgnoreRules
from runtime.image.build.options import BuildOptions, Emit, Puller, RunStep, StepRunner
from runtime.image.build.stage import DEFAULT_PATH, Committer, Stage, StepCache
from runtime.image.build.words import expand
from runtime.image.commit import put_upper
from runtime.image.errors import BadReference, BuildError, ImageError, ImageNotFound
from runtime.image.model import Image, LayerInfo, architecture, short_id
from runtime.image.reference import parse
from runtime.image.squash import squash
from runtime.image.store import ImageStore
from runtime.image.tree import Node, Tree
from runtime.image.view import LayeredView

_PROXY_ARGS = frozenset(
    name
    for protocol in ("http", "https", "ftp", "no", "all")
    for name in (f"{protocol}_proxy", f"{protocol}_proxy".upper())
)
_DOCKERFILE_BYTES = 16 << 20


class Builder:
    """Builds with one store; `runner` executes RUN, `pull` fetches missing bases."""

    def __init__(
        self,
        store: ImageStore,
        runner: StepRunner,
        now: Callable[[], int] = time.time_ns,
        pull: Puller | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._store = store
        self._runner = runner
        self._now = now
        self._pull = pull
        self._random_bytes = random_bytes
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End the build before its next step; from any thread."""
        self._cancelled.set()

    def build(self, context: Tree[Any], options: BuildOptions, emit: Emit) -> str:
        """Build from a context; return the image id.

        Raises BuildError: everything that goes wrong, in Docker's words.
        """
        try:
            return _Build(self, context, options, emit).run()
        except BuildError:
            raise
        except OSError as error:
            shown = f"{error.strerror or error}"
            raise BuildError(f"{shown}: {error.filename}" if error.filename else shown) from error
        except (ImageError, ValueError) as error:
            raise BuildError(str(error)) from error


class _Build:
    """One build under way."""

    def __init__(
        self, builder: Builder, context: Tree[Any], options: BuildOptions, emit: Emit
    ) -> None:
        self._builder = builder
        self._store = builder._store
        self._options, self._emit = options, emit
        self._instructions = parse_dockerfile(_read_dockerfile(context, options.dockerfile))
        self._context = Source(context, IgnoreRules(_read_text(context, ".dockerignore") or ""))
        self._architecture = architecture()
        self._check_platform(options.platform)
        for tag in options.tags:
            if parse(tag).digest:
                raise BuildError(f"build tag cannot contain a digest: {tag}")
        self._global_args: dict[str, str | None] = {}
        self._used_args: set[str] = set()
        self._stages: list[Stage] = []
        cache = StepCache(self._store, enabled=not options.no_cache, sources=options.cache_from)
        self._committer = Committer(self._store, cache, builder._now)

    # -- the whole -------------------------------------------------------------------------

    def run(self) -> str:
        steps = self._chosen_steps()
        for number, step in enumerate(steps, 1):
            if self._builder._cancelled.is_set():
                raise BuildError("build cancelled")
            self._say(f"Step {number}/{len(steps)} : {step.original}")
            self._say("\n")
            if step.name == "FROM":
                self._end_stage()
                self._from(step)
            elif not self._stages:
                self._global_arg(step)
                continue
            else:
                self._step(step)
            self._say(f" ---> {short_id(self._stage.image_id)}\n")
        self._end_stage()
        return self._finish()

    def _chosen_steps(self) -> list[Instruction]:
        """The instructions up to the end of the target stage, and a LABEL per `--label`."""
        steps, names = self._instructions, []
        first = next((i for i, step in enumerate(steps) if step.name != "ARG"), len(steps))
        if first == len(steps) or steps[first].name != "FROM":
            raise BuildError("no build stage in current context")
        for index, step in enumerate(steps):
            if step.name == "FROM":
                words = step.text.split()
                names.append((words[2].lower() if len(words) == 3 else "", index))
        target = self._options.target.lower()
        if target:
            found = [i for i, (name, _) in enumerate(names) if name == target]
            if not found and target.isdecimal() and int(target) < len(names):
                found = [int(target)]
            if not found:
                raise BuildError(f'target stage "{self._options.target}" could not be found')
            following = found[-1] + 1
            steps = steps[: names[following][1]] if following < len(names) else steps
        return [*steps, *map(_label_step, sorted(self._options.labels.items()))]

    def _end_stage(self) -> None:
        if self._stages and self._stage.image_id:
            self._emit({"aux": {"ID": self._stage.image_id}})

    def _finish(self) -> str:
        stage = self._stage
        unused = sorted(set(self._options.build_args) - self._used_args - _PROXY_ARGS)
        if unused:
            shown = " ".join(unused)
            self._say(f"[Warning] One or more build-args [{shown}] were not consumed\n")
        if not stage.image_id:
            raise BuildError("No image was generated. Is your Dockerfile empty?")
        image_id = stage.image_id
        if self._options.squash:
            built = self._store.resolve(image_id)
            image_id = squash(self._store, built, stage.base_layers, self._builder._now).id
            self._emit({"aux": {"ID": image_id}})
        self._say(f"Successfully built {short_id(image_id)}\n")
        for tag in self._options.tags:
            self._store.tag(image_id, tag)
            self._say(f"Successfully tagged {parse(tag).with_default_tag().familiar}\n")
        return image_id

    @property
    def _stage(self) -> Stage:
        return self._stages[-1]

    def _say(self, text: str) -> None:
        self._emit({"stream": text})

    # -- stages ------------------------------------------------------------------------------

    def _check_platform(self, text: str) -> None:
        if text and text.lower().split("/")[:2] not in (
            ["linux"],
            [self._architecture],
            ["linux", self._architecture],
        ):
            raise BuildError(
                f"platform {text!r} is not supported: this machine is linux/{self._architecture}"
            )

    def _global_arg(self, step: Instruction) -> None:
        known = {k: v for k, v in self._global_args.items() if v is not None}
        for name, default in arguments(step, known):
            self._used_args.add(name)
            self._global_args[name] = self._options.build_args.get(name, default)

    def _from(self, step: Instruction) -> None:
        known = {k: v for k, v in self._global_args.items() if v is not None}
        wanted = expand(step.flag("platform"), known, step.escape)
        self._check_platform(wanted)
        words = step.text.split()
        base = expand(words[0], known, step.escape)
        if not base:
            raise BuildError(f"base name ({words[0]}) should not be blank")
        name = words[2].lower() if len(words) == 3 else ""
        if name and any(stage.name == name for stage in self._stages):
            raise BuildError(f"{name} stage name already used")
        image = None if base == "scratch" else self._base_image(base, wanted)
        self._stages.append(Stage.on(name, image, self._architecture))
        triggers = self._stage.settings.config.pop("OnBuild", None) or []
        if triggers:
            plural = "s" if len(triggers) > 1 else ""
            self._say(f"# Executing {len(triggers)} build trigger{plural}\n")
        for trigger in triggers:
            self._step(parse_instruction(trigger, step.line))

    def _base_image(self, name: str, wanted_platform: str) -> Image:
        earlier = next((s for s in reversed(self._stages) if s.name == name.lower()), None)
        if earlier is not None:
            return self._image_of(earlier)
        return self._pulled(name, wanted_platform)

    def _image_of(self, stage: Stage) -> Image:
        if not stage.image_id:
            raise BuildError("cannot use a stage that made no image (FROM scratch alone)")
        return self._store.resolve(stage.image_id)

    def _pulled(self, name: str, wanted_platform: str = "") -> Image:
        """An image by name, fetched where it is missing or `--pull` asks for the newest."""
        pull = self._builder._pull
        if not (self._options.pull and pull is not None):
            try:
                return self._store.resolve(name)
            except ImageNotFound:
                if pull is None:
                    raise BuildError(f"No such image: {name}: pull or load it first") from None
        try:
            pull(parse(name).with_default_tag().familiar, wanted_platform, self._emit)
        except BadReference as error:
            raise BuildError(f"failed to parse base image {name!r}: {error}") from None
        return self._store.resolve(name)

    # -- steps -------------------------------------------------------------------------------

    def _step(self, step: Instruction) -> None:
        if step.name == "RUN":
            self._run(step)
        elif step.name in ("COPY", "ADD"):
            self._copy(step)
        elif step.name == "ARG":
            self._arg(step)
        else:
            stage = self._stage
            text = configure(step, stage.settings, stage.variables)
            make = self._make_workdir if step.name == "WORKDIR" else _no_layer
            self._configured(text, make)

    def _commit(self, created_by: str, make: Callable[[], LayerInfo | None]) -> None:
        if self._committer.step(self._stage, created_by, make):
            self._say(" ---> Using cache\n")

    def _configured(self, text: str, make: Callable[[], LayerInfo | None]) -> None:
        """Commit a step Docker makes in a container that never runs."""
        name = self._builder._random_bytes(6).hex()

        def said() -> LayerInfo | None:
            self._say(f" ---> Running in {name}\n")
            layer = make()
            self._say(f" ---> Removed intermediate container {name}\n")
            return layer

        gap = " " if text.startswith("WORKDIR ") else "  "
        self._commit(self._comment(text, gap), said)

    def _comment(self, text: str, gap: str = "  ") -> str:
        """The history's words; moby's gap differs by the way it commits a step."""
        return " ".join([*self._stage.settings.shell, f"#(nop){gap}{text}"])

    def _arg(self, step: Instruction) -> None:
        args, text = self._stage.args, "ARG"
        for name, default in arguments(step, self._stage.variables):
            self._used_args.add(name)
            text += f" {name}" if default is None else f" {name}={default}"
            value = self._options.build_args.get(name, default)
            value = self._global_args.get(name) if value is None else value
            if value is not None:
                args[name] = value
        self._configured(text, _no_layer)

    def _run(self, step: Instruction) -> None:
        stage = self._stage
        argv = command_line(step, stage.settings)
        environment = stage.settings.environment
        args = {k: v for k, v in stage.args.items() if k not in environment}
        proxies = {
            k: v
            for k, v in self._options.build_args.items()
            if k in _PROXY_ARGS and k not in environment
        }
        shown = [f"{name}={value}" for name, value in sorted(args.items())]
        # as in moby a proxy leaves its mark there, not its value
        words = [f"|{len(shown)}", *shown, *argv] if shown or proxies else argv
        env = {"PATH": DEFAULT_PATH, **proxies, **args, **environment}
        self._commit(" ".join(words), lambda: self._execute(argv, env))

    def _execute(self, argv: list[str], env: Mapping[str, str]) -> LayerInfo:
        config = self._stage.settings.config

        def output(stream: str, chunk: bytes) -> None:
            text = chunk.decode("utf-8", "replace")
            self._say(f"\x1b[91m{text}\x1b[0m" if stream == "stderr" else text)

        with self._step_directory() as directory:
            name = directory.name[:12]
            self._say(f" ---> Running in {name}\n")
            upper = directory / "upper"
            upper.mkdir(mode=0o755)
            hidden, lower = tuple(config.get("Volumes") or ()), self._lower()
            below = LayeredView(lower)
            step = RunStep(
                directory=directory,
                lower=lower,
                argv=argv,
                env=env,
                cwd=config.get("WorkingDir") or "/",
                user=config.get("User") or "",
                host=self._options.host,
                output=output,
                volumes=sorted(
                    posixpath.join("/", path.strip("/"))
                    for path in hidden
                    if path.strip("/") and below.locate(path)[1] is None
                ),
            )
            code = self._builder._runner.run(step)
            if self._builder._cancelled.is_set():
                raise BuildError("build cancelled")
            if code:
                shown = " ".join(argv)
                raise BuildError(f"The command '{shown}' returned a non-zero code: {code}", code)
            layer = put_upper(self._store, upper, hidden)
        self._say(f" ---> Removed intermediate container {name}\n")
        return layer

    @contextmanager
    def _step_directory(self) -> Iterator[Path]:
        directory = self._store.blobs.temporary / self._builder._random_bytes(32).hex()
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _copy(self, step: Instruction) -> None:
        stage = self._stage
        source = self._context
        if step.flag("from"):
            image = self._copied_image(step.flag("from"))
            source = Source(LayeredView(self._store.lower_dirs(image)))
        with tempfile.TemporaryDirectory(dir=self._store.blobs.temporary) as work:
            config, limits = stage.settings.config, self._store.limits
            copy = CopyStep(step, source, stage.variables, config, Path(work), limits)
            self._commit(
                self._comment(copy.comment, " "),
                lambda: self._written(copy.write),
            )

    def _copied_image(self, name: str) -> Image:
        """The stage (by name, then by number) or image `--from` means."""
        for stage in self._stages[:-1]:
            if stage.name == name.lower():
                return self._image_of(stage)
        if self._stage.name == name.lower():
            raise BuildError(f"invalid from flag value {name}: refers to current build stage")
        if name.isdecimal():
            if int(name) == len(self._stages) - 1:
                raise BuildError(f"invalid from flag value {name}: refers to current build stage")
            if int(name) >= len(self._stages):
                raise BuildError(f"invalid from flag value {name}: index out of bounds")
            return self._image_of(self._stages[int(name)])
        return self._pulled(name)

    def _lower(self) -> tuple[Path, ...]:
        stage = self._stage
        return self._store.lower_dirs(self._store.resolve(stage.image_id)) if stage.layers else ()

    def _written(self, write: Callable[[LayerWriter, LayeredView], None]) -> LayerInfo:
        below = LayeredView(self._lower())
        with tempfile.TemporaryFile(dir=self._store.blobs.temporary) as spool:
            writer = LayerWriter(spool, below)
            write(writer, below)
            writer.close()
            spool.seek(0)
            return self._store.put_layer(spool)

    def _make_workdir(self) -> LayerInfo | None:
        path = self._stage.settings.config["WorkingDir"]
        real, entry = LayeredView(self._lower()).locate(path)
        if entry is not None and not entry.is_directory:
            raise BuildError(f"Cannot mkdir: {path} is not a directory")
        if entry is not None:
            return None
        return self._written(lambda writer, _: writer.directory(real))


def _no_layer() -> None:
    return None


def _label_step(pair: tuple[str, str]) -> Instruction:
    """LABEL of a `--label`, protected from expansion."""
    name, value = ("'" + part.replace("'", "'\"'\"'") + "'" for part in pair)
    return Instruction("LABEL", (), f"{name}={value}", f"LABEL {pair[0]}={pair[1]}")


def _read_text(tree: Tree[Any], path: str) -> str | None:
    entry: Node | None = tree.locate(path)[1]
    if entry is None or not stat.S_ISREG(entry.status.st_mode):
        return None
    if entry.status.st_size > _DOCKERFILE_BYTES:
        raise BuildError(f"{path} is larger than {_DOCKERFILE_BYTES} bytes")
    with entry.open() as file:
        return file.read(_DOCKERFILE_BYTES).decode("utf-8", "replace")


def _read_dockerfile(tree: Tree[Any], path: str) -> str:
    text = _read_text(tree, path)
    if text is None and path == "Dockerfile":
        text = _read_text(tree, "dockerfile")
    if text is None:
        raise BuildError(f"Cannot locate specified Dockerfile: {posixpath.normpath(path)}")
    if not text.strip():
        raise BuildError(f"the Dockerfile ({posixpath.normpath(path)}) cannot be empty")
    return text

"""Builds images from a Dockerfile, one image per step, with Docker's classic output and cache."""

from __future__ import annotations

import hashlib
import json
import platform
import posixpath
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from runtime.image.blobs import encode
from runtime.image.build.copying import LayerWriter, Owner, Source, lookup_owner
from runtime.image.build.dockerfile import (
    Instruction,
    expand,
    key_values,
    parse_dockerfile,
    parse_instruction,
    split_words,
)
from runtime.image.build.ignore import IgnoreRules
from runtime.image.commit import put_upper
from runtime.image.errors import BuildError, ImageError, ImageNotFound
from runtime.image.model import LayerInfo, format_time_ns, short_id
from runtime.image.reference import parse
from runtime.image.squash import squash
from runtime.image.store import ImageStore
from runtime.image.unpack import unpack
from runtime.image.view import LayeredView

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXY_ARGS = frozenset(["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"])
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_DURATION = re.compile(r"([0-9.]+)(ns|us|ms|s|m|h)")
_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TAR_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")

Emit = Callable[[dict[str, Any]], None]


class StepRunner(Protocol):
    """Runs one build step over image layers."""

    def run(
        self,
        lower: tuple[Path, ...],
        upper: Path,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        user: str,
        hostname: str,
        network: str,
        limits: Mapping[str, int],
        output: Callable[[str, bytes], None],
    ) -> int:
        """Run to the end; changes land in `upper`; return the exit code."""


@dataclass(frozen=True)
class BuildOptions:
    """What a build request asks for; `limits` goes to the step runner as it is."""

    tags: tuple[str, ...] = ()
    dockerfile: str = "Dockerfile"
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    no_cache: bool = False
    network_mode: str = "default"
    limits: Mapping[str, int] = field(default_factory=dict)
    platform: str = ""
    squash: bool = False


@dataclass
class _Stage:
    name: str = ""
    image_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    layers: list[LayerInfo] = field(default_factory=list)
    args: dict[str, str] = field(default_factory=dict)
    cmd_set: bool = False
    base_layers: int = 0


class Builder:
    """Builds with one store; `runner` executes RUN."""

    def __init__(
        self, store: ImageStore, runner: StepRunner, now: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._runner = runner
        self._now = now

    def build(self, context: Path, options: BuildOptions, emit: Emit) -> str:
        """Build from an unpacked context; return the image id. Raises BuildError."""
        try:
            return _Build(self._store, self._runner, self._now, context, options, emit).run()
        except BuildError as error:
            failure = error
        except (ImageError, OSError, ValueError) as error:
            failure = BuildError(str(error))
        detail: dict[str, Any] = {"message": str(failure)}
        if failure.code:
            detail["code"] = failure.code
        emit({"errorDetail": detail, "error": str(failure)})
        raise failure


class _Build:
    def __init__(
        self,
        store: ImageStore,
        runner: StepRunner,
        now: Callable[[], int],
        context: Path,
        options: BuildOptions,
        emit: Emit,
    ) -> None:
        self._store, self._runner, self._now = store, runner, now
        self._options, self._emit = options, emit
        view = LayeredView((context,))
        file = view.locate(options.dockerfile)[1]
        if file is None or file.is_directory:
            raise BuildError(f"Cannot locate specified Dockerfile: {options.dockerfile}")
        self._instructions = parse_dockerfile(file.physical.read_text())
        ignore = view.locate(".dockerignore")[1]
        rules = IgnoreRules(ignore.physical.read_text() if ignore else "")
        self._context = Source(view, rules)
        self._architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
        self._check_platform(options.platform)
        self._global_args: dict[str, str] = {}
        self._used_args: set[str] = set()
        self._stages: list[_Stage] = []
        self._cache = not options.no_cache

    def run(self) -> str:
        total = len(self._instructions)
        for number, step in enumerate(self._instructions, 1):
            if self._target_reached(step):
                break
            self._say(f"Step {number}/{total} : {step.original}")
            self._say("\n")
            if step.name == "FROM":
                self._from(step)
            elif step.name == "ARG" and not self._stages:
                self._global_arg(step)
            elif not self._stages:
                raise BuildError("no build stage in current context")
            else:
                self._step(step)
        return self._finish()

    def _finish(self) -> str:
        target = self._options.target
        if not self._stages:
            raise BuildError("no build stage in current context")
        stage = self._stages[-1]
        if target and target.lower() != stage.name and target != str(len(self._stages) - 1):
            raise BuildError(f"failed to reach build target {target} in Dockerfile")
        if self._options.labels:
            labels = dict(self._options.labels)
            stage.config["Labels"] = {**stage.config.get("Labels", {}), **labels}
            self._commit(f"LABEL {json.dumps(labels, sort_keys=True)}", None)
        if not stage.image_id:
            raise BuildError("No image was generated. Is your Dockerfile empty?")
        unused = set(self._options.build_args) - self._used_args - _PROXY_ARGS
        unused -= {name.upper() for name in _PROXY_ARGS}
        if unused:
            self._say(f"[Warning] One or more build-args {sorted(unused)} were not consumed\n")
        if self._options.squash:
            built = self._store.resolve(stage.image_id)
            stage.image_id = squash(self._store, built, stage.base_layers, self._now).id
        self._emit({"aux": {"ID": stage.image_id}})
        self._say(f"Successfully built {short_id(stage.image_id)}\n")
        for tag in self._options.tags:
            self._store.tag(stage.image_id, tag)
            self._say(f"Successfully tagged {parse(tag).with_default_tag().familiar}\n")
        return stage.image_id

    def _say(self, text: str) -> None:
        self._emit({"stream": text})

    def _target_reached(self, step: Instruction) -> bool:
        target = self._options.target.lower()
        if step.name != "FROM" or not target or not self._stages:
            return False
        return target in (self._stages[-1].name, str(len(self._stages) - 1))

    # -- stages ------------------------------------------------------------------------------

    def _check_platform(self, text: str) -> None:
        if text and text.split("/")[:2] not in (["linux"], ["linux", self._architecture]):
            raise BuildError(
                f"platform {text!r} is not supported: this machine is linux/{self._architecture}"
            )

    def _from(self, step: Instruction) -> None:
        for flag, value in step.flags:
            if flag != "platform":
                raise BuildError(f"unknown flag: {flag}")
            self._check_platform(expand(value, self._global_args, step.escape))
        words = [expand(w, self._global_args, step.escape) for w in split_words(step.text)]
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
            raise BuildError("FROM requires either one or three arguments")
        stage = _Stage(name=words[2].lower() if len(words) == 3 else "")
        if words[0] == "scratch":
            stage.config = {"Env": [f"PATH={DEFAULT_PATH}"]}
        else:
            self._start_from(stage, words[0])
        self._stages.append(stage)
        self._cache = not self._options.no_cache  # each stage finds its own first miss
        self._say(f" ---> {short_id(stage.image_id)}\n")
        for trigger in stage.config.pop("OnBuild", None) or []:
            self._step(parse_instruction(trigger, step.line, step.escape))

    def _start_from(self, stage: _Stage, name: str) -> None:
        earlier = next((s for s in reversed(self._stages) if s.name == name.lower()), None)
        try:
            image = self._store.resolve(earlier.image_id if earlier else name)
        except ImageNotFound:
            raise BuildError(f"No such image: {name}: pull or load it first") from None
        stage.image_id = image.id
        stage.config = json.loads(json.dumps(image.config.get("config") or {}))
        stage.history = list(image.config.get("history", []))
        stage.layers = list(image.layers)
        stage.base_layers = len(image.layers)

    # -- steps -------------------------------------------------------------------------------

    def _step(self, step: Instruction) -> None:
        if step.name in ("RUN", "COPY", "ADD"):
            {"RUN": self._run, "COPY": self._copy, "ADD": self._copy}[step.name](step)
            return
        if step.flags and step.name != "HEALTHCHECK":
            raise BuildError(f"unknown flag: {step.flags[0][0]}")
        getattr(self, f"_do_{step.name.lower()}")(step)
        if step.name != "WORKDIR":
            self._commit(step.original, None)

    def _commit(self, created_by: str, make: Callable[[], LayerInfo] | None) -> None:
        """Take the step from the cache or make its layer, and store the step's image."""
        stage = self._stages[-1]
        text = (
            created_by
            if created_by.startswith(("/bin/", "|"))
            else f"/bin/sh -c #(nop)  {created_by}"
        )
        key_text = stage.image_id.encode() + b"\0" + text.encode() + b"\0" + encode(stage.config)
        key = hashlib.sha256(key_text).hexdigest()
        cached = self._store.cached(stage.image_id, key) if self._cache else None
        if cached is not None:
            self._say(" ---> Using cache\n")
            stage.layers, stage.history = list(cached.layers), list(cached.config["history"])
        else:
            self._cache = False  # as Docker: after the first miss every step is made anew
            layer = make() if make else None
            created = format_time_ns(self._now())
            entry: dict[str, Any] = {"created": created, "created_by": text}
            if layer is None:
                entry["empty_layer"] = True
            else:
                stage.layers.append(layer)
            stage.history.append(entry)
            config = {
                "created": created,
                "architecture": self._architecture,
                "os": "linux",
                "config": stage.config,
                "history": stage.history,
            }
            cached = self._store.put_image(
                config, stage.layers, parent=stage.image_id, cache_key=key
            )
        stage.image_id = cached.id
        self._say(f" ---> {cached.short_id}\n")

    def _lower(self) -> tuple[Path, ...]:
        stage = self._stages[-1]
        return self._store.lower_dirs(self._store.resolve(stage.image_id)) if stage.layers else ()

    def _variables(self) -> dict[str, str]:
        stage = self._stages[-1]
        return {**stage.args, **_environment(stage.config)}

    def _words(self, step: Instruction) -> list[str]:
        words = step.json_words()
        words = split_words(step.text, step.escape) if words is None else words
        return [expand(word, self._variables(), step.escape) for word in words]

    def _command(self, step: Instruction) -> list[str]:
        words = step.json_words()
        if words is not None:
            return words
        return [*self._stages[-1].config.get("Shell", ["/bin/sh", "-c"]), step.text]

    def _run(self, step: Instruction) -> None:
        if step.flags:
            raise BuildError(f"the --{step.flags[0][0]} option of RUN requires BuildKit")
        stage, argv = self._stages[-1], self._command(step)
        args = {k: v for k, v in stage.args.items() if k not in _environment(stage.config)}
        prefix = "".join(f" {k}={v}" for k, v in sorted(args.items()))
        text = (f"|{len(args)}{prefix} " if args else "") + " ".join(argv)
        self._commit(
            text if text.startswith(("/bin/", "|")) else f"|0 {text}",
            lambda: self._execute(argv, args),
        )

    def _execute(self, argv: list[str], args: dict[str, str]) -> LayerInfo:
        stage = self._stages[-1]
        work = Path(tempfile.mkdtemp(dir=self._store.blobs.temporary))
        name = hashlib.sha256(work.name.encode()).hexdigest()[:12]
        self._say(f" ---> Running in {name}\n")

        def output(stream: str, chunk: bytes) -> None:
            text = chunk.decode("utf-8", "replace")
            self._say(f"\x1b[91m{text}\x1b[0m" if stream == "stderr" else text)

        try:
            upper = work / "upper"
            upper.mkdir(mode=0o755)
            env = {"PATH": DEFAULT_PATH, **args, **_environment(stage.config)}
            code = self._runner.run(
                self._lower(),
                upper,
                argv,
                env,
                stage.config.get("WorkingDir") or "/",
                stage.config.get("User", ""),
                name,
                self._options.network_mode,
                self._options.limits,
                output,
            )
            if code:
                shown = " ".join(argv)
                raise BuildError(f"The command '{shown}' returned a non-zero code: {code}", code)
            layer = put_upper(self._store, upper)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._say(f"Removing intermediate container {name}\n")
        return layer

    def _copy(self, step: Instruction) -> None:
        flags = {k: expand(v, self._variables(), step.escape) for k, v in step.flags}
        for flag in flags:
            if flag not in ("chown", "chmod") and (flag != "from" or step.name == "ADD"):
                raise BuildError(f"the --{flag} option of {step.name} is not supported")
        words = self._words(step)
        if len(words) < 2:
            raise BuildError(
                f"{step.name} requires at least two arguments, but only one was provided"
            )
        source = self._source(flags["from"]) if "from" in flags else self._context
        if (
            any(re.match(r"(https?|git)://|git@", word) for word in words[:-1])
            and step.name == "ADD"
        ):
            raise BuildError("ADD of a remote URL is not supported: fetch it in a RUN step")
        entries = [entry for word in words[:-1] for entry in source.select(word)]
        owner = (
            lookup_owner(LayeredView(self._lower()), flags["chown"])
            if "chown" in flags
            else Owner()
        )
        if "chmod" in flags:
            owner = replace(owner, mode=int(flags["chmod"], 8))
        target = words[-1]
        if not target.startswith("/"):
            target = posixpath.join("/", self._stages[-1].config.get("WorkingDir", ""), target)
        many = len(entries) > 1
        if many and not target.endswith("/"):
            raise BuildError(
                f"When using {step.name} with more than one source file, the destination must be"
                " a directory and end with a /"
            )
        options = "".join(f"--{k}={v} " for k, v in sorted(flags.items()))
        text = f"{step.name} {options}multi:{source.checksum(entries)} in {target} "

        def write(writer: LayerWriter) -> None:
            for entry in entries:
                self._copy_one(writer, source, entry, target, owner, extract=step.name == "ADD")

        self._commit(text, lambda: self._written(write))

    def _copy_one(
        self,
        writer: LayerWriter,
        source: Source,
        entry: Any,
        target: str,
        owner: Owner,
        *,
        extract: bool,
    ) -> None:
        if entry.is_directory:
            writer.copy(source, entry, target, owner)
            return
        if extract and _is_archive(entry.physical):
            with tempfile.TemporaryDirectory(dir=self._store.blobs.temporary) as work:
                with entry.physical.open("rb") as file:
                    unpack(file, Path(work))
                tree = Source(LayeredView((Path(work),)), IgnoreRules())
                root = tree.view.root()
                assert root is not None
                writer.copy(tree, root, target, owner)
            return
        existing = LayeredView(self._lower()).locate(target)[1]
        if target.endswith("/") or (existing is not None and existing.is_directory):
            target = posixpath.join(target, posixpath.basename(entry.path))
        writer.copy(source, entry, target, owner)

    def _written(self, write: Callable[[LayerWriter], None]) -> LayerInfo:
        with tempfile.TemporaryFile(dir=self._store.blobs.temporary) as spool:
            writer = LayerWriter(spool, LayeredView(self._lower()))
            write(writer)
            writer.close()
            spool.seek(0)
            return self._store.put_layer(spool)

    def _source(self, name: str) -> Source:
        stages = [s for i, s in enumerate(self._stages[:-1]) if name.lower() in (s.name, str(i))]
        image = self._store.resolve(stages[-1].image_id if stages else name)
        return Source(LayeredView(self._store.lower_dirs(image)), IgnoreRules())

    # -- steps that change the configuration alone -----------------------------------------------

    def _global_arg(self, step: Instruction) -> None:
        for word in split_words(step.text, step.escape):
            name, _, default = word.partition("=")
            self._used_args.add(name)
            value = self._options.build_args.get(name, expand(default, self._global_args))
            self._global_args[name] = value

    def _do_arg(self, step: Instruction) -> None:
        args = self._stages[-1].args
        for word in split_words(step.text, step.escape):
            name, equals, default = word.partition("=")
            self._used_args.add(name)
            if name in self._options.build_args:
                args[name] = self._options.build_args[name]
            elif equals:
                args[name] = expand(default, self._variables(), step.escape)
            elif name in self._global_args:
                args[name] = self._global_args[name]

    def _do_env(self, step: Instruction) -> None:
        variables = self._variables()
        env = _environment(self._stages[-1].config)
        for key, value in key_values(step.text, step.escape):
            env[key] = expand(value, variables, step.escape)
        self._stages[-1].config["Env"] = [f"{k}={v}" for k, v in env.items()]

    def _do_label(self, step: Instruction) -> None:
        labels = self._stages[-1].config.setdefault("Labels", {})
        for key, value in key_values(step.text, step.escape):
            variables = self._variables()
            labels[expand(key, variables, step.escape)] = expand(value, variables, step.escape)

    def _do_maintainer(self, step: Instruction) -> None:
        self._stages[-1].config.setdefault("Labels", {})["maintainer"] = step.text

    def _do_cmd(self, step: Instruction) -> None:
        self._stages[-1].config["Cmd"] = self._command(step)
        self._stages[-1].cmd_set = True

    def _do_entrypoint(self, step: Instruction) -> None:
        self._stages[-1].config["Entrypoint"] = self._command(step)
        if not self._stages[-1].cmd_set:
            self._stages[-1].config.pop("Cmd", None)

    def _do_expose(self, step: Instruction) -> None:
        ports = self._stages[-1].config.setdefault("ExposedPorts", {})
        for word in self._words(step):
            match = re.fullmatch(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", word.lower())
            if match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) < 65536:
                raise BuildError(f"invalid containerPort: {word}")
            for port in range(int(match[1]), int(match[2] or match[1]) + 1):
                ports[f"{port}/{match[3] or 'tcp'}"] = {}

    def _do_user(self, step: Instruction) -> None:
        self._stages[-1].config["User"] = self._words(step)[0]

    def _do_volume(self, step: Instruction) -> None:
        volumes = self._stages[-1].config.setdefault("Volumes", {})
        volumes.update({word: {} for word in self._words(step)})

    def _do_stopsignal(self, step: Instruction) -> None:
        self._stages[-1].config["StopSignal"] = self._words(step)[0]

    def _do_shell(self, step: Instruction) -> None:
        words = step.json_words()
        if not words:
            raise BuildError("SHELL requires the arguments to be in JSON form")
        self._stages[-1].config["Shell"] = words

    def _do_onbuild(self, step: Instruction) -> None:
        inner = parse_instruction(step.text, step.line, step.escape)
        if inner.name in ("ONBUILD", "FROM", "MAINTAINER"):
            raise BuildError(f"{inner.name} isn't allowed as an ONBUILD trigger")
        self._stages[-1].config.setdefault("OnBuild", []).append(step.text)

    def _do_workdir(self, step: Instruction) -> None:
        config = self._stages[-1].config
        path = expand(step.text, self._variables(), step.escape)
        path = posixpath.normpath(posixpath.join("/", config.get("WorkingDir", ""), path))
        config["WorkingDir"] = path
        found = LayeredView(self._lower()).locate(path)[1]
        make = None if found else lambda: self._written(lambda writer: void(writer.directory(path)))
        self._commit(f"WORKDIR {path}", make)

    def _do_healthcheck(self, step: Instruction) -> None:
        kind, _, rest = step.text.partition(" ")
        if kind.upper() == "NONE":
            self._stages[-1].config["Healthcheck"] = {"Test": ["NONE"]}
            return
        if kind.upper() != "CMD" or not rest.strip():
            raise BuildError(f"unknown type {kind!r} in HEALTHCHECK (try CMD)")
        words = replace(step, text=rest.strip()).json_words()
        check: dict[str, Any] = {"Test": ["CMD", *words] if words else ["CMD-SHELL", rest.strip()]}
        names = {
            "interval": "Interval",
            "timeout": "Timeout",
            "start-period": "StartPeriod",
            "start-interval": "StartInterval",
        }
        for flag, value in step.flags:
            if flag == "retries":
                check["Retries"] = int(value)
            elif flag in names:
                check[names[flag]] = _duration_ns(value)
            else:
                raise BuildError(f"unknown flag: {flag}")
        self._stages[-1].config["Healthcheck"] = check


def void(_: object) -> None:
    """Drop a value."""


def _environment(config: dict[str, Any]) -> dict[str, str]:
    return dict(item.split("=", 1) for item in config.get("Env") or [] if "=" in item)


def _duration_ns(text: str) -> int:
    parts = _DURATION.findall(text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise BuildError(f"invalid duration {text!r}: write it like 1m30s")
    return sum(int(float(number) * _UNITS_NS[unit]) for number, unit in parts)


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(512)
    return head[257:262] == b"ustar" or head.startswith(_TAR_MAGIC)

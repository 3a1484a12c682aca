"""One embedded stack for the whole session, beside the one that a person may have up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidegate.stack import cache, daemon, ports, preflight
from tidegate.stack.config import ROOT, StackConfig
from tidegate.stack.service import Service, listens
from tidegate.stack.services import hdfs, kafka, postgres
from tidegate.stack.supervision import Program
from tidegate.stack.up import up


@pytest.fixture(scope="session")
def stack() -> Iterator[StackConfig]:
    """A running stack whose state is in var/test (or $TIDEGATE_TEST_VAR); kept up if $TIDEGATE_TEST_KEEP is set."""
    var = Path(os.environ.get("TIDEGATE_TEST_VAR") or ROOT / "var" / "test")
    before = os.environ.get("TIDEGATE_VAR")
    os.environ["TIDEGATE_VAR"] = str(var)
    cfg = StackConfig.load()
    try:
        up(cfg)
        yield cfg
    finally:
        if not os.environ.get("TIDEGATE_TEST_KEEP"):
            daemon.stop(cfg)
        if before is None:
            del os.environ["TIDEGATE_VAR"]
        else:
            os.environ["TIDEGATE_VAR"] = before


@contextmanager
def postgres_alone(var: Path, *, is_standby: bool = False) -> Iterator[StackConfig]:
    """Run Postgres without the rest of the stack, with prepared transactions allowed; a standby has no primary."""
    cfg = StackConfig.load(var)
    service = postgres.service(cfg)
    service.prepare()
    if is_standby:
        (var / "postgres" / "data" / "standby.signal").touch()
    assert service.program is not None
    program = service.program()
    command = (*program.command, "-c", "max_prepared_transactions=5")
    with (var / "postgres.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=program.directory, stdout=log, stderr=log)
    try:
        while not service.ready(0.0):
            assert process.poll() is None, (var / "postgres.log").read_text()
        if not is_standby:
            service.after()
        yield cfg
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackConfig]:
    """Postgres alone."""
    with postgres_alone(tmp_path_factory.mktemp("postgres-alone")) as cfg:
        yield cfg


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[StackConfig]:
    """Postgres alone, in recovery for ever."""
    with postgres_alone(tmp_path / "standby", is_standby=True) as cfg:
        yield cfg


@contextmanager
def _running(service: Service, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one service of the stack without the rest, from ready to its end."""
    service.prepare()
    assert service.program is not None
    program = service.program()
    with log.open("ab") as out:
        environment = {**os.environ, **program.env}
        process = subprocess.Popen(program.command, cwd=program.directory, env=environment, stdout=out, stderr=out)
    try:
        while not _is_ready(service):
            assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


def _is_ready(service: Service) -> bool:
    try:
        return service.ready(0.0)
    except OSError:
        return False


class Hdfs:
    """A NameNode and a DataNode alone, each of which can be killed and started again."""

    def __init__(self, var: Path, held: ExitStack):
        self.cfg = StackConfig.load(var)
        self._services = dict(zip(("namenode", "datanode"), hdfs.services(self.cfg), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._held = held

    def start(self, role: str) -> None:
        """Start one of them, and wait until it is ready."""
        log = self.cfg.paths.var / f"{role}.log"
        self._processes[role] = self._held.enter_context(_running(self._services[role], log))

    def kill(self, role: str) -> None:
        """Kill one of them."""
        self._processes[role].kill()
        self._processes[role].wait(timeout=30)

    def admin(self, *arguments: str) -> None:
        """Run `hdfs dfsadmin`."""
        command = (*hdfs._java(self.cfg), "org.apache.hadoop.hdfs.tools.DFSAdmin", *arguments)
        subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def hdfs_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    """HDFS alone, to be broken and mended."""
    with ExitStack() as held:
        found = Hdfs(tmp_path_factory.mktemp("hdfs-alone"), held)
        for role in ("namenode", "datanode"):
            found.start(role)
        yield found


@pytest.fixture(scope="session")
def hdfs_alone(hdfs_parts: Hdfs) -> StackConfig:
    """HDFS alone: a NameNode and a DataNode."""
    return hdfs_parts.cfg


_S3 = """\
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity=tester
s3proxy.credential=a-secret-of-the-tests
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={data}
"""
_QUIET = '<configuration><root level="WARN"/></configuration>'


class S3Alone:
    """An S3 server over a folder, with the bucket `lake`, which may be killed and started again."""

    def __init__(self, var: Path):
        (var / "data" / "lake").mkdir(parents=True)
        self._var, self._port = var, ports.choose(["s3"])["s3"]
        (var / "s3.conf").write_text(_S3.format(port=self._port, data=var / "data"))
        (var / "logback.xml").write_text(_QUIET)
        self.environment = {
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        jars = cache.jars("s3", Path(__file__).parent)
        command = (
            str(preflight.java()), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
            f"{self._var}:{jars}/*", "org.gaul.s3proxy.Main", "--properties", str(self._var / "s3.conf"),
        )  # fmt: skip
        with (self._var / "s3.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._var, stdout=log, stderr=log)
        while not listens(self._port):
            assert self._process.poll() is None, (self._var / "s3.log").read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=30)


@pytest.fixture(scope="session")
def s3_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Alone]:
    """An S3 server, to be broken and mended."""
    found = S3Alone(tmp_path_factory.mktemp("s3-alone"))
    found.start()
    yield found
    found.kill()


@pytest.fixture(scope="session")
def s3_alone(s3_parts: S3Alone) -> dict[str, str]:
    """An S3 server over a folder, with the bucket `lake`: the environment of its clients."""
    return s3_parts.environment


class KafkaAlone:
    """A broker without the rest of the stack, which may be killed and started again."""

    def __init__(self, var: Path):
        cfg = StackConfig.load(var)
        self.address = cfg.kafka
        self._service = replace(kafka.service(cfg), program=lambda: self._roomy(cfg))
        self._log = var / "kafka.log"
        self._running = ExitStack()

    @staticmethod
    def _roomy(cfg: StackConfig) -> Program:
        """Give it memory for messages of 100 MB."""
        made = kafka.service(cfg).program
        assert made is not None
        program = made()
        return replace(program, command=tuple(part.replace("-Xmx256m", "-Xmx1g") for part in program.command))

    def start(self) -> None:
        self._running.enter_context(_running(self._service, self._log))

    def kill(self) -> None:
        self._running.close()


@pytest.fixture(scope="session")
def kafka_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAlone]:
    """Kafka alone."""
    found = KafkaAlone(tmp_path_factory.mktemp("kafka-alone"))
    found.start()
    yield found
    found.kill()


class RegistryAlone:
    """A real schema registry (Apicurio, in memory) by its address in Confluent's API, which may be killed."""

    def __init__(self, folder: Path):
        port = ports.choose(["registry"])["registry"]
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        self._log = folder / "registry.log"
        (archive,) = cache.jars("registry", Path(__file__).parent).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        (jar,) = folder.glob("*-runner.jar")
        environment = {**os.environ, "QUARKUS_HTTP_HOST": "127.0.0.1", "QUARKUS_HTTP_PORT": str(port)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(preflight.java()), "-Xmx512m", "-jar", str(jar)], env=environment, stdout=log, stderr=log
            )

    def wait(self) -> None:
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/subjects", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        body = {"schema": json.dumps(schema)}
        answer = httpx.post(f"{self.url}/subjects/{subject}/versions", json=body, timeout=30).raise_for_status()
        return int(answer.json()["id"])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=30)


@pytest.fixture
def registry_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryAlone]:
    """A schema registry alone."""
    found = RegistryAlone(tmp_path_factory.mktemp("registry-alone"))
    try:
        found.wait()
        yield found
    finally:
        found.kill()

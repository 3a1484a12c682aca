"""HDFS: one NameNode and one DataNode, every address on loopback."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tidegate.errors import SetupError
from tidegate.stack import cache, preflight
from tidegate.stack.config import write_public
from tidegate.stack.service import Service, get_json
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tidegate.stack.config import StackConfig

VERSION = "3.4.3"
_JVM = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_OPENS = ("--add-opens", "java.base/java.lang=ALL-UNNAMED")  # WebHDFS's JSON writer needs it
_STATE = "/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
_LOG4J = """\
log4j.rootLogger=INFO,out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{2} %m%n
"""
_CLASSES = {
    "namenode": "org.apache.hadoop.hdfs.server.namenode.NameNode",
    "datanode": "org.apache.hadoop.hdfs.server.datanode.DataNode",
}


def services(cfg: StackConfig) -> tuple[Service, Service]:
    """The NameNode, ready once it answers, and the DataNode, ready once the NameNode counts it as live."""
    url = cfg.url("hdfs-namenode-http") + _STATE

    def namenode_ready(_: float) -> bool:
        return _state(url).get("FSState") in {"Operational", "safeMode"}

    def datanode_ready(_: float) -> bool:
        state = _state(url)
        return state.get("FSState") == "Operational" and state.get("NumLiveDataNodes") == 1

    return (
        Service(
            "hdfs-namenode",
            lambda: VERSION,
            ports=("hdfs-namenode", "hdfs-namenode-http"),
            prepare=lambda: _prepare(cfg),
            program=lambda: _program(cfg, "namenode"),
            ready=namenode_ready,
        ),
        Service(
            "hdfs-datanode",
            lambda: VERSION,
            ports=("hdfs-datanode", "hdfs-datanode-http", "hdfs-datanode-ipc"),
            prepare=lambda: _fetch(cfg),
            program=lambda: _program(cfg, "datanode"),
            ready=datanode_ready,
        ),
    )


def settings(cfg: StackConfig) -> dict[str, str]:
    """All settings, read as core-site.xml and hdfs-site.xml alike."""
    data = cfg.paths.var / "hdfs"

    def address(port: str) -> str:
        return f"127.0.0.1:{cfg.ports[port]}"

    return {
        "fs.defaultFS": cfg.hdfs,
        "hadoop.tmp.dir": str(data / "tmp"),
        "hadoop.security.group.mapping": "org.apache.hadoop.security.ShellBasedUnixGroupsMapping",
        "dfs.replication": "1",
        "dfs.namenode.name.dir": f"file://{data / 'name'}",
        "dfs.datanode.data.dir": f"file://{data / 'data'}",
        "dfs.namenode.rpc-address": address("hdfs-namenode"),
        "dfs.namenode.rpc-bind-host": "127.0.0.1",
        "dfs.namenode.http-address": address("hdfs-namenode-http"),
        "dfs.namenode.http-bind-host": "127.0.0.1",
        "dfs.namenode.safemode.extension": "0",
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        "dfs.namenode.heartbeat.recheck-interval": "2000",
        "dfs.heartbeat.interval": "1",
        "dfs.datanode.address": address("hdfs-datanode"),
        "dfs.datanode.http.address": address("hdfs-datanode-http"),
        "dfs.datanode.ipc.address": address("hdfs-datanode-ipc"),
        "dfs.datanode.hostname": "127.0.0.1",
        "dfs.datanode.du.reserved": "0",
    }


def _program(cfg: StackConfig, role: str) -> Program:
    user = pwd.getpwuid(os.geteuid())
    return Program(
        name=f"hdfs-{role}",
        command=(*_java(cfg), _CLASSES[role]),
        directory=cfg.paths.var / "hdfs",
        log_file=cfg.paths.logs / f"hdfs-{role}.log",
        env={"HADOOP_USER_NAME": user.pw_name, "USER": user.pw_name, "HOME": user.pw_dir},
        autostart=False,
    )


def _java(cfg: StackConfig) -> tuple[str, ...]:
    classpath = f"{_conf(cfg)}:{cache.jars('hdfs')}/*"
    return (str(preflight.java()), *_JVM, *_OPENS, "-Djava.net.preferIPv4Stack=true", "-cp", classpath)


def _conf(cfg: StackConfig) -> Path:
    return cfg.paths.var / "hdfs" / "conf"


def _write_settings(cfg: StackConfig) -> None:
    conf = _conf(cfg)
    for role in ("hdfs", "datanode"):
        (conf / "webapps" / role).mkdir(parents=True, exist_ok=True)
    body = "".join(
        f"<property><name>{escape(k)}</name><value>{escape(v)}</value></property>\n" for k, v in settings(cfg).items()
    )
    for name in ("core-site.xml", "hdfs-site.xml"):
        write_public(conf / name, f'<?xml version="1.0"?>\n<configuration>\n{body}</configuration>\n')
    write_public(conf / "log4j.properties", _LOG4J)


def _fetch(cfg: StackConfig) -> None:
    _write_settings(cfg)
    cache.jars("hdfs")


def _prepare(cfg: StackConfig) -> None:
    _fetch(cfg)
    name = cfg.paths.var / "hdfs" / "name"
    if (name / "current" / "VERSION").exists():
        return
    command = (*_java(cfg), _CLASSES["namenode"], "-format", "-nonInteractive", "-force")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cfg.paths.var / "hdfs")
    if done.returncode:
        raise SetupError(
            f"HDFS could not format {name}: {(done.stdout + done.stderr).strip()[-800:]}. "
            f"Remedy: remove {cfg.paths.var / 'hdfs'} and run tidegate up again"
        )


def _state(url: str) -> dict[str, object]:
    found = get_json(url)
    beans = found.get("beans") if isinstance(found, dict) else None
    return dict(beans[0]) if beans else {}

"""What Triton reads: its configuration of one version as pure text, and the folders it needs beside the wheel's."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.clients.model_server import Endpoint
    from tidegate.handoff import Feature

MAX_BATCH = 4096  # rows of one request
_TYPES = {"BYTES": "TYPE_STRING", "INT64": "TYPE_INT64", "FP32": "TYPE_FP32"}
_PROBE_TIMEOUT = 30.0  # seconds for an interpreter to start

# Asks the serving environment's own interpreter where its parts are; the stub embeds that Python by its library.
_PROBE = """
import ctypes, json, sys, sysconfig
from pathlib import Path
name = f"libpython3.{sys.version_info.minor}.so.1.0"
folder = Path(sysconfig.get_config_var("LIBDIR") or "/nowhere")
found = str(folder) if (folder / name).exists() else ""
if not found:
    try:
        ctypes.CDLL(name)
    except OSError:
        found = None
print(json.dumps({"site": sysconfig.get_path("purelib"), "base": sys.base_prefix, "library": name, "folder": found,
                  "version": f"3.{sys.version_info.minor}"}))
"""


@dataclass(frozen=True)
class Runtime:
    """Where an installed Triton and the Python that it embeds are found."""

    site: Path
    """site-packages of the serving environment."""
    base: Path
    """Prefix of the Python that the environment was made from."""
    version: str
    """Python's version, such as 3.11."""
    library_folder: Path | None
    """Folder of libpython, or None if the loader finds it by itself."""

    @property
    def binary(self) -> Path:
        """The server's program."""
        return self.site / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    def environment(self) -> dict[str, str]:
        """Return the variables a server is started with: its libraries, and the Python its stub takes for its home."""
        libraries = [self.site / "nvidia_pytriton.libs", *([self.library_folder] if self.library_folder else [])]
        return {
            "LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries),
            "PATH": f"{self.base / 'bin'}:/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime's wheels report to their maker otherwise
        }


def find_runtime(python: Path) -> Runtime:
    """Ask the serving environment's interpreter for Triton and libpython.

    Raises:
        SetupError: the environment, Triton or libpython is missing; names the command that mends it.
    """
    try:
        answer = subprocess.run(
            [str(python), "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"the serving environment's {python} does not run ({error}). Remedy: make envs") from error
    found = json.loads(answer.stdout)
    if found["folder"] is None:
        raise SetupError(
            f"Triton's Python backend needs {found['library']}, which is neither in the Python that made {python} nor "
            f"on the loader's path. Remedy: apt-get install libpython{found['version']}"
        )
    folder = Path(found["folder"]) if found["folder"] else None
    runtime = Runtime(Path(found["site"]), Path(found["base"]), found["version"], folder)
    if not runtime.binary.exists():
        raise SetupError(f"no Triton at {runtime.binary}. Remedy: make envs, which installs docker/serve")
    return runtime


def link_backends(runtime: Runtime, folder: Path) -> Path:
    """Make a folder of backends out of links into the wheel, with the stub of our Python beside the backend.

    The wheel keeps its stubs, one for each Python, elsewhere, and an installed package is not ours to change.
    """
    wheel = runtime.site / "pytriton" / "tritonserver"
    backend = folder / "python"
    backend.mkdir(parents=True, exist_ok=True)
    sources = list((wheel / "backends" / "python").iterdir())
    sources += list((wheel / "python_backend_stubs" / runtime.version).iterdir())
    for source in sources:
        link = backend / source.name
        if not (link.is_symlink() and link.readlink() == source):
            link.unlink(missing_ok=True)
            link.symlink_to(source)
    return folder


def configuration(delivery: str, features: Sequence[Feature], instances: int = 1) -> str:
    """Return a version's config.pbtxt: a typed input [n, 1] per feature, the output probability [n, 1].

    There is no dynamic batching: at the rates of one machine it would only add its delay, and one bad row would
    share its fate with its neighbours.
    """
    inputs = ",\n".join(
        f'  {{ name: "{feature.name}", data_type: {_TYPES[feature.dtype]}, dims: [ 1 ] }}' for feature in features
    )
    return (
        f'name: "{delivery}"\n'
        'backend: "python"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f"input [\n{inputs}\n]\n"
        'output [\n  { name: "probability", data_type: TYPE_FP32, dims: [ 1 ] }\n]\n'
        f"instance_group [ {{ kind: KIND_CPU, count: {instances} }} ]\n"
        "version_policy: { all { } }\n"
    )


def model_file(runtime: Runtime) -> str:
    """Return model.py: Triton's stub ignores PYTHONPATH, so the way to the serving environment is written into it."""
    return (
        '"""Written by tidegate: leads Triton\'s own Python into the serving environment."""\n'
        "import site\n"
        "import sys\n\n"
        f"sys.path.insert(0, {str(runtime.site)!r})\n"
        f"site.addsitedir({str(runtime.site)!r})  # also reads the .pth files there\n\n"
        "from tidegate.clients.triton_model import TritonPythonModel  # noqa: E402, F401\n"
    )


def command(runtime: Runtime, repository: Path, backends: Path, endpoint: Endpoint) -> tuple[str, ...]:
    """Return the command line of a version's server: loopback only, HTTP and metrics only, few threads."""
    return (
        str(runtime.binary),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--http-address={endpoint.host}",
        f"--http-port={endpoint.port}",
        "--http-thread-count=2",
        f"--metrics-address={endpoint.host}",
        f"--metrics-port={endpoint.metrics_port}",
        "--allow-gpu-metrics=false",
        "--allow-grpc=false",
        "--disable-auto-complete-config",
        "--model-load-thread-count=1",
        "--pinned-memory-pool-byte-size=0",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix(endpoint)}",
    )


def shared_memory_prefix(endpoint: Endpoint) -> str:
    """Return how the names of a server's shared-memory regions begin, so that those of a killed one can be removed."""
    return f"tidegate-{endpoint.name}-{endpoint.port}-"

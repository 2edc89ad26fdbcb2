"""quire.toml: what it may say, and what is refused, each with its table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import quire
from quire.engine.batch_queue import BatchingConfig, QueuePolicy
from quire.engine.config import EngineConfig
from quire.engine.model_registry import ClassicModelConfig
from quire.server.config.plan import ConfigError, ServerPlan
from quire.server.config.quire_toml import read_config
from quire.server.config.tables import read_bytes

CHAT = """
[[models]]
name = "chat"
model = "embedded"
"""
IRIS = """
[[models]]
name = "iris"
path = "iris.skops"
"""


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUIRE_API_KEY", "QUIRE_ADMIN_KEY", "QUIRE_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def read(folder: Path, text: str) -> ServerPlan:
    path = folder / "quire.toml"
    path.write_text(text)
    return read_config(path)


def test_an_empty_file_is_a_server_without_models(tmp_path: Path) -> None:
    plan = read(tmp_path, "")
    assert (plan.models, plan.host, plan.port, plan.admin_port) == ((), "127.0.0.1", 8000, None)


def test_the_server_table_has_every_setting(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("alice:secret-of-alice\n")
    plan = read(
        tmp_path,
        """
        [server]
        host = "::1"
        port = 1234
        admin_port = 1235
        api_key_file = "keys"
        body_timeout = 7
        max_headers = 9
        trust_request_chat_template = true
        tool_call_parser = "hermes"
        memory_budget = "2GiB"
        default_model = "second"

        [[models]]
        name = "first"
        model = "embedded"
        [[models]]
        name = "second"
        model = "embedded"
        """,
    )
    assert (plan.host, plan.port, plan.admin_port, plan.memory_budget) == ("::1", 1234, 1235, 2 << 30)
    settings = plan.settings
    assert (settings.body_timeout, settings.max_headers) == (7.0, 9)
    assert (settings.trust_request_chat_template, settings.tool_call_parser) == (True, "hermes")
    assert [key.name for key in settings.api_keys] == ["alice"]
    assert plan.first_language_model == "second"


def test_a_language_model_has_every_setting_of_the_engine(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    plan = read(
        tmp_path,
        """
        [[models]]
        name = "chat"
        model = "weights"
        quantization = "int4"
        quantization_group_size = 64
        memory_fraction = 0.25
        enable_prefix_caching = false
        max_num_seqs = 3
        [[models]]
        name = "other"
        model = "owner/name"
        load = "on_demand"
        min_replicas = 1
        """,
    )
    chat, other = plan.models
    assert chat.config == EngineConfig(
        model=str(tmp_path / "weights"),
        served_model_name="chat",
        quantization="int4",
        quantization_group_size=64,
        memory_fraction=0.25,
        enable_prefix_caching=False,
        max_num_seqs=3,
    )
    assert (chat.name, chat.load, chat.is_pinned) == ("chat", "start", True)
    assert isinstance(other.config, EngineConfig)
    assert other.config.model == "owner/name"
    assert (other.load, other.is_pinned) == ("on_demand", True)
    assert plan.first_language_model == "chat"


def test_a_classic_model_has_every_setting_of_its_workers_and_of_batching(tmp_path: Path) -> None:
    plan = read(
        tmp_path,
        """
        [[models]]
        name = "scores"
        version = 3
        labels = ["stable"]
        path = "deep/scores.pt2"
        runtime = "torch"
        trust = true
        sha256 = "00ff"
        num_threads = 2
        instances = 4
        min_replicas = 2
        load_timeout = 60
        max_batch_size = 16
        inputs = [{name = "x", datatype = "FP32", shape = [-1, 3]}]
        outputs = [{name = "y", datatype = "FP32", shape = [-1]}]
        [models.dynamic_batching]
        preferred_batch_size = [4, 8]
        max_queue_delay_microseconds = 100
        preserve_ordering = true
        priority_levels = 2
        default_priority_level = 1
        [models.dynamic_batching.default_queue_policy]
        max_queue_size = 5
        timeout_action = "delay"
        default_timeout_microseconds = 7
        allow_timeout_override = true
        [models.padding]
        values = {x = 0.5}
        cut = {y = "x"}
        [[models.warmup]]
        name = "big"
        batch_size = 8
        count = 2
        inputs = {x = {fill = "random", seed = 3, shape = [3]}}
        [[models.warmup]]
        others = {file = "row.bin"}
        """,
    )
    (spec,) = plan.models
    config = spec.config
    assert isinstance(config, ClassicModelConfig)
    assert (config.name, config.version, config.labels) == ("scores", "3", ("stable",))
    workers = config.workers
    assert (workers.path, workers.runtime) == (tmp_path / "deep/scores.pt2", "torch")
    assert (workers.instances, workers.min_ready_instances, workers.load_timeout) == (4, 2, 60)
    options = workers.options
    assert (options.trust, options.sha256, options.num_threads) == (True, "00ff", 2)
    assert [(tensor.name, tensor.shape) for tensor in options.inputs] == [("x", (-1, 3))]
    assert [(tensor.name, tensor.shape) for tensor in options.outputs] == [("y", (-1,))]
    assert config.batching == BatchingConfig(
        max_batch_size=16,
        preferred_batch_size=(4, 8),
        max_queue_delay_microseconds=100,
        preserve_ordering=True,
        priority_levels=2,
        default_priority_level=1,
        default_queue_policy=QueuePolicy(
            max_queue_size=5,
            timeout_action="delay",
            default_timeout_microseconds=7,
            allow_timeout_override=True,
        ),
    )
    assert (config.padding.values, config.padding.cut) == ({"x": 0.5}, {"y": "x"})
    big, row = workers.warmup
    assert (big.name, big.batch_size, big.count) == ("big", 8, 2)
    assert (big.inputs["x"].fill, big.inputs["x"].seed, big.inputs["x"].shape) == ("random", 3, (3,))
    assert row.others.file == tmp_path / "row.bin"


def test_what_is_left_out_has_the_defaults(tmp_path: Path) -> None:
    (spec,) = read(tmp_path, IRIS).models
    assert isinstance(spec.config, ClassicModelConfig)
    assert spec.config.batching is None
    assert spec.config.workers.instances == 1
    assert len(spec.config.workers.warmup) == 1
    assert (spec.load, spec.is_pinned) == ("start", True)


def test_a_class_of_the_owners_needs_no_path(tmp_path: Path) -> None:
    (spec,) = read(tmp_path, '[[models]]\nname = "own"\npython_class = "mine:Model"').models
    assert isinstance(spec.config, ClassicModelConfig)
    assert (spec.config.workers.runtime, spec.config.workers.path) == ("python", tmp_path / ".")


def test_versions_of_a_model_are_tables_of_their_own(tmp_path: Path) -> None:
    plan = read(tmp_path, IRIS + "version = 1" + IRIS + 'version = "2"')
    assert [(spec.name, spec.version) for spec in plan.models] == [("iris", "1"), ("iris", "2")]


def test_deployments_are_handed_on_as_they_are(tmp_path: Path) -> None:
    plan = read(tmp_path, CHAT + '[[deployments]]\nname = "a"\nwhatever = [1, {b = 2}]')
    assert plan.deployments == ({"name": "a", "whatever": [1, {"b": 2}]},)


def test_readmes_example_is_read(tmp_path: Path) -> None:
    readme = Path(quire.__file__).parent / "README.md"
    if not readme.is_file():
        pytest.skip("an installed package has no README")
    (example,) = re.findall(r"```toml\n(\[server\].*?)```", readme.read_text(), re.DOTALL)
    plan = read(tmp_path, example)
    assert [(spec.name, spec.kind, spec.version) for spec in plan.models] == [
        ("chat", "llm", "1"),
        ("churn", "classic", "2"),
    ]
    assert (plan.port, plan.admin_port, plan.memory_budget) == (8000, 8001, 48 << 30)


REFUSED = {
    "nonsense": ("[", "is no TOML"),
    "an unknown table": ("[servers]\n", "there is no key 'servers'"),
    "an unknown key of the server": ("[server]\nprot = 1", "[server]: there is no key 'prot'"),
    "a key in the file": ('[server]\napi_key = "x"', "[server]: there is no key 'api_key'"),
    "a wrong type": ('[server]\nport = "80"', "[server]: port: Expected `int`"),
    "a boolean for a number": ("[server]\nmax_headers = true", "[server]: max_headers: Expected `int`"),
    "a limit out of range": ("[server]\nmax_headers = 0", "[server]: max_headers must be positive, got 0"),
    "a port out of range": ("[server]\nport = 65536", "port must be from 0 to 65535, got 65536"),
    "a budget": ('[server]\nmemory_budget = "much"', "[server]: memory_budget must be a number of bytes"),
    "no budget": ("[server]\nmemory_budget = 0", "memory_budget must be at least 1, got 0"),
    "a default that is not there": (
        '[server]\ndefault_model = "x"',
        "default_model is 'x', which is no language model here",
    ),
    "a default that is no language model": ('[server]\ndefault_model = "iris"' + IRIS, "no language model"),
    "no keys": ('[server]\napi_key_file = "absent"', "[server]: --api-key-file: cannot read"),
    "a model without a name": ('[[models]]\nmodel = "embedded"', "[[models]] number 1: the key 'name'"),
    "a name of the wrong type": ('[[models]]\nname = 1\nmodel = "x"', "number 1: name: Expected `str`"),
    "a model of neither kind": ('[[models]]\nname = "x"', "[[models]] 'x': it needs `model`"),
    "a model of both kinds": (CHAT + 'path = "x"', "[[models]] 'chat': a language model has `model`"),
    "an unknown key of the engine": (CHAT + "blocks = 3", "[[models]] 'chat': there is no key 'blocks'"),
    "a setting of the engine": (CHAT + "num_blocks = 0", "[[models]] 'chat': num_blocks must be"),
    "a choice": (CHAT + 'dtype = "float8"', "[[models]] 'chat': dtype: Invalid enum value 'float8'"),
    "when it is loaded": (CHAT + 'load = "never"', "[[models]] 'chat': load: Invalid enum value"),
    "replicas of an engine": (CHAT + "min_replicas = 2", "[[models]] 'chat': min_replicas:"),
    "two models of a name": (CHAT + CHAT, "there are two models of the name 'chat'"),
    "two of a version": (IRIS + IRIS, "there are two models 'iris' of version 1"),
    "one name, two kinds": (CHAT + IRIS.replace("iris", "chat"), "of a language model and of a classic"),
    "an unknown key of a worker": (IRIS + "instance = 1", "[[models]] 'iris': there is no key 'instance'"),
    "a version": (IRIS + "version = 0", "the version of iris must be a whole number from 1, not '0'"),
    "an unknown runtime": (IRIS + 'runtime = "r"', "[[models]] 'iris': there is no runtime 'r'"),
    "no instances": (IRIS + "instances = 0", "[[models]] 'iris': "),
    "too many replicas": (IRIS + "min_replicas = 2", "min_replicas must be from 0 to instances=1, got 2"),
    "threads": (IRIS + "num_threads = 0", "[[models]] 'iris': num_threads must be at least 1"),
    "a datatype": (
        IRIS + 'inputs = [{name = "x", datatype = "FP8", shape = [1]}]',
        "[[models]] 'iris': the datatype of x is 'FP8'",
    ),
    "a tensor without a shape": (
        IRIS + 'inputs = [{name = "x", datatype = "FP32"}]',
        "[[models]] 'iris': the key 'inputs[0].shape' is missing",
    ),
    "an unknown key of batching": (
        IRIS + "dynamic_batching = {delay = 1}",
        "[[models]] 'iris': there is no key 'dynamic_batching.delay'",
    ),
    "a size of batches": (
        IRIS + "max_batch_size = 4\ndynamic_batching = {preferred_batch_size = [5]}",
        "[[models]] 'iris': dynamic_batching: preferred_batch_size must be from 1 to max_batch_size=4, not 5",
    ),
    "a queue policy": (
        IRIS + 'dynamic_batching = {default_queue_policy = {timeout_action = "drop"}}',
        "'iris': dynamic_batching.default_queue_policy.timeout_action: Invalid enum value 'drop'",
    ),
    "a warm-up": (IRIS + "warmup = [{batch_size = 0}]", "[[models]] 'iris': the batch_size of warm-up must"),
    "a warm-up's input": (
        IRIS + 'warmup = [{others = {values = [1], file = "f"}}]',
        "[[models]] 'iris': warmup 'warm-up': a warm-up input has values or a file, not both",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path, case: str) -> None:
    text, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert message in caught.value.message
    assert str(tmp_path / "quire.toml") in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent.toml: No such file"):
        read_config(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("text", "number"),
    [(5, 5), ("5", 5), ("5B", 5), ("2KiB", 2048), ("2 KB", 2000), ("1.5GiB", 3 << 29), ("1TB", 10**12)],
)
def test_bytes(text: int | str, number: int) -> None:
    assert read_bytes(text, "it") == number


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1.5.2GiB", "5 apples", "1e3", "2XB"])
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be a number of bytes"):
        read_bytes(text, "it")


def test_language_models_alone_bring_no_numpy(tmp_path: Path) -> None:
    (tmp_path / "quire.toml").write_text(CHAT)
    code = f"""
import sys
from pathlib import Path
from quire.server.config.quire_toml import read_config
import quire.server.app, quire.server.main
read_config(Path({str(tmp_path / "quire.toml")!r}))
print([name for name in ("torch", "numpy", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

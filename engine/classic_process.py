"""One instance of a classic model: `python -m quire.engine.classic_process FD PARENT`.

It loads the model, warms it up, and computes one batch after another, as they come over one end of a
socket pair. When the other end closes, or its parent is another, nobody is left to answer, and it ends,
even in the middle of a batch. A file that crashes its library ends this process alone.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import EngineError, ModelError, QuireError
from ..models.classic.predictor import Array, Arrays, Description, Predictor
from ..models.classic.runtimes import load_predictor
from ..models.classic.warm_up import WarmupRequest
from . import classic_protocol
from .classic_protocol import LENGTHS, JsonObject

logger = logging.getLogger(__name__)

PARENT_SECONDS = 0.5
"""How often the parent is looked for."""


class Connection:
    """The worker's end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, head: JsonObject, arrays: Arrays | None = None) -> None:
        """Sends a message; if the parent is gone, so is this process."""
        try:
            self._socket.sendall(b"".join(classic_protocol.frame(head, arrays)))
        except OSError:
            os._exit(0)

    def receive(self) -> tuple[JsonObject, dict[str, Array]]:
        """The next message, however long it takes."""
        head_size, size = LENGTHS.unpack(self._read_exactly(LENGTHS.size))
        return classic_protocol.parse(self._read_exactly(head_size + size), head_size)

    def _read_exactly(self, num_bytes: int) -> bytearray:
        body = bytearray(num_bytes)
        view = memoryview(body)
        while view:
            try:
                num_read = self._socket.recv_into(view)
            except OSError:
                num_read = 0
            if not num_read:
                os._exit(0)
            view = view[num_read:]
        return body


def warm_up(predictor: Predictor, requests: Sequence[WarmupRequest]) -> None:
    """Has the model compute warm-up requests, so that the first client finds everything in place.

    Raises:
        ModelError: It cannot; the message names the request.
    """
    description = predictor.describe()
    for request in requests:
        if not request.count:
            continue
        inputs = request.arrays(description)
        try:
            for _ in range(request.count):
                compute(predictor, description, inputs)
        except Exception as error:
            raise ModelError(
                f"the model fails on its warm-up request {request.name!r} "
                f"(a count of 0 leaves it out): {error}"
            ) from error


def compute(predictor: Predictor, description: Description, inputs: Arrays) -> dict[str, Array]:
    """One batch; raises EngineError if the outputs are not as described."""
    outputs = predictor.predict(inputs)
    names = {spec.name for spec in description.outputs}
    if outputs.keys() != names:
        raise EngineError(f"the model gave the outputs {sorted(outputs)}, not {sorted(names)}")
    return outputs


def serve(predictor: Predictor, connection: Connection) -> NoReturn:
    """Computes what the parent sends, for ever."""
    description = predictor.describe()
    while True:
        head, inputs = connection.receive()
        if head["kind"] == "unload":
            predictor.unload()
            os._exit(0)
        try:
            outputs = compute(predictor, description, inputs)
            connection.send({"kind": "outputs"}, outputs)
        except Exception as error:
            # Whatever a library or the owner's class raises, this batch has failed; the parent tells whom.
            connection.send({"kind": "failed", **classic_protocol.failure(error)})


def _look_for_parent(pid: int) -> None:
    gone = threading.Event()
    while os.getppid() == pid:
        gone.wait(PARENT_SECONDS)
    os._exit(0)


def main() -> NoReturn:
    """Loads the model that the parent names, and serves it."""
    # The parent decides when to stop; a Ctrl-C, or a service manager, may signal this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_look_for_parent, args=(int(sys.argv[2]),), daemon=True).start()
    connection = Connection(socket.socket(fileno=int(sys.argv[1])))
    start, _ = connection.receive()
    logging.basicConfig(level=start["log_level"], format="%(asctime)s %(levelname)s classic: %(message)s")
    if start["memory_limit"] is not None:
        # What a process writes to: its heap, and anonymous memory that is its own. Libraries reserve far
        # more address space than they use, so that is not what is limited.
        resource.setrlimit(resource.RLIMIT_DATA, (start["memory_limit"],) * 2)
    try:
        options = classic_protocol.options_from_json(start["options"])
        predictor = load_predictor(Path(start["path"]), options, start["runtime"])
        warm_up(predictor, classic_protocol.warmup_from_json(start["warmup"]))
        description = classic_protocol.description_to_json(predictor.describe())
    except Exception as error:
        if not isinstance(error, QuireError):  # those say all in one line, and the parent shows it
            logger.exception("the model %s cannot be loaded", start["path"])
        connection.send({"kind": "failed", **classic_protocol.failure(error)})
        os._exit(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    connection.send({"kind": "ready", "description": description, "memory_bytes": peak})
    serve(predictor, connection)


if __name__ == "__main__":
    main()

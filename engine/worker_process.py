"""A rank of tensor parallelism but the first: `python -m quire.engine.worker_process FD PARENT`.

It loads its part of the model and its part of the cache, and computes what rank 0 announces. It has no
scheduler and no sampler. It talks over one end of a socket pair while it starts; when the other end closes,
or its parent is another, rank 0 is gone, and so is this process, even in the middle of a step.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..errors import QuireError, RankFailed
from ..models.causal_lm import CausalLM
from ..models.parallel import Ranks
from . import build, model_choice, pool, rank_protocol
from .memory import MemoryPlan
from .rank_protocol import HEADER_FIELDS, Command, JsonObject, StartWorker

logger = logging.getLogger(__name__)

PARENT_SECONDS = 1.0
"""How often the parent is looked for: a process that rank 0 forked may hold the socket open."""


class Parent:
    """The worker's end of the socket. A thread reads, so that the end of rank 0 is noticed at once.

    Args:
        sock: The socket.
        pid: Rank 0's process.
    """

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._socket = sock
        self._pid = pid
        self._inbox: queue.SimpleQueue[JsonObject] = queue.SimpleQueue()
        for target in (self._read, self._look):
            threading.Thread(target=target, name=f"quire-worker-{target.__name__}", daemon=True).start()

    def send(self, message: JsonObject) -> None:
        """Sends a message; if rank 0 is gone, so is this process."""
        try:
            self._socket.sendall(rank_protocol.frame(message))
        except OSError:
            os._exit(0)

    def wait(self) -> JsonObject:
        """The next message, however long it takes."""
        return self._inbox.get()

    def _read(self) -> None:
        while (message := rank_protocol.receive(self._socket)) is not None:
            self._inbox.put(message)
        os._exit(0)

    def _look(self) -> None:
        gone = threading.Event()
        while os.getppid() == self._pid:
            gone.wait(PARENT_SECONDS)
        os._exit(0)


def start(message: StartWorker, parent: Parent) -> tuple[CausalLM, Ranks, list[Tensor]]:
    """Loads this rank's part of the model, and allocates its cache as large as rank 0 says."""
    config = message.config
    ranks = Ranks(message.rank, config.tensor_parallel_size)
    choice = model_choice.for_rank(model_choice.choose(config), ranks)
    if choice.device.type == "cuda":
        torch.cuda.set_device(choice.device)
    model = build.load(config, choice, ranks)
    parent.send({"loaded": True})
    parent.wait()
    ranks.connect(Path(message.rendezvous), choice.device)
    taken = pool.to_come(config, choice, model)
    parent.send({"budget": pool.pool_budget(config, choice, to_come=taken)})
    told = parent.wait()
    shape = pool.kv_cache_shape(choice, config.block_size)
    plan = MemoryPlan(shape, 0, told["num_blocks"], told["max_model_len"], "as rank 0 says")
    caches = pool.allocate_kv_caches(choice, plan)
    parent.send({"ready": True})
    return model, ranks, caches


@torch.inference_mode()
def serve(model: CausalLM, ranks: Ranks, caches: list[Tensor]) -> NoReturn:
    """Computes what rank 0 announces, for ever."""
    device = caches[0].device
    while True:
        header = torch.zeros(HEADER_FIELDS, dtype=torch.int64)
        ranks.announce(header)
        fields = header.tolist()
        match Command(fields[0]):
            case Command.FORWARD:
                input_ids, meta = rank_protocol.receive_forward(ranks, fields, device)
                model.forward(input_ids, caches, meta)
            case Command.LOGITS:
                size = model.config.hidden_size
                model.compute_logits(rank_protocol.receive_hidden(ranks, fields, size, model.dtype, device))


def main() -> NoReturn:
    """Becomes the rank that the parent asks for."""
    # The parent decides when to stop; a Ctrl-C, or a service manager, may signal this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = Parent(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    message = StartWorker.from_json(parent.wait())
    logging.basicConfig(
        level=message.log_level, format=f"%(asctime)s %(levelname)s rank {message.rank}: %(message)s"
    )
    try:
        model, ranks, caches = start(message, parent)
    except Exception as error:
        if not isinstance(error, QuireError):  # those say all in one line, and the parent shows it
            logger.exception("rank %d cannot start", message.rank)
        parent.send(rank_protocol.failure(error))
        os._exit(1)
    try:
        serve(model, ranks, caches)
    except RankFailed as error:
        logger.error("%s", error)
    except BaseException:
        logger.exception("rank %d failed in a step", message.rank)
    # The threads that carry tensors may wait for ranks that are gone; nobody waits for them.
    os._exit(1)


if __name__ == "__main__":
    main()

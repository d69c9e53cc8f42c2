"""
Two ranks that are started once for a session and run one job after another: a function of a test file.

A test takes the fixture `two_ranks` and calls `two_ranks(function, *arguments)`. Both ranks call the function, each
with Accelerate's state and the environment as they were at the start, with the variables that `torchrun` sets; what
they return comes back as `[of rank 0, of rank 1]`. After an error, or a job that hangs, the ranks are started again
for the next job. Rank 1 is a fork of rank 0, so both import torch and transformers once.
"""

import faulthandler
import gc
import importlib.util
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from helpers import user_environment


TESTS = Path(__file__).parent
WORLD_SIZE = 2
START_SECONDS = 300  # until both ranks have imported all they need and have talked to each other
GRACE_SECONDS = 10  # for the other rank when one has failed; for traces when a job is out of time


class RanksFailed(AssertionError):
    """A job failed on a rank; the message holds the tracebacks."""


class TwoRanks:
    """The ranks as a test sees them; they start with the first job."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    def __call__(self, function: Callable, *arguments: Any, timeout: float = 300) -> list[Any]:
        """
        What `function(*arguments)` returns on rank 0 and on rank 1.

        Args:
            function (`Callable`): Of a module's top level, by whose file and name the ranks find it.
            arguments: Go through pickle, as what is returned does: plain values, arrays, paths.
            timeout (`float`, *optional*, defaults to 300): Seconds after which the job counts as hanging.

        Raises:
            `RanksFailed`: with the traceback of each rank that failed; traces of all threads if the job hangs.
        """
        if not self.connections:
            self.start()
        job = (str(Path(function.__code__.co_filename).resolve()), function.__qualname__, arguments, timeout)
        for connection in self.connections:
            connection.send_bytes(pickle.dumps(job))
        return self.answers(timeout + GRACE_SECONDS)

    def start(self) -> None:
        """Starts both ranks and waits until they have talked to each other."""
        self.folder = tempfile.TemporaryDirectory(prefix="ranks")  # a short path: a socket's name has a limit
        self.log = Path(self.folder.name, "log.txt")
        with socket.socket(socket.AF_UNIX) as server, open(self.log, "w") as log:
            server.bind(f"{self.folder.name}/socket")
            server.listen()
            server.settimeout(START_SECONDS)
            environment = user_environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            environment["CUDA_VISIBLE_DEVICES"] = ""  # fewer GPUs than ranks would be no error of the package's
            command = [sys.executable, __file__, self.folder.name]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                self.connections = [Connection(server.accept()[0].detach()) for _ in range(WORLD_SIZE)]
            except TimeoutError as error:
                text = self.log.read_text(errors="replace")[-6000:]
                self.stop()
                raise RanksFailed(f"The two ranks did not start: {text}") from error
        self.answers(START_SECONDS)

    def answers(self, timeout: float) -> list[Any]:
        """What each rank has to say, rank 0 first."""
        by_rank: dict[int, tuple[bool, Any]] = {}
        waiting = list(self.connections)
        end = time.monotonic() + timeout
        while waiting and (ready := wait(waiting, max(0.0, end - time.monotonic()))):
            for connection in ready:
                waiting.remove(connection)
                try:
                    rank, *answer = pickle.loads(connection.recv_bytes())
                    by_rank[rank] = tuple(answer)
                    failed = not answer[0]
                except (EOFError, ConnectionError):  # the rank has ended
                    failed = True
                if failed:
                    end = min(end, time.monotonic() + GRACE_SECONDS)
        if len(by_rank) == WORLD_SIZE and all(succeeded for succeeded, _ in by_rank.values()):
            return [by_rank[rank][1] for rank in range(WORLD_SIZE)]
        report = [f"rank {rank}: {value}" for rank, (succeeded, value) in sorted(by_rank.items()) if not succeeded]
        missing = sorted(set(range(WORLD_SIZE)) - set(by_rank))
        if missing:
            report += [f"No answer from {missing}.", self.log.read_text(errors="replace")[-6000:]]
        self.stop()
        raise RanksFailed("\n".join(report))

    def stop(self) -> None:
        """Ends both ranks; the next job starts new ones."""
        for connection in self.connections:
            connection.close()
        self.connections = []
        os.killpg(self.process.pid, signal.SIGKILL)  # to end by themselves takes them a second or two
        self.process.wait()
        self.folder.cleanup()


# ---- One rank ----


@cache
def module_at(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # before it runs: pickle and dataclasses look there
    spec.loader.exec_module(module)
    return module


def run_job(path: str, name: str, arguments: tuple) -> Any:
    """Calls a function as if this rank had just been started."""
    from accelerate import PartialState
    from accelerate.state import AcceleratorState, GradientState

    environment, folder = dict(os.environ), os.getcwd()
    try:
        function = getattr(module_at(path), name)
        gc.collect()
        gc.freeze()  # Accelerate collects garbage when a training starts: not all that was ever imported
        torch.manual_seed(0)
        result = function(*arguments)
        assert PartialState().num_processes == WORLD_SIZE, f"Accelerate knows {PartialState().num_processes} ranks"
        torch.distributed.barrier()
        return result
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        GradientState._reset_state()
        AcceleratorState._reset_state(reset_partial_state=True)


def main(folder: str) -> None:
    torch.set_num_threads(1)
    import hf_ltkd.trainer  # noqa: F401  # what every job needs

    gc.freeze()
    rank = int(os.fork() == 0)
    os.environ.update(RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="29500")  # which nobody uses: they meet by a file
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{folder}/socket")
        connection = Connection(client.detach())

    def answer(succeeded: bool, value: Any) -> None:
        connection.send_bytes(pickle.dumps((rank, succeeded, value)))

    faulthandler.dump_traceback_later(START_SECONDS, exit=True)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", world_size=WORLD_SIZE, rank=rank)
    torch.distributed.barrier()
    answer(True, None)
    while True:
        faulthandler.cancel_dump_traceback_later()
        try:
            *job, timeout = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):  # the session of tests is over
            break
        faulthandler.dump_traceback_later(timeout, exit=True)  # a job that hangs says where, in the log
        try:
            answer(True, run_job(*job))
        except BaseException:
            answer(False, traceback.format_exc())


if __name__ == "__main__":
    main(sys.argv[1])

"""The pool of two ranks: what comes back, errors, hanging jobs, and that a job leaves nothing for the next."""

import os
import time

import pytest
import torch
from accelerate import Accelerator
from ranks import RanksFailed


def sum_of_ranks(value):
    accelerator = Accelerator(cpu=True)
    total = accelerator.reduce(torch.tensor([value + accelerator.process_index]))
    return accelerator.num_processes, accelerator.process_index, os.getpid(), total.item()


def leave_traces():
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    os.chdir("/")
    return str(Accelerator(cpu=True).mixed_precision)


def mixed_precision():
    return str(Accelerator(cpu=True, gradient_accumulation_steps=3).mixed_precision), os.getcwd()


def fail_on(rank):
    if Accelerator(cpu=True).process_index == rank:
        raise ValueError(f"rank {rank} does not like this")
    torch.distributed.barrier()


def hang_here(seconds):
    Accelerator(cpu=True)
    time.sleep(seconds)


def test_jobs_run_on_the_same_two_processes(two_ranks):
    first, second = two_ranks(sum_of_ranks, 10), two_ranks(sum_of_ranks, 20)
    assert [answer[:2] for answer in first] == [(2, 0), (2, 1)] and len({answer[2] for answer in first}) == 2
    assert [answer[3] for answer in first] == [21, 21] and [answer[3] for answer in second] == [41, 41]
    assert [answer[2] for answer in first] == [answer[2] for answer in second]


def test_a_job_leaves_nothing_for_the_next(two_ranks):
    assert two_ranks(leave_traces) == ["bf16", "bf16"]
    assert two_ranks(mixed_precision) == [("no", os.getcwd())] * 2


@pytest.mark.slow
def test_errors_come_back_and_hanging_jobs_end(two_ranks):
    """Each starts the ranks anew, which takes some ten seconds."""
    with pytest.raises(RanksFailed, match="rank 1: Traceback[^~]*ValueError: rank 1 does not like this"):
        two_ranks(fail_on, 1)
    with pytest.raises(RanksFailed, match="in hang_here"):
        two_ranks(hang_here, 60, timeout=2)
    assert [answer[3] for answer in two_ranks(sum_of_ranks, 0)] == [1, 1]

"""The group of ranks: how they find each other, and on which addresses they listen."""

import ipaddress
import os
import socket
import sys
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from fusion.train.extensions import compile_communication

LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
_HOURS = 48
"""Where nobody watches, a rank waits as long as a large state may take."""


def is_loopback(host: str) -> bool:
    """Whether an address or host name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def longest_wait(stall_minutes: float | None) -> timedelta:
    """How long a rank may wait for others in an exchange: longer than the watch lets it.

    The watch says what each rank was doing and ends all of them. What the communication library does at the end of its
    own time, 10 minutes with NCCL, is to kill a rank without that, also one that waits for a state to be hashed.
    """
    return timedelta(hours=_HOURS) if stall_minutes is None else timedelta(minutes=2 * stall_minutes)


def join_group(device: str, stall_minutes: float | None = None) -> None:
    """Makes this process a rank of the group that the launcher's environment variables describe.

    With all ranks on one machine nothing listens on any other address than loopback: torch's own rendezvous would
    open the main port on all of them, so rank 0 hands it a socket that is bound already. torchrun has a store of its
    own at that port, which its ranks use. `stall_minutes`: see `longest_wait`.
    """
    timeout = longest_wait(stall_minutes)
    backend = "nccl" if device == "cuda" else "gloo"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # the ranks talk before there is an engine
    host = os.environ["MASTER_ADDR"]
    if is_loopback(host):
        os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE
        os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK_INTERFACE)
    if is_loopback(host) and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        port, rank, ranks = (int(os.environ[name]) for name in ("MASTER_PORT", "RANK", "WORLD_SIZE"))
        listening = _listen(host, port) if rank == 0 else None
        store = dist.TCPStore(host, port, ranks, rank == 0, master_listen_fd=listening, wait_for_workers=False)
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)
    compile_communication()
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout)


def let_wait(stall_minutes: float | None) -> None:
    """Gives all groups of ranks the time of `longest_wait`: DeepSpeed makes some of its own with torch's default."""
    for group in distributed_c10d._world.pg_map:
        distributed_c10d._set_pg_timeout(longest_wait(stall_minutes), group)


def on_any_rank(value: bool, device: torch.device) -> bool:
    """Whether it is true on any rank; the same answer on all of them."""
    flag = torch.tensor([int(value)], device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def _listen(host: str, port: int) -> int:
    """The file descriptor of a listening socket, which the store takes over."""
    listener = socket.create_server((host, port), backlog=128)
    listener.setblocking(False)
    return listener.detach()

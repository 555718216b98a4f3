"""The group of ranks: how they find each other, and on which addresses they listen."""

import ipaddress
import os
import socket
import sys

import deepspeed
import torch
import torch.distributed as dist

from fusion.train.extensions import compile_communication

LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"


def is_loopback(host: str) -> bool:
    """Whether an address or host name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def join_group(device: str) -> None:
    """Makes this process a rank of the group that the launcher's environment variables describe.

    With all ranks on one machine nothing listens on any other address than loopback: torch's own rendezvous would
    open the main port on all of them, so rank 0 hands it a socket that is bound already. torchrun has a store of its
    own at that port, which its ranks use.
    """
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
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    compile_communication()
    deepspeed.init_distributed(dist_backend=backend)


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

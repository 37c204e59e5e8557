"""All processes of a run say that they are there, before JAX's runtime starts between them.

The runtime ends a process that waited in vain with a stack trace of its own and without a name.
Here every process tells the coordinator its number over a plain connection, and after the time that
is allowed all are told who is missing. Nothing else is sent.
"""

import json
import os
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from rtdlm.config import UserError

RETRY_SECONDS = 0.2
MOST_BYTES = 65536
ANSWER_SECONDS = 5.0
"""How long a connection may take to say its number; others wait meanwhile."""
NAMES_SHOWN = 20


def call_roll(address: str, *, count: int, seconds: float) -> None:
    """Process 0: listens at the port of `address` until all of `count` processes came.

    Raises:
        UserError: some did not within `seconds`, two have the same number, or one counts
            differently; the others are told the same.
    """
    port = int(address.rpartition(":")[2])
    deadline = time.monotonic() + seconds
    present: dict[int, socket.socket] = {}
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(_listen(port))
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen at port {port} of {address}: {_reason(error)}; choose "
                "another port, or end the process that has it"
            ) from None
        problem = None
        while problem is None and len(present) < count - 1:
            left = deadline - time.monotonic()
            if left <= 0:
                problem = f"{_missing(set(range(1, count)) - set(present), count)} within "
                problem += f"{seconds:g} s of the start; start all {count}"
                break
            listener.settimeout(left)
            try:
                connection, (host, *_) = listener.accept()
            except TimeoutError:
                continue
            stack.enter_context(connection)
            problem = _enter(_receive(connection, ANSWER_SECONDS), connection, host, count, present)
        reply = {"problem": problem}
        for connection in present.values():
            _send(connection, reply)
        for connection in present.values():
            _wait_for_end(connection)
    if problem is not None:
        raise UserError(problem)


def answer_roll(address: str, *, process: int, count: int, seconds: float) -> None:
    """Any other process: tells the coordinator at `address` its number and waits for all.

    Raises:
        UserError: nobody answers there, or not all came.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise UserError(
                f"process {process} found no coordinator at {address} within {seconds:g} s; start "
                "process 0 there, or let its port through"
            )
        try:
            with socket.create_connection(
                (host.strip("[]"), int(port)), timeout=left
            ) as connection:
                _send(connection, {"process": process, "count": count})
                # The coordinator's clock began at another time than ours.
                reply = _receive(connection, left + seconds)
        except OSError:  # it may not be up yet, or its name not known
            time.sleep(min(RETRY_SECONDS, max(0.0, left)))
            continue
        if not isinstance(reply, dict) or "problem" not in reply:
            # It ended, and may be started again, or someone else still has its port.
            time.sleep(RETRY_SECONDS)
            continue
        if reply["problem"] is not None:
            raise UserError(reply["problem"])
        return


def _listen(port: int) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=1024)


def _enter(
    hello: Any, connection: socket.socket, host: str, count: int, present: dict[int, socket.socket]
) -> str | None:
    """Notes who came; returns what is wrong. What is no process of a run is passed over."""
    said = hello if isinstance(hello, dict) else {}
    process, counted = said.get("process"), said.get("count")
    if not (isinstance(process, int) and isinstance(counted, int)):
        connection.close()
        return None
    host = host.removeprefix("::ffff:")  # an old address, seen through a new one
    if counted != count:
        problem = f"process {process} on {host} counts {counted} processes and process 0 "
        problem += f"{count}; start all with the same number"
    elif not 0 < process < count:
        connection.close()
        return None
    elif process in present and not _gone(present[process]):
        problem = f"two processes say that they are process {process}, one of them on {host}; give "
        problem += "each a number of its own"
    else:
        present[process] = connection
        return None
    _send(connection, {"problem": problem})
    return problem


def _gone(connection: socket.socket) -> bool:
    """Whether the process at the other end ended; it may have been started again."""
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def _missing(missing: Iterable[int], count: int) -> str:
    numbers = sorted(missing)
    shown = ", ".join(map(str, numbers[:NAMES_SHOWN]))
    shown += f" and {len(numbers) - NAMES_SHOWN} more" if len(numbers) > NAMES_SHOWN else ""
    plural = "processes" if len(numbers) > 1 else "process"
    return f"{plural} {shown} of {count} (numbered from 0) did not come"


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return  # it is gone; JAX's runtime will say so


def _receive(connection: socket.socket, seconds: float) -> Any:
    """One line of JSON; None if the other end says nothing of the kind in time."""
    deadline, text = time.monotonic() + seconds, b""
    try:
        while not text.endswith(b"\n") and len(text) < MOST_BYTES:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(4096)
            if not part:
                return None
            text += part
        return json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None


def _reason(error: OSError) -> str:
    """Without the address that Python adds."""
    return os.strerror(error.errno) if error.errno else str(error)


def _wait_for_end(connection: socket.socket) -> None:
    """Lets the other end close first, so that the port is free at once for JAX's runtime."""
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.recv(1)
    except OSError:
        return

"""What waits to be accepted is seen, so that a server is not told to finish before it has taken its last connections."""

import os
import socket
import threading

from stele.host import backlog


def test_connections_wait_until_they_are_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()), socket.create_connection(server.getsockname()):
            assert backlog.waiting(os.getpid()) >= 2
            assert not backlog.await_accepted(os.getpid(), 0.02)
            accepting = threading.Thread(target=lambda: [server.accept()[0].close() for _ in range(2)])
            accepting.start()
            accepting.join()
            assert backlog.await_accepted(os.getpid(), 10.0)


def test_process_that_is_gone_has_nothing_waiting() -> None:
    assert backlog.waiting(2**22 + 1) == 0
    assert backlog.await_accepted(2**22 + 1, 1.0)

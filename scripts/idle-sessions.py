#!/usr/bin/env python3
"""What one idle session costs a node in memory: scripts/idle-sessions.py [PROGRAM] [SESSIONS]

Starts PROGRAM (target/release/towline) as a master with a private MariaDB in a folder that is removed afterwards, logs so
many clients in (2000), lets each run one query and prints what each has added to the node's resident memory. The bar is
40 kB. MariaDB takes a thread and some 100 kB for each: they are not counted.
"""

import hashlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile

CAPABILITIES = 1 << 9 | 1 << 15 | 1 << 19 | 1 << 23 | 1 << 24


def resident(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read(stream):
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:3], "little"):
        piece = stream.recv(4096)
        if not piece:
            raise EOFError("the node closed the connection")
        data += piece
    return data[4:]


def send(stream, number, payload):
    stream.sendall(struct.pack("<I", len(payload))[:3] + bytes([number]) + payload)


def session(port):
    stream = socket.create_connection(("127.0.0.1", port))
    greeting = read(stream)
    after_version = greeting.index(b"\0") + 1
    salt = greeting[after_version + 4 : after_version + 12] + greeting[after_version + 31 : after_version + 43]
    first = hashlib.sha1(b"idle").digest()
    mask = hashlib.sha1(salt + hashlib.sha1(first).digest()).digest()
    proof = bytes(a ^ b for a, b in zip(first, mask))
    login = struct.pack("<IIB23x", CAPABILITIES, 1 << 24, 45) + b"idle\0" + bytes([20]) + proof
    send(stream, 1, login + b"mysql_native_password\0")
    answer = read(stream)
    assert answer[0] == 0, answer
    send(stream, 0, b"\x03SELECT 1")
    read(stream)
    return stream


def main():
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/towline")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/config.toml", "w") as file:
            file.write(
                f"[default.mysql]\ndata_dir = '{folder}/data'\n[default.mysql_front]\nlisten = '127.0.0.1:0'\n"
                f"[default.http]\nlisten = '127.0.0.1:0'\n[default.limits]\nconnections_max = {count + 200}\n"
            )
        command = [program, "run", "--config", f"{folder}/config.toml", "--role", "master"]
        node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            port = int(json.loads(node.stdout.readline())["mysql_front"].rsplit(":", 1)[1])
            account = "CREATE USER idle@'%' IDENTIFIED BY 'idle'"
            subprocess.run(["mariadb", f"--defaults-file={folder}/data/client.cnf", "-e", account], check=True)
            # The first ones pay for what all share.
            sessions = [session(port) for _ in range(100)]
            before = resident(node.pid)
            sessions += [session(port) for _ in range(count)]
            after = resident(node.pid)
            print(f"{count} idle sessions: {(after - before) / count / 1024:.1f} kB each, {after >> 20} MB in all")
        finally:
            node.terminate()
            node.wait()


main()

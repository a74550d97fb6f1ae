#!/usr/bin/env python3
"""Records what a real server sends, for the tests of the decoders: scripts/record-captures.py SOCKET [DIR]

SOCKET is that of a private MariaDB or MySQL whose root has no password; a schema `capture` is made there and removed.
Each file of DIR (tests/captures) is one exchange, named SERVER-VERSION_KIND.bin: the bytes of the client's command, or of
its login, are in SERVER-VERSION_KIND.client.bin. Sessions have DEPRECATE_EOF and SESSION_TRACK, those of MariaDB its own
capabilities besides.
"""

import os
import re
import socket
import struct
import sys

LONG_PASSWORD, CONNECT_WITH_DB, LOCAL_FILES, PROTOCOL_41 = 1, 1 << 3, 1 << 7, 1 << 9
CAPABILITIES = (
    CONNECT_WITH_DB | LOCAL_FILES | PROTOCOL_41 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 24
)
MARIADB_CAPABILITIES = 1 | 1 << 2 | 1 << 3 | 1 << 4


class Session:
    """A session of root, and the bytes of the last packet that was read."""

    def __init__(self, path, schema):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        self.greeting = self.read()
        version = self.greeting[5:].split(b"\0", 1)[0].decode()
        self.mariadb = "MariaDB" in version
        number = re.search(r"(\d+\.\d+\.\d+)(?!.*\d+\.\d+\.\d+-MariaDB)", version).group(1)
        self.server = ("mariadb-" if self.mariadb else "mysql-") + number
        capabilities = CAPABILITIES if self.mariadb else CAPABILITIES | LONG_PASSWORD
        own = MARIADB_CAPABILITIES if self.mariadb else 0
        attributes = b"\x0c_client_name\x07towline"
        self.login = frame(
            1,
            struct.pack("<IIB19xI", capabilities, 1 << 30, 45, own)
            + b"root\0\0"
            + schema
            + b"\0mysql_native_password\0"
            + bytes([len(attributes)])
            + attributes,
        )
        self.stream.sendall(self.login)
        self.turns = self.read()
        while self.turns[-1:] and self.last[0] not in (0x00, 0xFF):
            if self.last[0] == 0xFE:
                self.stream.sendall(frame(self.sequence + 1, b""))
            self.turns += self.read()

    def exactly(self, n):
        data = b""
        while len(data) < n:
            piece = self.stream.recv(n - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def read(self):
        header = self.exactly(4)
        self.sequence = header[3]
        self.last = self.exactly(header[0] | header[1] << 8 | header[2] << 16)
        return header + self.last

    def command(self, payload, file=None):
        """The whole reply; a ping sent along marks its end. With a file, the server asks for it."""
        self.stream.sendall(frame(0, payload))
        reply = b""
        if file is not None:
            reply += self.read()
            self.stream.sendall(frame(self.sequence + 1, file) + frame(self.sequence + 2, b""))
            reply += self.read()
        else:
            reply += self.read()
        self.stream.sendall(frame(0, b"\x0e"))
        while True:
            packet = self.read()
            if self.sequence == 1:
                return reply
            reply += packet

    def query(self, sql):
        return self.command(b"\x03" + sql.encode())


def frame(sequence, payload):
    return struct.pack("<I", len(payload))[:3] + bytes([sequence % 256]) + payload


def main():
    path, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "tests/captures"
    os.makedirs(folder, exist_ok=True)
    setup = Session(path, b"")
    for sql in [
        "DROP DATABASE IF EXISTS capture",
        "CREATE DATABASE capture",
        "CREATE TABLE capture.item (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(50), price DECIMAL(10,2), d DATETIME)",
        "INSERT INTO capture.item (name, price, d) VALUES ('lamp', 9.90, '2026-01-02 03:04:05'), ('chair', NULL, NULL)",
        "CREATE PROCEDURE capture.two(IN a INT, OUT b INT) BEGIN SELECT a; SET b = a + 1; END",
        "SET GLOBAL local_infile = ON",
    ]:
        setup.query(sql)
    session = Session(path, b"capture")

    def save(kind, reply, command):
        for end, data in [(".bin", reply), (".client.bin", command)]:
            with open(os.path.join(folder, f"{session.server}_{kind}{end}"), "wb") as out:
                out.write(data)

    save("greeting", session.greeting, session.login)
    save("login", session.turns, session.login)

    def record(kind, payload, file=None):
        reply = session.command(payload, file)
        save(kind, reply, frame(0, payload))
        return reply

    record("ok", b"\x0e")
    record("query-ok", b"\x03UPDATE item SET price = price")
    record("query-err", b"\x03no such statement")
    record("query-text", b"\x03SELECT id, name, price, d FROM item ORDER BY id")
    record("query-empty", b"\x03SELECT id FROM item WHERE FALSE")
    record("query-several", b"\x03SELECT 1; DO 1; SELECT 'two', 2; no such statement")
    record("query-state", b"\x03SET NAMES latin1, autocommit = 1")
    record("query-schema", b"\x03USE mysql")
    record("init_db", b"\x02capture")
    record("query-infile", b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE item (name)", b"file\n")
    record("field_list", b"\x04item\0")
    record("statistics", b"\x09")
    record("set_option", b"\x1b\x00\x00")
    prepared = record("prepare", b"\x16SELECT id, name FROM item WHERE id > ?")
    id = prepared[5:9]
    one = b"\x00\x01\x00\x00\x00\x00\x01\x03\x00\x00\x00\x00\x00"
    record("execute", b"\x17" + id + one)
    record("execute-again", b"\x17" + id + one)
    record("execute-cursor", b"\x17" + id + b"\x01" + one[1:])
    record("fetch", b"\x1c" + id + b"\x01\0\0\0")
    record("fetch-end", b"\x1c" + id + b"\x09\0\0\0")
    record("reset_statement", b"\x1a" + id)
    prepared = session.command(b"\x16CALL two(?, ?)")
    record("execute-call", b"\x17" + prepared[5:9] + b"\x00\x01\x00\x00\x00\x00\x01\x03\x00\x03\x00\x05\0\0\0\0\0\0\0")
    if session.mariadb:
        prepared = session.command(b"\x16INSERT INTO item (name) VALUES (?)")
        record("bulk_execute", b"\xfa" + prepared[5:9] + b"\x80\x00\xfd\x00\x00\x01a\x00\x01b")
    record("reset_connection", b"\x1f")
    setup.query("DROP DATABASE capture")
    print(f"recorded {session.server} in {folder}")


main()

"""The clients of soak.sh. Speaks just enough of the protocol to log in as an account without a password.

soak.py idle|churn|slow HOST:PORT PID-OF-THE-NODE SESSIONS-OR-SECONDS
"""

import asyncio
import os
import struct
import sys
import time

IDLE_BYTES_MAX = 40_000
CHURN_PER_SECOND = 1000
# More than so many are not under way at a time, when the machine can't keep up.
CHURN_AT_A_TIME_MAX = 1000
# What one run's allocator may keep more than before it, in bytes; a leak of 1 kB a login would be 60 MB.
GROWTH_BYTES_MAX = 8_000_000
SLOW_CLIENTS = 20

CAPABILITIES = 0x0008_8201  # long password, 4.1 protocol, secure connection, plugin names
LOGIN = struct.pack("<IIB23x", CAPABILITIES, 1 << 24, 45) + b"open\0" + b"\0" + b"mysql_native_password\0"


def packet(payload, sequence=0):
    return struct.pack("<I", len(payload))[:3] + bytes([sequence]) + payload


async def read_packet(reader):
    header = await reader.readexactly(4)
    return await reader.readexactly(int.from_bytes(header[:3], "little"))


async def login(host, port):
    reader, writer = await asyncio.open_connection(host, port, limit=4096)
    try:
        greeting = await asyncio.wait_for(read_packet(reader), 60)
        if greeting[0] == 0xFF:
            raise RuntimeError(greeting[3:].decode())
        writer.write(packet(LOGIN, 1))
        answer = await asyncio.wait_for(read_packet(reader), 60)
        if answer[0] != 0:
            raise RuntimeError(answer[3:].decode(errors="replace"))
    except BaseException:
        writer.close()
        raise
    return reader, writer


async def ping(reader, writer):
    writer.write(packet(b"\x0e"))
    answer = await asyncio.wait_for(read_packet(reader), 60)
    if answer[0] != 0:
        raise RuntimeError(answer[3:].decode(errors="replace"))


async def bye(writer):
    writer.write(packet(b"\x01"))
    writer.close()
    await writer.wait_closed()


def memory(pid):
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


async def settled(pid, wanted):
    """Waits until the node has closed what its clients left."""
    deadline = time.monotonic() + 30
    while descriptors(pid) > wanted and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return descriptors(pid)


async def idle(host, port, pid, count):
    before, at_rest = memory(pid), descriptors(pid)
    sessions = []
    started = time.monotonic()
    while len(sessions) < count:
        sessions += await asyncio.gather(*(login(host, port) for _ in range(min(100, count - len(sessions)))))
    opened = time.monotonic() - started
    each = (memory(pid) - before) / count
    await asyncio.gather(*(ping(*session) for session in sessions))
    pinged = (memory(pid) - before) / count
    print(f"idle: {count} sessions, opened in {opened:.1f} s; {each / 1000:.1f} kB each in the node, {pinged / 1000:.1f} kB after a command; all answer")
    held = descriptors(pid)
    for _, writer in sessions:
        writer.close()
    left = await settled(pid, at_rest)
    print(f"idle: descriptors {at_rest} -> {held} -> {left} when all have left")
    return max(each, pinged) < IDLE_BYTES_MAX and left <= at_rest


async def churn(host, port, pid, seconds):
    async def one():
        reader, writer = await login(host, port)
        await bye(writer)

    async def burst(length):
        """Starts logins at the rate, whether or not those before have ended; returns how long the last one was late."""
        started, running, late, failures = time.monotonic(), set(), 0, []
        for number in range(length * CHURN_PER_SECOND):
            due = started + number / CHURN_PER_SECOND
            late = max(late, time.monotonic() - due)
            if (wait := due - time.monotonic()) > 0 or number % 20 == 0:
                await asyncio.sleep(max(0, wait))
            running.add(task := asyncio.create_task(one()))
            task.add_done_callback(lambda task: (running.discard(task), task.exception() and failures.append(task.exception())))
            while len(running) >= CHURN_AT_A_TIME_MAX:
                await asyncio.sleep(0.001)
        while running:
            await asyncio.sleep(0.01)
        return time.monotonic() - started, late, failures

    async def samples(every):
        """Memory and descriptors, again and again, until cancelled."""
        taken = []
        try:
            while True:
                taken.append(f"{memory(pid) / 1e6:.1f}/{descriptors(pid)}")
                await asyncio.sleep(every)
        except asyncio.CancelledError:
            return taken

    at_rest, memory_at_rest = descriptors(pid), memory(pid)
    # The allocator and the runtime grow to their working size first, which is that of so many sessions at a time.
    sessions = await asyncio.gather(*(login(host, port) for _ in range(CHURN_AT_A_TIME_MAX)))
    await asyncio.gather(*(bye(writer) for _, writer in sessions))
    await burst(min(10, seconds))
    before, open_before = memory(pid), await settled(pid, at_rest)
    sampling = asyncio.create_task(samples(max(1, seconds // 6)))
    took, late, failures = await burst(seconds)
    sampling.cancel()
    meanwhile = " ".join(await sampling)
    open_after = await settled(pid, open_before)
    after = memory(pid)
    done = seconds * CHURN_PER_SECOND
    print(f"churn: {done} logins in {took:.1f} s, {done / took:.0f}/s, at most {late:.2f} s late, {len(failures)} failed")
    print(f"churn: memory at rest {memory_at_rest / 1e6:.1f} MB, warm {before / 1e6:.1f} MB, at the end {after / 1e6:.1f} MB; descriptors {at_rest}, {open_before}, {open_after}; meanwhile {meanwhile}")
    for failure in failures[:3]:
        print(f"  {failure!r}")
    return not failures and took < seconds * 1.02 and after - before < GROWTH_BYTES_MAX and open_after <= at_rest


async def slow(host, port, pid, seconds):
    async def dribble(writer, data):
        for byte in data:
            writer.write(bytes([byte]))
            await asyncio.sleep(1)

    async def dribbles():
        _, writer = await login(host, port)
        await dribble(writer, packet(b"\x03SELECT 1 /* " + b"-" * 10_000))

    async def dribbles_login():
        # It is cut when its time for the login is over, and comes again.
        while True:
            reader, writer = await asyncio.open_connection(host, port, limit=4096)
            dribbling = asyncio.create_task(dribble(writer, packet(LOGIN, 1)))
            try:
                await asyncio.wait_for(reader.read(), seconds + 60)
            finally:
                dribbling.cancel()
                writer.close()

    async def never_reads():
        reader, writer = await login(host, port)
        writer.transport.pause_reading()
        writer.write(packet(b"\x03SELECT REPEAT('x', 10000000), 1 UNION ALL SELECT REPEAT('y', 10000000), 2 UNION ALL SELECT REPEAT('z', 10000000), 3"))
        await asyncio.sleep(seconds + 60)

    before = memory(pid)
    tasks = [asyncio.create_task(client()) for client in (dribbles, dribbles_login, never_reads) for _ in range(SLOW_CLIENTS)]
    await asyncio.sleep(seconds)
    after = memory(pid)
    lost = [task.exception() for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(f"slow: {SLOW_CLIENTS} clients of a byte a second, {SLOW_CLIENTS} that log in so, {SLOW_CLIENTS} that leave 30 MB unread; memory {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB; {len(lost)} lost")
    for failure in lost[:3]:
        print(f"  {failure!r}")
    # Each may have some buffers of its own, never its result.
    return not lost and after - before < 3 * SLOW_CLIENTS * 1_000_000


def main():
    part, address, pid, number = sys.argv[1:]
    host, _, port = address.rpartition(":")
    good = asyncio.run({"idle": idle, "churn": churn, "slow": slow}[part](host, int(port), int(pid), int(number)))
    print(f"{part}: {'ok' if good else 'FAILED'}", flush=True)
    sys.exit(0 if good else 1)


main()

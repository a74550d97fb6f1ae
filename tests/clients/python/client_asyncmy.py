"""asyncmy: Cython on asyncio."""

import asyncio
import ssl

import asyncmy
from asyncmy.constants import CLIENT
from asyncmy.cursors import SSCursor

import session

LOOP = asyncio.new_event_loop()


def wait(coroutine):
    return LOOP.run_until_complete(coroutine)


class AsyncMy(session.Driver):
    def __init__(self, login):
        if login.get("compress"):
            raise session.NotOffered("compress")
        flags = CLIENT.MULTI_STATEMENTS if login.get("multi") else 0
        flags |= CLIENT.FOUND_ROWS if login.get("found_rows") else 0
        self.connection = wait(asyncmy.connect(
            host=login["host"], port=login["port"], user=login["user"], password=login["password"], database=login["schema"],
            charset=login.get("charset", "utf8mb4"), client_flag=flags, autocommit=True, local_infile=login.get("local_infile", False),
            ssl=ssl.create_default_context(cafile=login["ca"]) if login.get("tls") else None,
            program_name=login.get("attributes", {}).get("program_name", ""),
        ))

    async def all(self, cursor):
        results = []
        while True:
            results.append({
                "columns": session.shown(cursor.description),
                "rows": session.shown_rows(await cursor.fetchall()) if cursor.description else None,
                "affected": cursor.rowcount, "insert_id": cursor.lastrowid,
            })
            if not await cursor.nextset():
                return results

    def query(self, sql):
        async def query():
            async with self.connection.cursor() as cursor:
                await cursor.execute(sql)
                return await self.all(cursor)

        return wait(query())

    def prepare(self, sql, executions):
        async def prepare():
            async with self.connection.cursor() as cursor:
                results = []
                for values in executions:
                    await cursor.execute(sql.replace("%", "%%").replace("?", "%s"), values)
                    results.append(await self.all(cursor))
                return results

        return wait(prepare())

    def many(self, sql, executions):
        async def many():
            async with self.connection.cursor() as cursor:
                await cursor.executemany(sql.replace("?", "%s"), executions)
                return {"affected": cursor.rowcount, "insert_id": cursor.lastrowid}

        return wait(many())

    def cursor(self, sql, size, batches):
        async def read():
            seen = []
            async with self.connection.cursor(SSCursor) as cursor:
                await cursor.execute(sql)
                while batches is None or len(seen) < batches:
                    rows = await cursor.fetchmany(size)
                    if not rows:
                        break
                    seen.append(session.shown_rows(rows))
            return seen

        return wait(read())

    def thread_id(self):
        return self.connection.thread_id()

    def greeting(self):
        return [self.connection.get_server_info(), self.connection.get_proto_info()]

    def ping(self):
        wait(self.connection.ping(reconnect=False))

    def schema(self, name):
        wait(self.connection.select_db(name))

    def begin(self):
        wait(self.connection.begin())

    def commit(self):
        wait(self.connection.commit())

    def rollback(self):
        wait(self.connection.rollback())

    def autocommit(self, on):
        wait(self.connection.autocommit(on))

    def close(self):
        self.connection.close()


session.run(AsyncMy)

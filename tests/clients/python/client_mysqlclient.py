"""mysqlclient, which is the C library of MariaDB."""

import MySQLdb
import MySQLdb.cursors

import session


class MySQLClient(session.Driver):
    def __init__(self, login):
        tls = {"ssl_mode": "VERIFY_CA", "ssl": {"ca": login["ca"]}} if login.get("tls") else {"ssl_mode": "DISABLED"}
        flags = 65536 if login.get("multi") else 0
        flags |= 2 if login.get("found_rows") else 0
        self.connection = MySQLdb.connect(
            host=login["host"], port=login["port"], user=login["user"], password=login["password"], database=login["schema"] or "",
            charset=login.get("charset", "utf8mb4"), client_flag=flags, multi_statements=bool(login.get("multi")), compress=bool(login.get("compress")),
            local_infile=bool(login.get("local_infile")), autocommit=True, **tls,
        )
        if not login.get("found_rows"):
            # It asks for matched rows by itself; nothing can be asked of it that says no.
            self.matched_rows = True

    def facts(self, cursor):
        return {"flags": cursor.description_flags, "warnings": self.connection.warning_count(), "info": session.shown(self.connection.info()), "fields": self.connection.field_count()}

    def thread_id(self):
        return self.connection.thread_id()

    def greeting(self):
        connection = self.connection
        return [connection.get_server_info(), connection.get_proto_info(), connection.get_host_info(), connection.character_set_name(), connection.server_capabilities]

    def cursor(self, sql, size, batches):
        with self.connection.cursor(MySQLdb.cursors.SSCursor) as cursor:
            cursor.execute(sql)
            return self.batches(cursor, size, batches)

    def ping(self):
        self.connection.ping()

    def schema(self, name):
        self.connection.select_db(name)

    def change_user(self, login):
        self.connection.change_user(login["user"], login["password"], login["schema"])


session.run(MySQLClient)

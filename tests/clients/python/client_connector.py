"""Oracle's mysql-connector-python, in pure Python, with real prepared statements."""

import mysql.connector

import session


class Connector(session.Driver):
    BINARY = True

    def __init__(self, login):
        flags = [mysql.connector.constants.ClientFlag.MULTI_STATEMENTS * (1 if login.get("multi", True) else -1)]
        flags += [mysql.connector.constants.ClientFlag.FOUND_ROWS * (1 if login.get("found_rows") else -1)]
        tls = {"ssl_ca": login["ca"], "ssl_verify_cert": True} if login.get("tls") else {"ssl_disabled": True}
        self.connection = mysql.connector.connect(
            host=login["host"], port=login["port"], user=login["user"], password=login["password"], database=login["schema"],
            charset=login.get("charset", "utf8mb4"), collation=None, client_flags=flags, use_pure=True, autocommit=True,
            compress=bool(login.get("compress")), allow_local_infile=bool(login.get("local_infile")), get_warnings=False,
            # A peer that waits for what it doesn't get must not hang the run.
            read_timeout=30, conn_attrs=login.get("attributes"), **tls,
        )

    @staticmethod
    def error_details(error):
        return {"sqlstate": getattr(error, "sqlstate", None)}

    def facts(self, cursor):
        return {"warnings": getattr(cursor, "warning_count", None), "status": getattr(self.connection, "_server_status", None)}

    def prepare(self, sql, executions):
        results = []
        with self.connection.cursor(prepared=True) as cursor:
            for values in executions:
                cursor.execute(sql, values)
                results.append(self.result(cursor))
        return results

    def thread_id(self):
        return self.connection.connection_id

    def greeting(self):
        connection = self.connection
        return [connection.get_server_info(), connection.get_server_version(), connection._handshake["capabilities"], connection._handshake["charset"], connection._handshake["auth_plugin"]]

    def ping(self):
        self.connection.ping(reconnect=False)

    def schema(self, name):
        self.connection.cmd_init_db(name)

    def begin(self):
        self.connection.start_transaction()

    def autocommit(self, on):
        self.connection.autocommit = on

    def reset(self):
        self.connection.cmd_reset_connection()

    def change_user(self, login):
        self.connection.cmd_change_user(login["user"], login["password"], login["schema"])


session.run(Connector)

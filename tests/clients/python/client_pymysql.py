"""PyMySQL."""

import ssl

import pymysql
from pymysql.constants import CLIENT

import session


class PyMySQL(session.Driver):
    def __init__(self, login):
        if login.get("compress"):
            raise session.NotOffered("compress")
        flags = CLIENT.MULTI_STATEMENTS if login.get("multi") else 0
        flags |= CLIENT.FOUND_ROWS if login.get("found_rows") else 0
        tls = ssl.create_default_context(cafile=login["ca"]) if login.get("tls") else None
        self.connection = pymysql.connect(
            host=login["host"], port=login["port"], user=login["user"], password=login["password"], database=login["schema"],
            charset=login.get("charset", "utf8mb4"), client_flag=flags, autocommit=True, local_infile=login.get("local_infile", False),
            ssl=tls, ssl_disabled=tls is None, program_name=login.get("attributes", {}).get("program_name"),
        )

    def facts(self, cursor):
        result = cursor._result
        # Besides what the cursor shows, what the OK or EOF packet said.
        fields = [[field.charsetnr, field.length, field.type_code, field.flags, field.scale, field.org_name, field.org_table, field.table_name, field.db] for field in getattr(result, "fields", None) or []]
        return {
            "fields": fields, "warnings": getattr(result, "warning_count", None), "status": self.connection.server_status,
            "info": session.shown(getattr(result, "message", None)),
        }

    def thread_id(self):
        return self.connection.thread_id()

    def greeting(self):
        connection = self.connection
        return [connection.get_server_info(), connection.server_language, connection.server_capabilities, connection.protocol_version, connection._auth_plugin_name]

    def cursor(self, sql, size, batches):
        # PyMySQL's server-side cursor is a text result that is read row by row.
        with self.connection.cursor(pymysql.cursors.SSCursor) as cursor:
            cursor.execute(sql)
            return self.batches(cursor, size, batches)

    def ping(self):
        self.connection.ping(reconnect=False)

    def schema(self, name):
        self.connection.select_db(name)

    def begin(self):
        self.connection.begin()


session.run(PyMySQL)

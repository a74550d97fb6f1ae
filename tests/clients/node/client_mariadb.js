"use strict";
// MariaDB's own connector: text, prepared, and bulk execution.

const fs = require("fs");
const mariadb = require("mariadb");
const { run, shown, shownRows } = require("./session");

function outcome(result) {
  if (Array.isArray(result) && !result.meta && result.every((part) => part && (part.meta || "affectedRows" in part))) return result.map(outcome);
  if (!Array.isArray(result)) return result && { affectedRows: shown(result.affectedRows), insertId: shown(result.insertId), warningStatus: result.warningStatus };
  const columns = (result.meta || []).map((meta) => [meta.name(), meta.orgName(), meta.schema(), meta.table(), meta.orgTable(), meta.type, meta.columnType, meta.columnLength, meta.flags, meta.scale, meta.collation && meta.collation.name]);
  return { columns, rows: shownRows(Array.from(result)) };
}

class Session {
  constructor(connection) {
    this.connection = connection;
  }

  static async connect(login) {
    const connection = await mariadb.createConnection({
      host: login.host, port: login.port, user: login.user, password: login.password, database: login.schema || undefined,
      charset: login.charset, foundRows: login.found_rows !== false, multipleStatements: Boolean(login.multi), compress: Boolean(login.compress),
      permitLocalInfile: Boolean(login.local_infile), ssl: login.tls ? { ca: fs.readFileSync(login.ca) } : false, connectAttributes: login.attributes,
      rowsAsArray: true, allowPublicKeyRetrieval: true, connectTimeout: 20000, logger: () => {},
    });
    connection.on("error", () => {});
    return new Session(connection);
  }

  async query(sql) {
    return outcome(await this.connection.query(sql));
  }

  async prepare(sql, executions) {
    const seen = [];
    const prepared = await this.connection.prepare(sql);
    try {
      for (const values of executions) seen.push(outcome(await prepared.execute(values)));
    } finally {
      prepared.close();
    }
    return seen;
  }

  async many(sql, executions) {
    return outcome(await this.connection.batch(sql, executions));
  }

  async cursor(sql, size, batches) {
    const rows = [];
    for await (const row of this.connection.queryStream(sql)) rows.push(row);
    return shownRows(rows.slice(0, size * batches));
  }

  threadId() {
    return String(this.connection.threadId);
  }

  greeting() {
    const { serverCapabilities, serverVersion, collation, status } = this.connection.info || {};
    return { version: this.connection.serverVersion(), serverCapabilities: shown(serverCapabilities), raw: serverVersion && serverVersion.raw, collation: collation && collation.name, status };
  }

  ping() {
    return this.connection.ping();
  }

  reset() {
    return this.connection.reset();
  }

  changeUser({ user, password, schema }) {
    return this.connection.changeUser({ user, password, database: schema });
  }

  begin() {
    return this.connection.beginTransaction();
  }

  commit() {
    return this.connection.commit();
  }

  rollback() {
    return this.connection.rollback();
  }

  close() {
    return this.connection.end();
  }
}

run(Session);

"use strict";
// mysql2: text, and prepared in the binary protocol.

const fs = require("fs");
const mysql = require("mysql2");
const { run, shown, shownRows } = require("./session");

function column(field) {
  const { name, columnType, characterSet, columnLength, flags, decimals, schema, table, orgTable, orgName } = field;
  return [name, columnType, characterSet, columnLength, flags, decimals, schema, table, orgTable, orgName];
}

// What a command showed: a header, or rows with their columns, or a list of these.
function outcome(results, fields) {
  if (Array.isArray(fields) && fields.some((set) => set === undefined || Array.isArray(set))) {
    return results.map((result, place) => one(result, fields[place]));
  }
  return [one(results, fields)];
}

function one(result, fields) {
  if (!Array.isArray(result)) {
    const { affectedRows, insertId, info, serverStatus, warningStatus, changedRows, stateChanges } = result;
    return { affectedRows, insertId: shown(insertId), info, serverStatus, warningStatus, changedRows, stateChanges: shown(inOrder(stateChanges)) };
  }
  return { columns: (fields || []).map(column), rows: shownRows(result) };
}

// MariaDB reports changed variables in the order of their addresses in a table whose size is that of all that were asked
// for. The node asks for more, so that on some starts of the server two sessions with equal changes tell them in other orders.
function inOrder(changes) {
  if (!changes || !changes.systemVariables) return changes;
  return { ...changes, systemVariables: Object.fromEntries(Object.entries(changes.systemVariables).sort()) };
}

class Session {
  constructor(connection) {
    this.connection = connection;
  }

  static connect(login) {
    const flags = [login.multi ? "+MULTI_STATEMENTS" : "-MULTI_STATEMENTS", login.found_rows === false ? "-FOUND_ROWS" : "+FOUND_ROWS"];
    const connection = mysql.createConnection({
      host: login.host, port: login.port, user: login.user, password: login.password, database: login.schema || undefined,
      charset: login.charset || "utf8mb4", flags, multipleStatements: Boolean(login.multi), compress: Boolean(login.compress), rowsAsArray: true, supportBigNumbers: true,
      ssl: login.tls ? { ca: fs.readFileSync(login.ca) } : undefined, connectAttributes: login.attributes,
      infileStreamFactory: login.local_infile ? (path) => fs.createReadStream(path) : undefined,
    });
    // What is lost is told to the command that waits; without a listener it would end the program.
    connection.on("error", () => {});
    return new Promise((done, failed) => connection.connect((error) => (error ? failed(error) : done(new Session(connection)))));
  }

  ask(method, ...values) {
    return new Promise((done, failed) =>
      this.connection[method](...values, (error, results, fields) => (error ? failed(error) : done(results === undefined ? null : outcome(results, fields)))));
  }

  query(sql) {
    return this.ask("query", sql);
  }

  async prepare(sql, executions) {
    const seen = [];
    for (const values of executions) seen.push(await this.ask("execute", sql, values));
    return seen;
  }

  cursor(sql, size, batches) {
    // A stream of a text result.
    return new Promise((done, failed) => {
      const rows = [];
      const stream = this.connection.query(sql).stream({ highWaterMark: size });
      stream.on("data", (row) => rows.push(row)).on("error", failed).on("end", () => done(shownRows(rows.slice(0, size * batches))));
    });
  }

  threadId() {
    return this.connection.threadId;
  }

  greeting() {
    const { serverVersion, capabilityFlags, characterSet, statusFlags, authPluginName } = this.connection._handshakePacket;
    return { serverVersion, capabilityFlags, characterSet, statusFlags, authPluginName };
  }

  ping() {
    return this.ask("ping");
  }

  reset() {
    return this.ask("reset");
  }

  changeUser({ user, password, schema }) {
    return this.ask("changeUser", { user, password, database: schema });
  }

  begin() {
    return this.ask("beginTransaction");
  }

  commit() {
    return this.ask("commit");
  }

  rollback() {
    return this.ask("rollback");
  }

  close() {
    return new Promise((done) => this.connection.end(done));
  }
}

run(Session);

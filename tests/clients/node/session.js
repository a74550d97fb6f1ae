"use strict";
// Runs the cases through one Node driver and prints what it showed, one case a line. As python/session.py.

const crypto = require("crypto");
const fs = require("fs");

const ROWS_SHOWN = 20;
const TEXT_SHOWN = 200;

class NotOffered extends Error {}

const digest = (text) => crypto.createHash("sha256").update(text).digest("hex");

function shown(value) {
  if (value === undefined) return "undefined";
  if (value === null) return "null";
  if (Buffer.isBuffer(value)) value = `buffer ${value.length < 1000 ? value.toString("hex") : digest(value)}`;
  else if (value instanceof Date) value = `date ${value.getTime()}`;
  else if (typeof value === "bigint") value = `bigint ${value}`;
  else if (typeof value === "object") value = JSON.stringify(value, (_, part) => (typeof part === "bigint" ? `bigint ${part}` : part));
  else value = `${typeof value} ${value}`;
  return value.length > TEXT_SHOWN ? `${value.slice(0, 40)}… ${value.length} ${digest(value)}` : value;
}

function shownRows(rows) {
  rows = rows.map((row) => row.map(shown));
  if (rows.length <= ROWS_SHOWN) return rows;
  return { rows: rows.length, first: rows[0], sha256: digest(JSON.stringify(rows)) };
}

function parameter(value) {
  if (value === null || typeof value !== "object") return value;
  const [[kind, text]] = Object.entries(value);
  switch (kind) {
    case "bytes": return Buffer.from(text, "hex");
    case "datetime": return new Date(text.replace(" ", "T"));
    case "repeat": return text[0].repeat(text[1]);
    case "repeat_bytes": return Buffer.from(text[0].repeat(text[1]), "hex");
    default: return text;
  }
}

class Sessions {
  constructor(driver, plan, options) {
    Object.assign(this, { driver, plan, options, opened: {} });
  }

  async get(name) {
    if (!this.opened[name]) {
      const { host, port, user, password, schema, ca } = this.plan;
      this.opened[name] = await this.driver.connect({ host, port, user, password, schema, ca, ...this.options[name] });
    }
    return this.opened[name];
  }

  async close() {
    for (const session of Object.values(this.opened)) await session.close().catch(() => {});
  }

  async filled(sql) {
    sql = sql.replace(/\{x:(\d+)\}/g, (_, count) => "x".repeat(Number(count)));
    for (const [whole, name] of sql.matchAll(/\{id(?::(\w+))?\}/g)) sql = sql.replace(whole, (await this.get(name || "a")).threadId());
    return sql;
  }

  async step(step) {
    if (typeof step === "string") step = { sql: step };
    const session = await this.get(step.on || "a");
    const kind = Object.keys(step).find((key) => key !== "on" && key !== "fails");
    const method = { sql: "query", use: "useSchema", change_user: "changeUser" }[kind] || kind;
    if (!session[method]) throw new NotOffered(kind);
    if (kind === "sql") return session.query(await this.filled(step.sql));
    if (kind === "prepare" || kind === "many") return session[method](step[kind], step.params.map((values) => values.map(parameter)));
    if (kind === "cursor") return session.cursor(step.cursor, step.size, step.batches ?? Infinity);
    return session[method](step[kind]);
  }
}

async function run(driver) {
  const plan = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
  const cleaner = new Sessions(driver, plan, {});
  for (const item of plan.cases) {
    for (const statement of plan.clean) await (await cleaner.get("a")).query(statement);
    const sessions = new Sessions(driver, plan, item.connect || {});
    let line = { case: item.name, steps: [] };
    for (const step of item.steps) {
      try {
        line.steps.push({ seen: (await sessions.step(step)) ?? null });
      } catch (error) {
        if (error instanceof NotOffered) {
          line = { case: item.name, not_offered: error.message };
          break;
        }
        // The number of a connection is another each time.
        const message = String(error.message).replace(/conn(?:ectionId)?:\s*-?\d+/g, "conn").replace(/KILL (QUERY )?\d+/, "KILL");
        line.steps.push({ error: [error.name, error.code, error.errno, error.sqlState, error.fatal, shown(message)] });
      }
    }
    await sessions.close();
    // The key comes first: the runner knows the lines by it.
    console.log(JSON.stringify(line, (_, part) => (typeof part === "bigint" ? `bigint ${part}` : part)).replace('{"case":', '{"case": '));
  }
  await cleaner.close();
  process.exit(0);
}

module.exports = { NotOffered, run, shown, shownRows };

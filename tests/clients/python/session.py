"""Runs the cases through one Python driver and prints what it showed, one case a line.

A driver is a class with a method for each kind of step; a kind that it has no method for is one that it doesn't offer.
"""

import datetime
import decimal
import hashlib
import json
import re
import sys
import warnings

ROWS_SHOWN = 20
TEXT_SHOWN = 200


class NotOffered(Exception):
    """The driver has nothing for this step."""


def shown(value):
    """A value with its type, short."""
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(shown, value)]
    text = repr(value)
    if len(text) > TEXT_SHOWN:
        text = f"{text[:40]}… {len(text)} {hashlib.sha256(text.encode()).hexdigest()}"
    return f"{type(value).__name__} {text}"


def shown_rows(rows):
    """The rows of a result: all of a short one, a digest of a long one."""
    rows = [[shown(value) for value in row] for row in rows]
    if len(rows) <= ROWS_SHOWN:
        return rows
    return {"rows": len(rows), "first": rows[0], "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}


def parameter(value):
    """A parameter of a case in Python's own type."""
    if not isinstance(value, dict):
        return value
    [(kind, text)] = value.items()
    match kind:
        case "bytes":
            return bytes.fromhex(text)
        case "decimal":
            return decimal.Decimal(text)
        case "datetime":
            return datetime.datetime.fromisoformat(text)
        case "date":
            return datetime.date.fromisoformat(text)
        case "time":
            time = datetime.time.fromisoformat(text)
            return datetime.timedelta(hours=time.hour, minutes=time.minute, seconds=time.second, microseconds=time.microsecond)
        case "repeat":
            return text[0] * text[1]
        case "repeat_bytes":
            return bytes.fromhex(text[0]) * text[1]
    raise ValueError(kind)


class Sessions:
    """The sessions of one case, each opened when a step first needs it."""

    def __init__(self, driver, plan, options):
        self.driver, self.plan, self.options, self.opened = driver, plan, options, {}

    def get(self, name):
        if name not in self.opened:
            login = {key: self.plan[key] for key in ("host", "port", "user", "password", "schema", "ca")}
            self.opened[name] = self.driver(login | self.options.get(name, {}))
        return self.opened[name]

    def close(self):
        for session in self.opened.values():
            try:
                session.close()
            except Exception:  # A killed session can't say goodbye.
                pass

    def filled(self, sql):
        """The statement with connection ids and long runs put in."""
        sql = re.sub(r"\{x:(\d+)\}", lambda found: "x" * int(found[1]), sql)
        return re.sub(r"\{id(?::(\w+))?\}", lambda found: str(self.get(found[1] or "a").thread_id()), sql)

    def step(self, step):
        if isinstance(step, str):
            step = {"sql": step}
        session = self.get(step.get("on", "a"))
        kind = next(kind for kind in step if kind not in ("on", "fails"))
        method = getattr(session, {"sql": "query", "use": "schema"}.get(kind, kind), None)
        if method is None or (step.get("binary") and not session.BINARY):
            raise NotOffered(kind)
        match kind:
            case "sql":
                return method(self.filled(step["sql"]))
            case "prepare" | "many":
                return method(step[kind], [[parameter(value) for value in values] for values in step["params"]])
            case "cursor":
                return method(step["cursor"], step["size"], step.get("batches"))
            case "use" | "autocommit" | "change_user":
                return method(step[kind])
            case _:
                return method()


def run(driver):
    """Runs the plan named on the command line."""
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    cleaner = Sessions(driver, plan, {})
    for case in plan["cases"]:
        for statement in plan["clean"]:
            cleaner.get("a").query(statement)
        sessions = Sessions(driver, plan, case.get("connect", {}))
        seen = []
        try:
            for step in case["steps"]:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    try:
                        outcome = {"seen": sessions.step(step)}
                    except NotOffered:
                        raise
                    except Exception as error:
                        outcome = {"error": [type(error).__name__, *map(shown, error.args)], **driver.error_details(error)}
                    told = [f"{warning.category.__name__} {warning.message}" for warning in caught if warning.category not in driver.UNRELATED]
                    seen.append(outcome | ({"told": told} if told else {}))
            line = {"case": case["name"], "steps": seen}
        except NotOffered as kind:
            line = {"case": case["name"], "not_offered": str(kind)}
        sessions.close()
        print(json.dumps(line, default=shown), flush=True)


class Driver:
    """What the drivers have in common: the Database API of PEP 249."""

    # Whether `prepare` is the binary protocol.
    BINARY = False
    UNRELATED = (ResourceWarning, DeprecationWarning)

    @staticmethod
    def error_details(error):
        return {}

    def facts(self, cursor):
        """What the driver shows about the session after a result."""
        return {}

    def result(self, cursor):
        return {
            "columns": shown(cursor.description),
            "rows": shown_rows(cursor.fetchall()) if cursor.description else None,
            "affected": cursor.rowcount,
            "insert_id": cursor.lastrowid,
            **self.facts(cursor),
        }

    def results(self, cursor):
        results = [self.result(cursor)]
        while cursor.nextset():
            results.append(self.result(cursor))
        return results

    def query(self, sql):
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return self.results(cursor)

    def prepare(self, sql, executions):
        # These drivers put the values into the text themselves.
        results = []
        with self.connection.cursor() as cursor:
            for values in executions:
                cursor.execute(sql.replace("%", "%%").replace("?", "%s"), values)
                results.append(self.results(cursor))
        return results

    def many(self, sql, executions):
        with self.connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s"), executions)
            return {"affected": cursor.rowcount, "insert_id": cursor.lastrowid}

    def batches(self, cursor, size, batches):
        """Reads a cursor in pieces; `batches` says after how many to leave it."""
        seen = []
        while batches is None or len(seen) < batches:
            rows = cursor.fetchmany(size)
            if not rows:
                break
            seen.append(shown_rows(rows))
        return seen

    def begin(self):
        return self.query("BEGIN")

    def commit(self):
        self.connection.commit()

    def rollback(self):
        self.connection.rollback()

    def autocommit(self, on):
        self.connection.autocommit(on)

    def close(self):
        self.connection.close()

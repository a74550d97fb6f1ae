//! The rules, a row each; and what no dressing-up of a text may change.

use proptest::prelude::*;
use towline_middleware::{Classifier, Intent, Plan, RefusedOn, SqlMode};

use super::*;

const READ: Intent = Intent::Read;
const SESSION: Intent = Intent::SessionState;
const TRANSACTION: Intent = Intent::Transaction;
const WRITE: Intent = Intent::Write;
const UNKNOWN: Intent = Intent::Unknown;
const SLAVE: Option<RefusedOn> = Some(RefusedOn::Slave);
const EVERYWHERE: Option<RefusedOn> = Some(RefusedOn::EveryNode);

fn plan(sql: &str) -> Arc<Plan> {
    SqlClassifier::for_server("10.11.19-MariaDB").classify(sql.as_bytes(), SqlMode::default())
}

fn check(rows: &[(&str, Intent, Option<RefusedOn>)]) {
    let classifier = SqlClassifier::for_server("10.11.19-MariaDB");
    for &(sql, intent, refused) in rows {
        for asked in ["anew", "from the cache"] {
            let plan = classifier.classify(sql.as_bytes(), SqlMode::default());
            let found = (plan.intent, plan.refusal.as_ref().map(|refusal| refusal.on));
            assert_eq!(found, (intent, refused), "{sql}: {} ({asked})", plan.rule);
        }
    }
}

fn is_refused_on_slave(plan: &Plan) -> bool {
    plan.intent.may_write() || plan.refusal.is_some()
}

#[test]
fn plain_reads() {
    check(&[
        ("SELECT 1", READ, None),
        ("select c from sbtest1 where id=50", READ, None),
        ("SELECT DISTINCT c FROM sbtest1 WHERE id BETWEEN 1 AND 9 ORDER BY c;", READ, None),
        (
            "SELECT COUNT(*), MAX(a), IF(a IN (1, 2), CONCAT(a, 'x'), NOW()) FROM t USE INDEX (i) WHERE (a) AND (b)",
            READ,
            None,
        ),
        ("SELECT * FROM t WHERE MATCH (a, b) AGAINST ('x' IN BOOLEAN MODE)", READ, None),
        ("SELECT CAST(a AS DECIMAL(10, 2)), CONVERT(b, CHAR(3)) FROM t GROUP BY a WITH ROLLUP", READ, None),
        ("SELECT ROW_NUMBER() OVER (PARTITION BY a) FROM t", READ, None),
        ("SELECT * FROM (SELECT a, b FROM t) AS x (c, d)", READ, None),
        ("WITH RECURSIVE x (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT * FROM x", READ, None),
        ("VALUES (1, 2), (3, 4)", READ, None),
        ("TABLE t", READ, None),
        ("((SELECT 1) UNION (SELECT 2)) LIMIT 1", READ, None),
        ("SELECT * FROM t PROCEDURE ANALYSE(10)", READ, None),
        ("SELECT INSERT('a', 1, 1, 'b'), REPLACE('a', 'b', 'c')", READ, None),
        ("SELECT t.update, t.`delete`, @insert FROM t", READ, None),
        ("SHOW WARNINGS", READ, None),
        ("SHOW CREATE TABLE t", READ, None),
        ("SHOW VARIABLES LIKE 'a%'", READ, None),
        ("SHOW COUNT(*) WARNINGS", READ, None),
        ("SHOW MASTER STATUS", READ, None),
        ("DESC t", READ, None),
        ("EXPLAIN SELECT * FROM t", READ, None),
        ("EXPLAIN FORMAT=JSON (SELECT 1)", READ, None),
        ("ANALYZE FORMAT=JSON SELECT * FROM t", READ, None),
        ("ANALYZE SELECT * FROM t", READ, None),
        ("HELP 'select'", READ, None),
        ("CHECKSUM TABLE t", READ, None),
        ("DO SLEEP(0)", READ, None),
        ("SELECT SLEEP(1), BENCHMARK(1, 1), MASTER_POS_WAIT('a', 1)", READ, None),
        ("SELECT LAST_INSERT_ID(), ROW_COUNT(), FOUND_ROWS(), @@identity", READ, None),
        ("SELECT SQL_CALC_FOUND_ROWS * FROM t", READ, None),
        ("SELECT 1; SELECT 2;", READ, None),
        ("", READ, None),
        ("-- nothing", READ, None),
        ("SELECT 1;;", READ, None),
    ]);
}

#[test]
fn what_drivers_send_when_they_connect() {
    check(&[
        ("select @@version_comment limit 1", READ, None),
        ("SELECT @@max_allowed_packet,@@system_time_zone,@@time_zone,@@auto_increment_increment", READ, None),
        (
            "/* mysql-connector-j-8.0.33 (Revision: 7d6b0800528b6b25c68b52dc10d6c1c8429c100c) */SELECT  \
             @@session.auto_increment_increment AS auto_increment_increment, @@character_set_client AS character_set_client",
            READ,
            None,
        ),
        ("SELECT DATABASE(), USER(), CONNECTION_ID(), VERSION()", READ, None),
        ("SET NAMES utf8mb4", SESSION, None),
        ("SET NAMES 'utf8' COLLATE 'utf8_general_ci'", SESSION, None),
        ("SET CHARACTER SET utf8", SESSION, None),
        ("SET character_set_results = NULL", SESSION, None),
        ("SET sql_mode='STRICT_TRANS_TABLES'", SESSION, None),
        (
            "set autocommit=1, session_track_schema=1, sql_mode=concat(@@sql_mode,',STRICT_TRANS_TABLES')",
            TRANSACTION,
            None,
        ),
        ("SET autocommit=0", TRANSACTION, None),
        ("SET @@session.autocommit = ON", TRANSACTION, None),
        ("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", SESSION, None),
        ("SET SESSION TRANSACTION READ ONLY", SESSION, None),
        ("SET net_write_timeout=600, SESSION wait_timeout = 28800", SESSION, None),
        ("SET SQL_SELECT_LIMIT=DEFAULT", SESSION, None),
        ("USE shop", SESSION, None),
        ("BEGIN", TRANSACTION, None),
        ("START TRANSACTION", TRANSACTION, None),
        ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", TRANSACTION, None),
        ("COMMIT", TRANSACTION, None),
        ("COMMIT AND NO CHAIN NO RELEASE", TRANSACTION, None),
        ("ROLLBACK WORK", TRANSACTION, None),
        ("ROLLBACK TO SAVEPOINT `a`", TRANSACTION, None),
        ("SAVEPOINT a", TRANSACTION, None),
        ("RELEASE SAVEPOINT a", TRANSACTION, None),
        ("UNLOCK TABLES", TRANSACTION, None),
        ("/*!40101 SET NAMES utf8 */", SESSION, None),
        ("/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;", SESSION, None),
    ]);
}

#[test]
fn reads_that_are_more_than_reads() {
    check(&[
        ("SELECT * FROM t FOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t FOR UPDATE OF t SKIP LOCKED", READ, SLAVE),
        ("SELECT * FROM t FOR SHARE NOWAIT", READ, SLAVE),
        ("SELECT * FROM t LOCK IN SHARE MODE", READ, SLAVE),
        ("SELECT * FROM t WHERE a IN (SELECT a FROM u FOR UPDATE)", READ, SLAVE),
        ("SELECT * FROM t WHERE a = 1.FOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t WHERE a > .5FOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t WHERE a > 1e5FOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t WHERE a > 1e+5FOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t WHERE a > 'a'FOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t WHERE a > x'61'FOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t WHERE a > \\NFOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t WHERE a > @ FOR UPDATE", READ, SLAVE),
        ("SELECT * FROM t WHERE (a)FOR UPDATE", READ, SLAVE),
        ("SELECT GET_LOCK('a', 1)", SESSION, SLAVE),
        ("SELECT IS_FREE_LOCK('a')", SESSION, SLAVE),
        ("SELECT a INTO @a FROM t", SESSION, None),
        ("SELECT @a := a FROM t", SESSION, None),
        ("SELECT LAST_INSERT_ID(5)", SESSION, None),
        ("GET DIAGNOSTICS @a = NUMBER", SESSION, None),
        ("DEALLOCATE PREPARE a", SESSION, None),
        ("DROP PREPARE a", SESSION, None),
        ("HANDLER t OPEN", SESSION, SLAVE),
        ("LOCK TABLES t READ", TRANSACTION, SLAVE),
        ("XA START 'a'", WRITE, SLAVE),
        ("xa /* x */ BEGIN X'00', 'b', 7", WRITE, SLAVE),
        ("XA PREPARE 'a'", WRITE, SLAVE),
        ("XA COMMIT 'a' ONE PHASE", WRITE, SLAVE),
        ("XA RECOVER", READ, None),
        ("XA RECOVER FORMAT = 'SQL'", READ, None),
        ("SELECT * FROM t INTO OUTFILE '/tmp/x'", WRITE, SLAVE),
        ("SELECT NEXTVAL(s)", WRITE, None),
        ("SELECT NEXT VALUE FOR s", WRITE, None),
        ("SELECT s.nextval", WRITE, None),
        ("SELECT DEFAULT(a) FROM t", WRITE, None),
        ("SELECT LOAD_FILE('/etc/passwd'), LASTVAL(s)", READ, None),
        ("SELECT * FROM t WHERE a LIKE 'b' ESCAPE ('|') OR a LIKE ? ESCAPE(2) OR 1 LIKE 1 ESCAPE (f())", WRITE, None),
        ("SELECT * FROM t WHERE a LIKE 'b' ESCAPE ('|') OR a LIKE ? ESCAPE(2)", READ, None),
        ("SELECT ESCAPE('a')", WRITE, None),
        ("SELECT 'a', ESCAPE('a')", WRITE, None),
        ("SELECT d.ESCAPE('a')", WRITE, None),
        ("SELECT f(1)", WRITE, None),
        ("SELECT polygon()", WRITE, None),
        ("SHOW TABLES WHERE f(1)", WRITE, None),
        ("DO f()", WRITE, None),
        ("SET @a = f()", WRITE, SLAVE),
        ("EXPLAIN SELECT * FROM (SELECT f()) x", WRITE, None),
        ("EXPLAIN UPDATE t SET a = 1", WRITE, None),
        ("WITH x AS (SELECT 1) DELETE FROM t", WRITE, None),
        ("ANALYZE DELETE FROM t", WRITE, SLAVE),
        ("ANALYZE FORMAT=JSON SELECT 1 INTO OUTFILE 'x'", WRITE, SLAVE),
        ("ANALYZE FORMAT=JSON INSERT INTO t VALUES (1)", WRITE, None),
        ("ANALYZE TABLE t", WRITE, SLAVE),
        ("SELECT 1; DELETE FROM t", WRITE, SLAVE),
        ("SELECT 1; nonsense", UNKNOWN, SLAVE),
    ]);
}

#[test]
fn writes() {
    check(&[
        ("INSERT INTO t VALUES (1)", WRITE, None),
        ("INSERT INTO t VALUES (1) RETURNING a", WRITE, None),
        ("CREATE TEMPORARY TABLE t (a INT)", WRITE, None),
        ("CREATE PROCEDURE p() SELECT 1", WRITE, None),
        ("CALL p()", WRITE, None),
        ("LOAD DATA INFILE 'x' INTO TABLE t", WRITE, SLAVE),
        ("FLUSH TABLES WITH READ LOCK", WRITE, SLAVE),
        ("KILL QUERY 5", WRITE, SLAVE),
        ("BINLOG 'x'", WRITE, SLAVE),
        ("CHECK TABLE t", WRITE, SLAVE),
        ("START SLAVE", WRITE, SLAVE),
        ("RESET QUERY CACHE", WRITE, SLAVE),
        ("SET PASSWORD FOR a = 'x'", WRITE, SLAVE),
        ("SET DEFAULT ROLE r FOR a", WRITE, SLAVE),
        ("SET GLOBAL max_connections = 5", WRITE, SLAVE),
        ("SET @@global.max_connections = 5", WRITE, SLAVE),
        ("SET PERSIST max_connections = 5", WRITE, SLAVE),
        ("BEGIN NOT ATOMIC SELECT 1; END", UNKNOWN, SLAVE),
        ("IF 1 THEN SELECT 1; END IF", UNKNOWN, SLAVE),
        ("BEGIN DELETE FROM t; END", UNKNOWN, SLAVE),
        ("EXECUTE s", UNKNOWN, None),
        ("PREPARE s FROM @a", UNKNOWN, None),
        ("SIGNAL SQLSTATE '45000'", UNKNOWN, None),
        ("nonsense", UNKNOWN, None),
        ("SET", UNKNOWN, SLAVE),
        ("SET a", UNKNOWN, SLAVE),
        ("SET SESSION AUTHORIZATION root", UNKNOWN, SLAVE),
    ]);
}

#[test]
fn names_before_a_parenthesis_that_are_no_functions() {
    check(&[
        ("SELECT * FROM t, JSON_TABLE(t.j, '$[*]' COLUMNS (a INT PATH '$.a')) AS x", READ, None),
        ("SELECT * FROM JSON_TABLE('[]', '$' COLUMNS(NESTED PATH '$.b' COLUMNS (c INT PATH '$'))) AS x", READ, None),
        ("SELECT JSON_TABLE(1)", WRITE, None),
        ("SELECT JSON_TABLE(1) FROM JSON_TABLE('[]', '$' COLUMNS (a INT PATH '$')) AS x", WRITE, None),
        ("SELECT COLUMNS(1)", WRITE, None),
        ("WITH a AS (SELECT 1), b(x, y) AS (SELECT 1, 2), c (z) AS (SELECT (3)) SELECT * FROM b, c", READ, None),
        ("WITH RECURSIVE a(x) AS (SELECT 1), `b`(y) AS (SELECT 2) SELECT * FROM b", READ, None),
        ("WITH a AS (SELECT 1), b(x) AS (SELECT f()) SELECT * FROM b", WRITE, None),
        ("WITH a AS (SELECT 1) SELECT 1, f(2)", WRITE, None),
        ("WITH a AS (SELECT (1), f(2)) SELECT 1", WRITE, None),
        ("WITH a AS (SELECT 1) (SELECT f(2))", WRITE, None),
        ("SELECT (SELECT 1), f(2) FROM t GROUP BY a WITH ROLLUP", WRITE, None),
        ("SELECT a FROM t GROUP BY a WITH ROLLUP HAVING f(2)", WRITE, None),
        ("SELECT * FROM t WHERE MATCH a, b AGAINST ('x') AND MATCH (c) AGAINST ('y')", READ, None),
        ("SELECT MATCH (a) AGAINST ('x'), AGAINST(1) FROM t", WRITE, None),
        ("SELECT POINT(1, 2), LINESTRING (POINT(1, 2), POINT(3, 4))", READ, None),
        ("SELECT POINT()", WRITE, None),
        ("SELECT POINT(1)", WRITE, None),
        ("SELECT POINT(1, 2, 3)", WRITE, None),
        ("SELECT POINT(1, 2, 3, 4)", WRITE, None),
        ("SELECT POINT(a, b, c)", WRITE, None),
        ("SELECT POINT(a, -2)", READ, None),
        ("SELECT POINT(POW(a, 2), (SELECT 1, 2)), 5, 6", READ, None),
        ("SELECT POINT(POINT(1, 2, 3), 2)", WRITE, None),
        ("SELECT POINT((1), (2), (3))", WRITE, None),
        ("SELECT POINT(1, 2", WRITE, None),
        ("SELECT SQL_NO_CACHE (1), (SELECT SQL_CACHE(1))", READ, None),
        ("SELECT 1, SQL_NO_CACHE(1)", WRITE, None),
        ("DO SQL_BUFFER_RESULT()", WRITE, None),
        ("SELECT 1 WHERE SQL_CACHE (1)", WRITE, None),
    ]);
    let mysql = |version: &str, sql: &str| {
        SqlClassifier::for_server(version).classify(sql.as_bytes(), SqlMode::default()).intent
    };
    assert_eq!(mysql("8.0.36", "SELECT MD5('a'), SHA1('a')"), READ);
    assert_eq!(mysql("9.7.4", "SELECT MD5('a')"), WRITE);
    assert_eq!(mysql("8.0.36", "SELECT TO_VECTOR('a')"), WRITE);
}

#[test]
fn an_executable_comment_is_read_both_ways() {
    check(&[
        ("/*!40101 SET NAMES utf8 */", SESSION, None),
        ("/*!40100 SET @@SQL_MODE='' */", SESSION, None),
        ("SELECT /*!40001 SQL_NO_CACHE */ * FROM t", READ, None),
        ("START TRANSACTION /*!40100 WITH CONSISTENT SNAPSHOT */", TRANSACTION, None),
        ("SELECT 1 /*!40000 + 1 */ /*M! + 2 */", READ, None),
        ("SELECT 1 /*!50000 , f() */", WRITE, None),
        ("SELECT 1 /*!50000 FOR UPDATE */", READ, SLAVE),
        ("/*!50000 DELETE FROM t */", WRITE, None),
        ("/*!40101 SET @a = 1, sql_log_bin = 0 */", SESSION, EVERYWHERE),
        ("SELECT 1/*!999992*/", UNKNOWN, None),
        ("SELECT 1 /*! + '*/' */", UNKNOWN, None),
        ("SELECT 1 /*!50000 /* */ + 1 */", UNKNOWN, None),
        ("SELECT 1 /*! +1 */ /*! +2 */ /*! +3 */ /*! +4 */", UNKNOWN, None),
    ]);
}

#[test]
fn statements_inside_of_statements() {
    check(&[
        ("PREPARE s FROM 'SELECT 1'", SESSION, None),
        ("PREPARE s FROM 'DELETE FROM t'", WRITE, None),
        ("PREPARE s FROM 'SELECT ''a'''", SESSION, None),
        ("PREPARE s FROM 'SELECT \\'a\\', f()'", WRITE, None),
        ("PREPARE s FROM 'SET sql_log_bin = 0'", SESSION, EVERYWHERE),
        ("EXECUTE IMMEDIATE 'SELECT 1'", READ, None),
        ("EXECUTE IMMEDIATE 'SELECT ?' USING 1", READ, None),
        ("EXECUTE IMMEDIATE 'DELETE FROM t'", WRITE, None),
        ("EXECUTE IMMEDIATE CONCAT('SELECT', ' 1')", UNKNOWN, None),
        ("EXECUTE IMMEDIATE 'SELECT ' '1'", UNKNOWN, None),
        ("PREPARE s FROM x'53454c4543542031'", UNKNOWN, None),
        ("SET STATEMENT max_statement_time = 1 FOR SELECT 1", READ, None),
        (
            "SET STATEMENT max_statement_time = SUBSTRING('1' FROM 1 FOR 1), sql_mode = '' FOR DELETE FROM t",
            WRITE,
            SLAVE,
        ),
        ("SET STATEMENT sql_mode = '' FOR EXECUTE IMMEDIATE 'SELECT 1'", UNKNOWN, SLAVE),
    ]);
    let nested =
        (0..5).fold("SELECT 1".to_owned(), |sql, _| format!("EXECUTE IMMEDIATE '{}'", sql.replace('\'', "''")));
    assert_eq!(plan(&nested).intent, UNKNOWN);
}

#[test]
fn what_would_hide_writes_is_refused_everywhere() {
    for set in [
        "sql_log_bin = 0",
        "SESSION sql_log_bin = 0",
        "GLOBAL server_id = 5",
        "LOCAL binlog_format := 'STATEMENT'",
        "@@sql_log_bin = 0",
        "@@session.sql_log_bin = 0",
        "@@SESSION . `Sql_Log_Bin` = 0",
        "@@local.binlog_row_image = minimal",
        "@a = (SELECT 1, 2), @@gtid_domain_id = 7",
        "NAMES utf8, gtid_seq_no = 7",
        "gtid_next = 'AUTOMATIC'",
        "server_id = 5",
        "pseudo_thread_id = 5",
        "binlog_alter_two_phase = 1",
        "STATEMENT sql_log_bin = 0 FOR DELETE FROM t",
        "STATEMENT max_statement_time = 1, sql_log_bin = 0 FOR DELETE FROM t",
        "STATEMENT max_statement_time = 1 FOR SET sql_log_bin = 0",
        "STATEMENT max_statement_time = 1 FOR EXECUTE IMMEDIATE 'SET sql_log_bin = 0'",
        "\"sql_log_bin\" = 0",
    ] {
        let sql = format!("SET {set}");
        assert_eq!(plan(&sql).refusal.as_ref().map(|refusal| refusal.on), EVERYWHERE, "{sql}");
    }
    for sql in [
        "RESET MASTER",
        "RESET QUERY CACHE, MASTER",
        "SELECT 1; SET sql_log_bin = 0",
        "/*! SET sql_log_bin = 0 */",
        "SET /*!50000 sql_log_bin */ = 0",
        "/*!99999 ' */ SET sql_log_bin = 0 -- '",
        "CREATE PROCEDURE p() BEGIN SET sql_log_bin = 0; END",
        "CREATE PROCEDURE p() EXECUTE IMMEDIATE 'SET sql_log_bin = 0'",
        "CREATE PROCEDURE p() EXECUTE IMMEDIATE 'SET s\\ql_log' '_bin = 0'",
        "CREATE PROCEDURE p() EXECUTE IMMEDIATE 'DELETE FROM towline.position'",
        "CREATE PROCEDURE p() BEGIN SET @v = 'sql_log_bin'; SET @s = CONCAT('SET ', @v, '=0'); PREPARE s FROM @s; END",
        "CREATE PROCEDURE p() BEGIN SET @a = 1; SET @v = 'sql_log_bin'; EXECUTE IMMEDIATE CONCAT('SET ', @v, '=0'); END",
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO BEGIN PREPARE s FROM 'SET sql_log_bin = 0'; EXECUTE s; END",
        "CREATE OR REPLACE DEFINER = 'a'@'b' FUNCTION f() RETURNS INT BEGIN SET @@session.gtid_domain_id = 5; RETURN 1; END",
        "BEGIN NOT ATOMIC SET SESSION sql_log_bin = 0; END",
        "UPDATE towline.position SET seq = 1",
        "DELETE FROM `Towline` . `position`",
        "INSERT INTO a.t SELECT 1; INSERT INTO towline.t SELECT 2",
        "DROP DATABASE IF EXISTS towline",
        "CREATE OR REPLACE DATABASE towline",
        "GRANT ALL ON towline.* TO a",
        "INSERT INTO /*!towline.*/position VALUES (1)",
        "CREATE TABLE t (a INT, s BIGINT(20) UNSIGNED GENERATED ALWAYS AS ROW START, e BIGINT UNSIGNED AS ROW END)",
        "ALTER TABLE t ADD s BIGINT UNSIGNED AS ROW START, ADD e BIGINT UNSIGNED AS ROW END, ADD SYSTEM VERSIONING",
        "GRANT r TO u, CURRENT_USER()",
        "REVOKE ADMIN OPTION FOR r FROM current_user",
    ] {
        assert_eq!(plan(sql).refusal.as_ref().map(|refusal| refusal.on), EVERYWHERE, "{sql}");
    }
}

#[test]
fn what_only_looks_like_it_is_not_refused() {
    check(&[
        ("SET @sql_log_bin = 0", SESSION, None),
        ("SET session_track_system_variables = '*'", SESSION, None),
        ("UPDATE host SET server_id = 5", WRITE, None),
        ("INSERT INTO note VALUES ('SET sql_log_bin = 0')", WRITE, None),
        ("CREATE TABLE instance (binlog_format VARCHAR(16))", WRITE, None),
        ("SELECT * FROM towline.position", READ, None),
        ("GRANT SELECT ON t TO CURRENT_USER", WRITE, None),
        ("GRANT r TO `CURRENT_USER`@'%'", WRITE, None),
        ("CREATE TABLE t (a BIGINT, s TIMESTAMP(6) AS ROW START, e TIMESTAMP(6) AS ROW END)", WRITE, None),
        ("USE towline", SESSION, None),
        ("INSERT INTO app.towline VALUES (1)", WRITE, None),
        ("CREATE USER towline", WRITE, None),
        ("SELECT @@sql_log_bin, @@server_id", READ, None),
        ("CREATE PROCEDURE p() EXECUTE IMMEDIATE 'DELETE FROM t'", WRITE, None),
        ("CREATE PROCEDURE p() EXECUTE IMMEDIATE CONCAT('DELETE FROM ', 't')", WRITE, None),
        ("CREATE PROCEDURE p() INSERT INTO note VALUES ('SET sql_log_bin = 0')", WRITE, None),
        (
            "CREATE PROCEDURE `\u{5ba2}\u{6237}_\u{540d}\u{79f0}`() EXECUTE IMMEDIATE 'SELECT \u{5e74}_\u{6708}_\u{65e5}'",
            WRITE,
            None,
        ),
    ]);
}

#[test]
fn fences_of_a_slave_stay_up() {
    check(&[
        ("SET TRANSACTION READ WRITE", SESSION, SLAVE),
        ("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE", SESSION, SLAVE),
        ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", SESSION, SLAVE),
        ("SET GLOBAL TRANSACTION READ ONLY", WRITE, SLAVE),
        ("SET tx_read_only = 0", SESSION, SLAVE),
        ("SET @@session.transaction_read_only = 0", SESSION, SLAVE),
        ("SET transaction_isolation = 'READ-COMMITTED'", SESSION, SLAVE),
        ("SET STATEMENT tx_read_only = 0 FOR SELECT 1", READ, SLAVE),
        ("START TRANSACTION READ WRITE", TRANSACTION, SLAVE),
        ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ WRITE", TRANSACTION, SLAVE),
        ("START TRANSACTION READ", UNKNOWN, None),
    ]);
}

#[test]
fn a_set_changes_how_the_statements_behind_it_are_read() {
    check(&[
        ("SET time_zone = '+00:00'; SELECT 1", SESSION, None),
        ("SET sql_mode = ''; SELECT 1", UNKNOWN, SLAVE),
        ("SET NAMES gbk; SELECT 1", UNKNOWN, SLAVE),
        ("SELECT 1; SET NAMES utf8", SESSION, None),
    ]);
}

#[test]
fn how_a_text_is_cut_is_in_doubt_behind_what_may_change_it() {
    let classifier = SqlClassifier::for_server("10.11.19-MariaDB");
    let is_cut = |sql: &str| {
        let tokens = classifier.tokens(sql.as_bytes(), SqlMode::default()).is_some();
        let plain = classifier.without_literals(sql.as_bytes(), SqlMode::default()).is_some();
        assert_eq!(tokens, plain, "{sql}");
        tokens
    };
    for sql in [
        r#"SET sql_mode='ANSI_QUOTES'; SELECT "name" FROM "item""#,
        r#"SET sql_mode='ANSI_QUOTES'; SELECT * FROM "secret""#,
        r"SET sql_mode='NO_BACKSLASH_ESCAPES'; SELECT 'c:\', 'card4111' -- '",
        "SELECT 1; SET @a = 1, SESSION sql_mode = @b; SELECT 2; SELECT 3",
        "SET NAMES gbk; SELECT 1",
        "SET CHARACTER SET gbk; SELECT 1",
        "SET @@session.character_set_client = gbk; SELECT 1",
        "SET STATEMENT max_statement_time = 1 FOR SET NAMES gbk; SELECT 1",
        "EXECUTE IMMEDIATE 'SET sql_mode=ANSI_QUOTES'; SELECT 1",
        "PREPARE s FROM @a; EXECUTE s; SELECT 1",
        "EXECUTE s; SELECT 1",
        "BEGIN NOT ATOMIC SET NAMES gbk; END; SELECT 1",
        "IF 1 THEN SET character_set_client = gbk; END IF; SELECT 1",
    ] {
        assert!(!is_cut(sql), "{sql}");
    }
    for sql in [
        "SET sql_mode = 'ANSI_QUOTES'",
        "SET sql_mode = 'ANSI_QUOTES'; -- and no more",
        "SELECT 1; SET NAMES gbk",
        "SET STATEMENT sql_mode = 'ANSI_QUOTES' FOR SELECT 1; SELECT 2",
        "SET @a = 1; SELECT 'x'; SELECT f()",
        "CALL p(@a); SELECT @a",
        "BEGIN NOT ATOMIC DELETE FROM t; SELECT 1; END",
    ] {
        assert!(is_cut(sql), "{sql}");
    }
    assert_eq!(plan("SET sql_mode = 'ANSI_QUOTES'; SELECT * FROM t").tables, []);
}

/// Under MariaDB's sql_mode=MSSQL, which no server tells before it reports it.
#[test]
fn a_bracket_may_begin_a_name() {
    let ansi = SqlMode { ansi_quotes: true, ..SqlMode::default() };
    for classifier in [SqlClassifier::for_server("10.11.19-MariaDB"), SqlClassifier::new()] {
        for mode in [SqlMode::default(), ansi] {
            for sql in [
                "SELECT 1 AS [']; SET tx_read_only = 0; DELETE FROM t; -- ']",
                "SELECT 1 AS [`], name FROM item -- `] FROM country",
                "SELECT 1 AS [/*], f() -- */]",
                "SELECT item.[name] FROM shop.[item]",
                "SELECT 1[x], .5[y]",
                "INSERT INTO t VALUES (1, 'a'), (2, 'b') [",
            ] {
                assert_eq!(classifier.classify(sql.as_bytes(), mode).intent, UNKNOWN, "{sql}");
                assert_eq!(classifier.tokens(sql.as_bytes(), mode), None, "{sql}");
                assert_eq!(classifier.without_literals(sql.as_bytes(), mode), None, "{sql}");
            }
            let literal = b"SELECT '[', `[` /* [ */, '$[0]' # [";
            assert_eq!(classifier.classify(literal, mode).intent, READ);
            assert!(classifier.tokens(literal, mode).is_some());
        }
    }
    assert_eq!(plan("EXECUTE IMMEDIATE 'SELECT 1 AS [x]'").intent, UNKNOWN);
}

#[test]
fn modes_and_charsets_decide_where_a_string_ends() {
    let classifier = SqlClassifier::for_server("10.11.19-MariaDB");
    let intent = |sql: &[u8], mode| classifier.classify(sql, mode).intent;
    let plain = SqlMode::default();
    let no_escapes = SqlMode { no_backslash_escapes: true, ..plain };
    let ansi = SqlMode { ansi_quotes: true, ..plain };
    let unsafe_charset = SqlMode { ascii_unsafe_charset: true, ..plain };

    let sql = br"SELECT 'a\', f(), 'b'";
    assert_eq!((intent(sql, plain), intent(sql, no_escapes)), (UNKNOWN, WRITE));
    let sql = br"SELECT 'a\\', 1";
    assert_eq!((intent(sql, plain), intent(sql, no_escapes)), (READ, READ));
    let sql = br#"SELECT "version"()"#;
    assert_eq!(intent(sql, ansi), WRITE);
    let sql = b"SELECT '\xbf\x5c'";
    assert_eq!((intent(sql, plain), intent(sql, unsafe_charset)), (UNKNOWN, UNKNOWN));
    let sql = b"SELECT '\xc3\xa4'";
    assert_eq!((intent(sql, plain), intent(sql, unsafe_charset)), (READ, UNKNOWN));
    // Letters in swe7.
    let letters = SqlMode { ascii_letters_charset: true, ..plain };
    for sql in ["SELECT ~abs(1)", "SELECT abs^(1)", "SELECT 1, {abs(1), '}'"] {
        assert_eq!(intent(sql.as_bytes(), letters), UNKNOWN, "{sql}");
    }
    assert_eq!((intent(b"SELECT ~abs(1)", plain), intent(b"SELECT abs(1)", letters)), (READ, READ));
    // A no-break space in latin1.
    assert_eq!(intent(b"SELECT * FROM t FOR\xa0UPDATE", plain), UNKNOWN);
    assert_eq!(intent("SELECT `ä`, ö FROM t".as_bytes(), plain), READ);
    assert_eq!(intent(b"SELECT 1\0", plain), UNKNOWN);
}

#[test]
fn on_mysql_double_quotes_may_be_names_without_notice() {
    let mysql = SqlClassifier::for_server("9.7.4");
    let maria = SqlClassifier::for_server("10.11.19-MariaDB");
    let intents =
        |sql: &str| [&mysql, &maria].map(|classifier| classifier.classify(sql.as_bytes(), SqlMode::default()).intent);
    assert_eq!(intents(r#"SELECT "a", "it's""#), [READ, READ]);
    assert_eq!(intents(r#"SELECT "a\"", f(), "b""#), [UNKNOWN, WRITE]);
    assert_eq!(intents(r#"SELECT "f"()"#), [UNKNOWN, READ]);
    assert_eq!(intents("SELECT MD5('a')"), [WRITE, READ]);
    assert_eq!(intents("SELECT UUID_TO_BIN('a')"), [READ, WRITE]);
    assert_eq!(intents("SELECT /*+ QB_NAME(\"a */ ' \") */ f(), 'b'"), [UNKNOWN, UNKNOWN]);
}

#[test]
fn the_server_has_the_last_word() {
    let classifier = SqlClassifier::new();
    let ask = || classifier.classify(b"SELECT * FROM view_that_writes", SqlMode::default());
    assert_eq!(ask().intent, READ);
    classifier.learn_write(ask().key);
    assert_eq!((ask().intent, ask().rule.as_ref()), (WRITE, "the server showed it to write"));
    assert_eq!(classifier.classify(b"SELECT * FROM another_view", SqlMode::default()).intent, READ);
}

#[test]
fn texts_of_one_shape_share_a_plan() {
    let classifier = SqlClassifier::new();
    let plan = |sql: &str| classifier.classify(sql.as_bytes(), SqlMode::default());
    for (one, other) in [
        ("SELECT c FROM t WHERE id=5", "select  C from T where ID = -17.5e3 /* x */ -- y"),
        ("SELECT * FROM t WHERE a IN (1)", "SELECT * FROM t WHERE a IN ('a', 2, NULL, -3, x'00', ?)"),
        ("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (1, 'a'), (NULL, 'b'), (-3, 'c')"),
        ("INSERT INTO t VALUES (1, NOW(), b)", "INSERT INTO t VALUES (2, now(), B),(3,NOW(),b)"),
    ] {
        assert!(Arc::ptr_eq(&plan(one), &plan(other)), "{one} | {other}");
    }
    for (one, other) in [
        ("SELECT a FROM t", "SELECT b FROM t"),
        ("SELECT a FROM t", "SELECT `a` FROM t"),
        ("SELECT a - b", "SELECT a + b"),
        ("SELECT now()", "SELECT now ()"),
        ("SELECT 1", "SELECT 1 /*! */"),
    ] {
        assert_ne!(plan(one).key, plan(other).key, "{one} | {other}");
    }
    let keyed = |sql: &str| SqlClassifier::new().classify(sql.as_bytes(), SqlMode::default()).key;
    assert_ne!(keyed("SELECT 1"), keyed("SELECT 1"), "the key is no secret");
}

#[test]
fn a_digest_is_the_same_everywhere() {
    let digest = |classifier: SqlClassifier, sql: &str| classifier.classify(sql.as_bytes(), SqlMode::default()).digest;
    for sql in
        ["SELECT c FROM t WHERE id = 5", "select f(C) from T where ID IN (7, 8)", "SELECT 1 /*! */", "DELETE FROM t"]
    {
        let own = digest(SqlClassifier::new(), sql);
        for version in ["10.11.19-MariaDB", "9.7.4"] {
            assert_eq!(digest(SqlClassifier::for_server(version), sql), own, "{sql}");
        }
        assert_ne!(digest(SqlClassifier::new(), "SELECT d FROM t WHERE id = 5"), own);
    }
    // Digests stand in configurations: what changes this one is told in the changelog. It is what SHA-256 makes of
    // `SELECT C FROM T WHERE ID=?`.
    assert_eq!(digest(SqlClassifier::new(), "SELECT c FROM t WHERE id = 5"), 0xaa54_3481_dda5_4d9c);
}

/// The texts that the benches time.
#[test]
fn a_hit_allocates_nothing() {
    let classifier = SqlClassifier::for_server("10.11.19-MariaDB");
    let rows = "(50, 4711, 'a long string', NULL),".repeat(100);
    let insert = format!("INSERT INTO sbtest1 (id, k, c, pad) VALUES {rows}(1, 2, 'a', 'b')");
    for sql in [
        "SELECT c FROM sbtest1 WHERE id=5012",
        "SELECT `u`.`id`, COUNT(`o`.`id`) AS `n` FROM `user` AS `u` LEFT JOIN `order` AS `o` ON `o`.`user_id` = `u`.`id`",
        &insert,
    ] {
        classifier.classify(sql.as_bytes(), SqlMode::default());
        let counted = allocation_counter::measure(|| {
            classifier.classify(sql.as_bytes(), SqlMode::default());
        });
        assert_eq!(counted.count_total, 0, "{sql}");
    }
}

/// Ten million texts, each a few bytes off the last.
#[test]
fn no_scan_of_mutated_bytes_panics() {
    const SCANS: usize = 10_000_000;
    const THREADS: usize = 2;
    const BYTES: &[u8] = b"'\"`\\/*!#-;.,()@:=?0xXeEnN\0\xa0\xff\n aF";
    std::thread::scope(|scope| {
        for seed in 0..THREADS {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed as u64);
                let scanners = [Family::MariaDb, Family::MySql9, Family::Any].map(Scanner::new);
                let mut sql = Vec::new();
                for number in 0..SCANS / THREADS {
                    if number % 16 == 0 {
                        sql = DRESSABLE[random.usize(..DRESSABLE.len())].0.replace('~', " ").into_bytes();
                    }
                    let (at, byte) = (random.usize(..=sql.len()), BYTES[random.usize(..BYTES.len())]);
                    match random.u8(..4) {
                        0 if at < sql.len() => sql[at] = byte,
                        1 if at < sql.len() => drop(sql.remove(at)),
                        2 if sql.len() > 8 => sql.truncate(at.max(8)),
                        _ => sql.insert(at, byte),
                    }
                    let mode = SqlMode {
                        no_backslash_escapes: random.bool(),
                        ansi_quotes: random.bool(),
                        ascii_unsafe_charset: random.bool(),
                        ascii_letters_charset: random.bool(),
                    };
                    let scan = scanners[number % scanners.len()].scan(&sql, mode);
                    assert_ne!(scan.key, 0);
                }
            });
        }
    });
}

#[test]
fn tables_come_with_the_plan() {
    let table = |schema: Option<&str>, table: &str| (schema.map(str::to_owned), table.to_owned());
    assert_eq!(plan("INSERT INTO shop.Item (a) VALUES (1), (2)").tables, [table(Some("shop"), "item")]);
    assert_eq!(plan("SELECT * FROM a JOIN b USING (id)").tables, [table(None, "a"), table(None, "b")]);
    assert_eq!(plan("SELECT * FROM t LOCK IN SHARE MODE").tables, []);
}

#[test]
fn long_texts_are_decided_without_reading_them_all() {
    let rows = "(1,'a'),".repeat(50_000);
    assert_eq!(plan(&format!("INSERT INTO t VALUES {rows}(1,'a')")).intent, WRITE);
    let columns: String = (0..20_000).map(|i| format!("c{i},")).collect();
    assert_eq!(plan(&format!("SELECT {columns}1")).intent, READ);
    assert_eq!(plan(&format!("SELECT {columns}f()")).intent, WRITE);
    assert_eq!(plan(&format!("SELECT {columns}1; DELETE FROM t")).intent, UNKNOWN);
    let hiding = plan(&format!("SELECT {columns}1; SET sql_log_bin = 0"));
    assert_eq!(hiding.refusal.as_ref().map(|refusal| refusal.on), EVERYWHERE);
}

/// The ways to write that are also tried on a real slave.
#[test]
fn every_disguise_is_seen_through() {
    let file = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/disguises.txt"));
    let mut seen = 0;
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        let [label, mode, sql] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("three fields: {line}") };
        let mode = SqlMode {
            no_backslash_escapes: mode == "NO_BACKSLASH_ESCAPES",
            ansi_quotes: matches!(mode, "ANSI_QUOTES" | "MSSQL" | "ORACLE"),
            ..SqlMode::default()
        };
        for classifier in [SqlClassifier::for_server("10.11.19-MariaDB"), SqlClassifier::new()] {
            let plan = classifier.classify(sql.replace('⏎', "\n").as_bytes(), mode);
            assert!(is_refused_on_slave(&plan), "{label}: {sql} is taken for {} ({})", plan.intent, plan.rule);
        }
        seen += 1;
    }
    assert!(seen >= 300, "{seen} disguises");
}

/// Words, literals and signs of statements whose intent is known. `~` parts tokens that space may part.
const DRESSABLE: &[(&str, bool)] = &[
    ("SELECT~a~,~b~FROM~t~WHERE~id~=~5~AND~name~=~'x'~ORDER~BY~a", false),
    ("SELECT~COUNT(~*~)~FROM~t~WHERE~a~IN~(~1~,~2~)", false),
    ("SHOW~TABLES~LIKE~'x'", false),
    ("EXPLAIN~SELECT~a~FROM~t", false),
    ("START~TRANSACTION~READ~ONLY", false),
    ("DELETE~FROM~t~WHERE~id~=~5", true),
    ("SELECT~f(~1~)~,~'x'", true),
    ("SELECT~'x'~;~UPDATE~t~SET~a~=~5", true),
    ("SELECT~a~FROM~t~WHERE~b~=~'x'~FOR~UPDATE", true),
    ("SELECT~NEXT~VALUE~FOR~s", true),
    ("SELECT~a~INTO~OUTFILE~'x'~FROM~t", true),
    ("SET~SESSION~TRANSACTION~READ~WRITE", true),
    ("SET~@~a~=~5~,~tx_read_only~=~0", true),
    ("WITH~x~AS~(~SELECT~5~)~DELETE~FROM~t", true),
    ("SELECT~(~SELECT~`f`~(~'x'~)~)", true),
    ("WITH~x~AS~(~SELECT~5~)~,~y~(~a~)~AS~(~SELECT~5~)~SELECT~a~FROM~y", false),
    ("WITH~x~AS~(~SELECT~5~)~,~y~(~a~)~AS~(~SELECT~f~(~5~)~)~SELECT~a~FROM~y", true),
    ("SELECT~a~FROM~JSON_TABLE~(~'x'~,~'$'~COLUMNS~(~a~INT~PATH~'x'~)~)~AS~b", false),
    ("SELECT~a~FROM~t~WHERE~MATCH~a~AGAINST~(~'x'~)", false),
    ("SELECT~AGAINST~(~'x'~)", true),
    ("INSERT~INTO~t~VALUES~(~5~,~'x'~)~,~(~1~,~'x'~)", true),
    ("SELECT~a~FROM~t~WHERE~(~a~,~b~)~IN~(~(~5~,~'x'~)~,~(~1~,~'x'~)~)", false),
    ("UPDATE~t~SET~a~=~5~WHERE~b~IN~(~'x'~,~'x'~)", true),
    ("SELECT~a~FROM~t~LOCK~IN~SHARE~MODE", true),
    ("EXPLAIN~SELECT~a~FROM~(~SELECT~d~.~f~(~)~)~AS~b", true),
    ("CREATE~TEMPORARY~TABLE~x~(~a~INT~)", true),
    ("CALL~p~(~5~)", true),
    ("SET~GLOBAL~a~=~5", true),
    ("SET~NAMES~'x'", false),
    ("DO~5~,~'x'", false),
];

/// Space and comments, none of which means anything.
fn gap() -> impl Strategy<Value = String> {
    let one = prop_oneof![
        Just(" ".to_owned()),
        Just("\t\r\n".to_owned()),
        "/\\*[ a-z';(`\"#-]{0,8}\\*/",
        "#[ a-z';(`\"*/-]{0,8}\n",
        "-- [ a-z';(`\"*/#]{0,8}\n",
    ];
    prop::collection::vec(one, 1..3).prop_map(|gaps| gaps.concat())
}

fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,9}",
        "[0-9]{1,3}\\.[0-9]{1,3}",
        "[0-9]{1,3}e[0-9]",
        "0x[0-9a-f]{2,6}",
        "[xX]'([0-9a-f]{2}){0,3}'",
        "[nN]'[a-zäß€;( ]{0,9}'",
        "'[äöüßéà€漢字;(]{0,9}'",
        "'([a-z;(#` -]|''|\\\\'|\\\\\\\\|\"){0,9}'",
        "\"([a-z;(#` -]|\"\"|\\\\\"|\\\\\\\\|'){0,9}\"",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_dressing_up_changes_class_or_digest(
        (which, gaps, literals, cases) in (
            0..DRESSABLE.len(),
            prop::collection::vec(gap(), 40),
            prop::collection::vec(literal(), 40),
            prop::collection::vec(any::<bool>(), 40),
        )
    ) {
        let classifier = SqlClassifier::for_server("10.11.19-MariaDB");
        let ask = |sql: &str| classifier.classify(sql.as_bytes(), SqlMode::default());
        let (sql, refused) = DRESSABLE[which];
        let mut dressed = gaps[0].clone();
        for (at, token) in sql.split('~').enumerate() {
            match token {
                "'x'" | "5" | "0" | "1" | "2" => dressed += &literals[at],
                _ if cases[at] => dressed += &token.to_lowercase(),
                _ => dressed += token,
            }
            // A user variable is one token.
            if token != "@" {
                dressed += &gaps[at + 1];
            }
        }
        let plain = ask(&sql.replace("@~", "@").replace('~', " "));
        let plan = ask(&dressed);
        prop_assert_eq!(is_refused_on_slave(&plan), refused, "{} ({})", dressed, plan.rule);
        prop_assert_eq!(plan.digest, plain.digest, "{}", dressed);
    }

    #[test]
    fn nothing_panics_on_mutated_bytes(
        which in 0..DRESSABLE.len(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
        flags in any::<[bool; 3]>(),
    ) {
        let mut sql = DRESSABLE[which].0.replace('~', " ").into_bytes();
        for (at, byte, how) in cuts {
            let at = at.index(sql.len() + 1);
            match how {
                0 => sql.insert(at, byte),
                1 => sql.truncate(at),
                2 => sql.splice(at..at, *b"/*!").for_each(drop),
                _ => sql.splice(at..at, [b"'\"`\\("[byte as usize % 5]]).for_each(drop),
            }
        }
        let mode = SqlMode { no_backslash_escapes: flags[0], ansi_quotes: flags[1], ascii_unsafe_charset: flags[2], ..SqlMode::default() };
        SqlClassifier::new().classify(&sql, mode);
    }

    #[test]
    fn nothing_panics_on_noise(sql in prop::collection::vec(any::<u8>(), 0..300), ansi_quotes in any::<bool>()) {
        SqlClassifier::new().classify(&sql, SqlMode { ansi_quotes, ..SqlMode::default() });
    }
}

#[test]
fn no_text_is_too_deep_for_the_stack() {
    let classifier = SqlClassifier::new();
    for (begin, deeper) in [
        ("SELECT * FROM a", " JOIN a"),
        ("SELECT * FROM a", " LEFT JOIN a"),
        ("DELETE a FROM a", " JOIN a"),
        ("SELECT * FROM ", "(a JOIN "),
        ("SELECT ", "("),
        ("SELECT ", "NOT "),
        ("SELECT ", "CASE WHEN "),
        ("SELECT ", "EXISTS(SELECT "),
        ("SELECT a", " OR a"),
        ("SELECT 1", " UNION SELECT 1"),
        ("", "EXPLAIN "),
        ("", "SET STATEMENT a=1 FOR "),
    ] {
        for bytes in [super::parse::TEMPLATE_BYTES_MAX - 100, 200_000] {
            let text = [begin, &deeper.repeat(bytes / deeper.len())].concat();
            // On a stack like that of a thread which serves clients. An overflow ends the process.
            std::thread::scope(|scope| {
                let classify = || classifier.classify(text.as_bytes(), SqlMode::default()).intent;
                let worker = std::thread::Builder::new().stack_size(2 << 20);
                worker.spawn_scoped(scope, classify).unwrap().join().unwrap();
            });
        }
    }
}

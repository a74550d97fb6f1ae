//! What statements become.

use serde_json::json;
use towline_middleware::{Front, Role, testing::conformance};

use super::*;
use crate::{classify::SqlClassifier, layers::tests::setup};

fn options() -> serde_json::Value {
    json!({
        "tables": ["shop.item", "shop.line", "u.item"],
        "shared": ["shop.country"],
        "except": ["admin"],
        "tenant": [{"user": "acme", "value": "acme"}, {"user": "own", "schema": "own"}],
    })
}

fn session(user: &str, schema: &str) -> Arc<Session> {
    let session =
        Session::new(Front::MySql, Role::Master, None, Arc::new(SqlClassifier::for_server("10.11.6-MariaDB")));
    session.set_user(user);
    session.set_schema(schema);
    Arc::new(session)
}

/// What a tenant's statement becomes, or why it is refused.
fn rewritten(user: &str, schema: &str, sql: &str) -> Result<String, String> {
    let tenants = Tenants::new(&setup("tenant", options())).unwrap();
    let refused = setup("tenant", json!({})).counter("refused", "", &[]);
    let tenant = Tenant { tenants, number: 1, refused };
    let owner = tenant.tenants.owner(user).unwrap();
    let (sql, _) = tenant
        .rewrite(&Bytes::copy_from_slice(sql.as_bytes()), owner, &session(user, schema))
        .map_err(|refusal| refusal.to_string())?;
    Ok(String::from_utf8(sql).unwrap())
}

#[tokio::test]
async fn it_conforms() {
    for user in ["acme", "app"] {
        let options = json!({"tables": ["shop.item"], "except": [user], "tenant": [{"user": "b", "value": 7}]});
        conformance(|| layer(&mut setup("tenant", options.clone())).unwrap()).await;
    }
}

#[test]
fn statements_become_those_of_one_tenant() {
    const T: &str = "`tenant_id` = 'acme'";
    for (sql, wanted) in [
        ("SELECT 1", "SELECT 1".to_owned()),
        ("SELECT * FROM item", format!("SELECT * FROM item WHERE item.{T}")),
        ("SELECT * FROM item -- all", format!("SELECT * FROM item WHERE item.{T} -- all")),
        ("SELECT * FROM shop.item WHERE id = 1 OR 1 = 1;", {
            format!("SELECT * FROM shop.item WHERE shop.item.{T} AND (id = 1 OR 1 = 1);")
        }),
        ("SELECT name FROM `Item` AS `i` WHERE id=? ORDER BY name + 0 LIMIT 2 FOR UPDATE", {
            format!("SELECT name FROM `Item` AS `i` WHERE `i`.{T} AND (id=?) ORDER BY name + 0 LIMIT 2 FOR UPDATE")
        }),
        ("SELECT i.id FROM item i, line l WHERE i.id = l.item", {
            format!("SELECT i.id FROM item i, line l WHERE i.{T} AND l.{T} AND (i.id = l.item)")
        }),
        ("SELECT i.id FROM country c LEFT JOIN shop.item i USING (id) WHERE shop.item.id IS NULL", {
            let item = format!("(SELECT * FROM shop.item WHERE {T})");
            format!("SELECT i.id FROM country c LEFT JOIN {item} i USING (id) WHERE item.id IS NULL")
        }),
        ("SELECT id FROM item WHERE UPPER(name) + 1 = 2", {
            let item = format!("(SELECT * FROM item WHERE {T} LIMIT 18446744073709551615) AS item");
            format!("SELECT id FROM {item} WHERE UPPER(name) + 1 = 2")
        }),
        ("SELECT id FROM line WHERE item IN (SELECT id FROM item) UNION SELECT id FROM item", {
            format!(
                "SELECT id FROM line WHERE line.{T} AND (item IN (SELECT id FROM item WHERE item.{T})) UNION \
                 SELECT id FROM item WHERE item.{T}"
            )
        }),
        ("WITH x AS (SELECT id FROM item) SELECT * FROM x", {
            format!("WITH x AS (SELECT id FROM item WHERE item.{T}) SELECT * FROM x")
        }),
        ("SELECT 1 FROM country window, item WHERE 1", {
            format!("SELECT 1 FROM country window, item WHERE item.{T} AND (1)")
        }),
        ("SELECT 1 FROM country intersect, item", format!("SELECT 1 FROM country intersect, item WHERE item.{T}")),
        ("SELECT EXTRACT(YEAR FROM d), TRIM(LEADING 'x' FROM n) FROM country", {
            "SELECT EXTRACT(YEAR FROM d), TRIM(LEADING 'x' FROM n) FROM country".to_owned()
        }),
        ("UPDATE item SET n = n + 1 WHERE id = 1", format!("UPDATE item SET n = n + 1 WHERE item.{T} AND (id = 1)")),
        ("UPDATE item i JOIN line l ON l.item = i.id SET i.n = 1", {
            format!("UPDATE item i JOIN line l ON l.item = i.id SET i.n = 1 WHERE i.{T} AND l.{T}")
        }),
        ("UPDATE item SET n = 1 WHERE n + 1 = 2 LIMIT 1", {
            let bounds = "item.`tenant_id` >= 'acme' AND item.`tenant_id` <= 'acme'";
            format!("UPDATE item SET n = 1 WHERE {bounds} AND IF(item.{T}, (n + 1 = 2), FALSE) LIMIT 1")
        }),
        ("DELETE FROM item", format!("DELETE FROM item WHERE item.{T}")),
        ("DELETE i FROM item i JOIN country c ON c.id = i.id", {
            format!("DELETE i FROM item i JOIN country c ON c.id = i.id WHERE i.{T}")
        }),
        ("INSERT INTO item (id, name) VALUES (1, 'a'), (2, NOW())", {
            "INSERT INTO item (`tenant_id`, id, name) VALUES ('acme', 1, 'a'), ('acme', 2, NOW())".to_owned()
        }),
        ("INSERT INTO item (id) VALUES (1) ON DUPLICATE KEY UPDATE n = 1 RETURNING id, (SELECT MAX(n) FROM line)", {
            format!(
                "INSERT INTO item (`tenant_id`, id) VALUES ('acme', 1) ON DUPLICATE KEY UPDATE n = 1 RETURNING id, (SELECT \
                 MAX(n) FROM line WHERE line.{T})"
            )
        }),
        ("INSERT item SET id = 1, n = IF(1, tenant_id = 'acme', 0) RETURNING tenant_id = 'acme'", {
            "INSERT item SET `tenant_id` = 'acme', id = 1, n = IF(1, tenant_id = 'acme', 0) RETURNING tenant_id = 'acme'"
                .to_owned()
        }),
        ("SELECT item.* FROM country JOIN (SELECT 1 AS duplicate) d ON duplicate, item", {
            format!("SELECT item.* FROM country JOIN (SELECT 1 AS duplicate) d ON duplicate, item WHERE item.{T}")
        }),
        ("SELECT shop.item.id FROM item, u.item", {
            format!("SELECT shop.item.id FROM item, u.item WHERE `shop`.item.{T} AND u.item.{T}")
        }),
        ("SELECT item.* FROM (SELECT 1) intersect (a), item", {
            format!("SELECT item.* FROM (SELECT 1) intersect (a), item WHERE item.{T}")
        }),
        ("WITH x AS (SELECT 1) DELETE FROM item WHERE id IN (SELECT * FROM x)", {
            format!("WITH x AS (SELECT 1) DELETE FROM item WHERE item.{T} AND (id IN (SELECT * FROM x))")
        }),
        ("INSERT INTO item () VALUES ()", "INSERT INTO item (`tenant_id`) VALUES ('acme')".to_owned()),
        ("INSERT INTO item (tenant_id, id) VALUES ('acme', 1)", {
            "INSERT INTO item (tenant_id, id) VALUES ('acme', 1)".to_owned()
        }),
        ("INSERT item SET id = 1", "INSERT item SET `tenant_id` = 'acme', id = 1".to_owned()),
        ("INSERT INTO item (id) SELECT DISTINCT item FROM line ON DUPLICATE KEY UPDATE n = 1", {
            format!(
                "INSERT INTO item (`tenant_id`, id) SELECT DISTINCT 'acme', item FROM line WHERE line.{T} \
                 ON DUPLICATE KEY UPDATE n = 1"
            )
        }),
        ("INSERT INTO item (id) SELECT id FROM country ORDER BY FIELD(id, 3, 1), id LIMIT 2, 3", {
            "INSERT INTO item (`tenant_id`, id) SELECT 'acme', id FROM country ORDER BY FIELD(id, 3, 1), id LIMIT 2, 3"
                .to_owned()
        }),
        ("SET @a = (SELECT MAX(id) FROM item)", {
            let item = format!("(SELECT * FROM item WHERE {T} LIMIT 18446744073709551615) AS item");
            format!("SET @a = (SELECT MAX(id) FROM {item})")
        }),
        ("START TRANSACTION READ ONLY", "START TRANSACTION READ ONLY".to_owned()),
        ("SHOW CREATE TABLE item", "SHOW CREATE TABLE item".to_owned()),
        ("SHOW FULL TABLES", "SHOW FULL TABLES".to_owned()),
        ("DESCRIBE shop.item name", "DESCRIBE shop.item name".to_owned()),
        ("SET NAMES latin1, SESSION a = 1, @@session.b = 2, @c := (1, 2)", {
            "SET NAMES latin1, SESSION a = 1, @@session.b = 2, @c := (1, 2)".to_owned()
        }),
    ] {
        assert_eq!(rewritten("acme", "shop", sql).as_deref(), Ok(&*wanted), "{sql}");
    }
    // By schema: the name is made whole, and nothing else is reached.
    assert_eq!(rewritten("own", "shop", "SELECT a FROM t x"), Ok("SELECT a FROM `own`.t x".to_owned()));
    assert_eq!(rewritten("own", "own", "SELECT a FROM t x"), Ok("SELECT a FROM t x".to_owned()));
    assert!(rewritten("own", "own", "SELECT a FROM shop.item").is_err());
    assert!(rewritten("own", "own", "USE shop").is_err());
}

#[test]
fn what_is_not_known_is_refused() {
    for sql in [
        "SELECT * FROM other",
        "SELECT * FROM item; SELECT 1",
        "SELECT * FROM item /*! WHERE 1 */",
        "SELECT * FROM item WHERE id = 1) OR (1 = 1",
        "SELECT * FROM item WHERE 'a",
        "SELECT * FROM (WITH v AS (SELECT 1) SELECT * FROM v) q JOIN v",
        "WITH v AS (SELECT * FROM v) SELECT 1",
        "WITH V AS (SELECT 1) SELECT * FROM v",
        "SELECT * FROM country minus SELECT * FROM item",
        "SELECT * FROM { OJ item LEFT JOIN country ON 1 }",
        "SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (a INT PATH '$')) t",
        "SELECT * FROM item FOR SYSTEM_TIME ALL",
        "SELECT * FROM ((SELECT 1) a JOIN item)",
        "SELECT leak()",
        "SELECT shop.leak()",
        "SELECT `leak`()",
        "TABLE item",
        "SELECT 1 UNION TABLE item",
        "VALUES (1)",
        "HANDLER item OPEN",
        "CALL p()",
        "EXPLAIN SELECT * FROM item",
        "EXPLAIN item WHERE 1",
        "SHOW WARNINGS",
        "SHOW BINLOG EVENTS",
        "SHOW TABLES WHERE (SELECT COUNT(*) FROM item)",
        "SELECT * FROM information_schema.optimizer_trace",
        "SELECT * FROM information_schema.column_statistics",
        "SELECT * FROM performance_schema.events_statements_history",
        "LOAD DATA INFILE 'x' INTO TABLE item",
        "PREPARE s FROM 'SELECT * FROM item'",
        "EXECUTE IMMEDIATE 'SELECT * FROM item'",
        "TRUNCATE item",
        "CREATE TABLE x AS SELECT * FROM item",
        "BEGIN NOT ATOMIC SELECT 1",
        "START SLAVE",
        "START REPLICA",
        "START",
        "INSERT INTO item (name, id, tenant_id) VALUES (:a, 50, ?)",
        "UPDATE item SET n = : \"a\", tenant_id = ?",
        "REPLACE INTO item (id, tenant_id) VALUES (:1, ?)",
        "SET STATEMENT max_statement_time = 1 FOR SELECT * FROM item",
        "UPDATE item SET tenant_id = 'b'",
        "UPDATE item SET n = 1, shop.item.`TENANT_ID` = 'b' WHERE id = 1",
        "UPDATE item SET tenant_id = CONCAT('ac', 'me')",
        "UPDATE item SET tenant_id = 'acme' || 'b'",
        "UPDATE item i LEFT JOIN line l ON l.item = i.id SET i.n = 1",
        "UPDATE item i JOIN line l ON l.item + 1 = i.id SET i.n = 1",
        "UPDATE other SET n = 1",
        "DELETE i FROM item i LEFT JOIN line l ON l.item = i.id",
        "DELETE HISTORY FROM other",
        "INSERT INTO country ((SELECT id, name FROM item))",
        "INSERT INTO country (TABLE item)",
        "INSERT INTO country (id name)",
        "SELECT 1 FROM country JOIN item USING (SELECT 1)",
        "SHOW FULL PROCESSLIST",
        "SHOW GLOBAL STATUS",
        "SHOW STATUS LIKE 'Handler%'",
        "SHOW CREATE USER CURRENT_USER()",
        "SHOW GRANTS FOR admin",
        "SHOW TABLES WHERE EXISTS (TABLE item LIMIT 1)",
        "SELECT * FROM information_schema.session_status",
        "SELECT @@warning_count",
        "SELECT @@session.`error_count`",
        "SELECT id FROM item LIMIT ROWS EXAMINED 2",
        "SELECT /*+ SET_VAR(max_join_size = 2) */ id FROM item",
        "SET GLOBAL max_connections = 1",
        "SET @a = 1, @@global.max_connections = 1",
        "SET PERSIST max_connections = 1",
        "SET @@persist_only.max_connections = 1",
        "SET PASSWORD = 'x'",
        "SET DEFAULT ROLE a FOR b",
        "SET RESOURCE GROUP a",
        "SET SESSION AUTHORIZATION b",
        "SET autocommit = 1, SESSION max_join_size = 2",
        "SET sql_big_selects = 0",
        "SELECT LOAD_FILE('/etc/passwd')",
        "SELECT name INTO OUTFILE '/tmp/x' FROM item",
        "SELECT name FROM item INTO DUMPFILE '/tmp/x'",
        "SELECT NEXT VALUE FOR s",
        "SELECT PREVIOUS VALUE FOR s",
        "SELECT s.nextval",
        "SELECT LASTVAL(s)",
        "EXPLAIN DELETE FROM item",
        "EXPLAIN PARTITIONS DELETE FROM item",
        "SELECT * FROM `dual`",
        "WITH item AS (SELECT 1) UPDATE item SET n = 1",
        "WITH item AS (SELECT 1) DELETE FROM item",
        "SELECT id FROM item FORCE INDEX FOR ORDER BY (name) JOIN country ON item.n + 1 = 2",
        "INSERT INTO item (id, n) SELECT id, item FROM line ORDER BY 2",
        "INSERT INTO item (id, n) SELECT id, item FROM line GROUP BY id, (2)",
        "INSERT INTO item (id) VALUES (1) ON DUPLICATE KEY UPDATE n = returning, tenant_id = 'b'",
        "INSERT INTO item (id) VALUES (1) ON DUPLICATE KEY UPDATE n = 1 RETURNING id LIMIT 1",
        "INSERT INTO item VALUES (1, 'b')",
        "INSERT INTO item (id, tenant_id) VALUES (1, 'acme'), (2, 'b')",
        "INSERT INTO item (id, tenant_id) VALUES (1, 'acme' 'b')",
        "INSERT INTO item (tenant_id, tenant_id) VALUES ('acme', 'b')",
        "INSERT INTO item (id) SELECT * FROM line",
        "INSERT INTO item (id) SELECT id FROM line UNION SELECT id FROM line",
        "INSERT INTO item (id) VALUES (1) ON DUPLICATE KEY UPDATE tenant_id = 'b'",
        "INSERT INTO item SET id = 1, tenant_id = 'b'",
        "SELECT id FROM item PARTITION (p) WHERE n + 1 = 2",
        "SELECT id FROM item WHERE n + 1 = 2 FOR UPDATE",
        "FROBNICATE item",
    ] {
        assert!(rewritten("acme", "shop", sql).is_err(), "{sql}: {:?}", rewritten("acme", "shop", sql));
    }
}

#[test]
fn how_deep_parentheses_stand_is_bounded() {
    for begin in ["SELECT ", "SELECT * FROM ", "SELECT 1 FROM country WHERE 1 IN "] {
        let nested = |depth| format!("{begin}{}1{}", "(".repeat(depth), ")".repeat(depth));
        let refused = rewritten("acme", "shop", &nested(100_000)).unwrap_err();
        assert!(refused.contains("more than 100") && refused.contains("leave out"), "{refused}");
        assert!(rewritten("acme", "shop", &nested(101)).unwrap_err().contains("more than 100"));
    }
    let query = "(SELECT * FROM ".repeat(100) + "country" + &") x".repeat(100);
    assert!(rewritten("acme", "shop", &format!("SELECT * FROM {query}")).is_ok());
}

#[test]
fn names_are_read_as_a_server_reads_them() {
    let options = json!({"column": "tenantid", "tables": ["shop.item"], "tenant": [{"user": "a", "value": 7}]});
    let tenants = Tenants::new(&setup("tenant", options)).unwrap();
    for name in ["tenantid", "TenantId ", "tenant\u{ed}d"] {
        assert!(tenants.is_column(name.as_bytes()), "{name}");
    }
    // What is no UTF-8 can't be put into the text again.
    let tenants = Tenants::new(&setup("tenant", self::options())).unwrap();
    let refused = setup("tenant", json!({})).counter("refused", "", &[]);
    let tenant = Tenant { tenants, number: 1, refused };
    let sql = Bytes::from_static(b"SELECT \xe9.* FROM item \xe9, item \xef\xbf\xbd");
    let owner = tenant.tenants.owner("acme").unwrap();
    assert!(tenant.rewrite(&sql, owner, &session("acme", "shop")).is_err());
}

#[test]
fn options_that_can_not_keep_tenants_apart_are_told() {
    for (options, wanted) in [
        (json!({"tenant": [{"user": "a", "value": "x"}, {"user": "b", "value": "X"}]}), "the same to a column"),
        (json!({"tenant": [{"user": "a", "value": 7}, {"user": "b", "value": "07.0"}]}), "the same to a column"),
        (json!({"tenant": [{"user": "a", "value": "x' OR ''='"}]}), "more than letters"),
        (json!({"tenant": [{"user": "a"}]}), "either `value` or `schema`"),
        (json!({"tenant": [{"user": "a", "value": 1}, {"user": "a", "value": 2}]}), "twice"),
        (json!({"tables": ["item"], "tenant": []}), "`schema.table`"),
        (json!({"column": "a b", "tenant": []}), "`column`"),
    ] {
        let Err(error) = layer(&mut setup("tenant", options.clone())) else { panic!("{options} was taken") };
        assert!(error.to_string().contains(wanted), "{error}");
    }
}
